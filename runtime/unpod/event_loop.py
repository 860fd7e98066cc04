"""The event loop of a process: uvloop's where it is installed (the extra `fast`), else asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_new_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_loop
except ImportError:  # an extra, and there is none for Windows or PyPy
    _new_loop = None

T = TypeVar("T")


def new_runner() -> asyncio.Runner:
    """Return what runs coroutines on such a loop, as a context manager."""
    return asyncio.Runner(loop_factory=_new_loop)


def run_main(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in this thread, as `asyncio.run` does, and return its result."""
    with new_runner() as runner:
        return runner.run(work)
