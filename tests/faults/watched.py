"""`python -m tests.faults.watched`: another module, which tells on SIGUSR2 how much of everything it holds.

It writes one JSON object to `<UNPOD_FAULTS_WATCH>.<pid>`: how many `objects` of each class of ours there are, without
a collection of what refers to itself, and after one how many `tasks`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import runpy
import signal
from collections import Counter
from pathlib import Path

OURS = ("unpod", "tests.")


def figures() -> dict[str, object]:
    """Return what there is."""
    kinds = Counter(kind.__qualname__ for kind in map(type, gc.get_objects()) if _is_ours(kind.__module__))
    gc.collect()
    tasks = sum(isinstance(each, asyncio.Task) and not each.done() for each in gc.get_objects())
    return {"tasks": tasks, "objects": dict(kinds)}


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith(OURS)


def _tell(*_: object) -> None:
    file = Path(f"{os.environ['UNPOD_FAULTS_WATCH']}.{os.getpid()}")
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(figures()))
    fresh.rename(file)


def main() -> None:
    """Listen for the signal, and run the module."""
    signal.signal(signal.SIGUSR2, _tell)
    runpy.run_module(os.environ["UNPOD_FAULTS_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
