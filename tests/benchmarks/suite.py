"""Everything that docs/explanation/performance.md says, measured: one section after the other, each also alone.

::

    make bench                                # all of it, under 20 minutes, then the page is written anew
    make bench QUICK=1                        # two minutes, to see where one is
    make bench ARGS="--only=turns --sessions=1,100 --rounds=3"

The full run writes docs/explanation/performance.json and the page; a quick or a partial one writes build/bench.json,
and `--save` puts what a partial run has measured into the page's file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from tests.benchmarks import bar, turns
from tests.benchmarks.processes import machine

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "docs" / "explanation" / "performance.json"
SCRATCH: Final = ROOT / "build" / "bench.json"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    sessions: tuple[int, ...]
    rounds: int
    round_s: float
    quick: bool


FULL: Final = Size((1, 100, 1_000), 5, 1.5, quick=False)
QUICK: Final = Size((1, 100, 1_000), 1, 0.7, quick=True)

Section = Callable[[Size, Tell], Coroutine[Any, Any, Any]]


async def _turns(size: Size, tell: Tell) -> dict[str, Any]:
    return await turns.measure(size.sessions, size.rounds, size.round_s, tell)


SECTIONS: Final[dict[str, Section]] = {"turns": _turns}
"""What can be measured, in order; `--only` takes these names."""


def run(names: list[str], size: Size, tell: Tell) -> dict[str, Any]:
    """Measure sections, each in an event loop of its own; return what they say, with the machine they ran on."""
    found: dict[str, Any] = {}
    began = time.monotonic()
    for number, name in enumerate(names, 1):

        def say(what: str, name: str = name, number: int = number) -> None:
            tell(f"[{number}/{len(names)}, {time.monotonic() - began:4.0f} s] {name}: {what}")

        about = machine()
        say("begins")
        found[name] = uvloop.run(SECTIONS[name](size, say))
        load = [round(each, 2) for each in os.getloadavg()]
        found.setdefault("runs", {})[name] = {"machine": about, "load_average_after": load, "quick": size.quick}
    return found


def merge(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Put what was measured into a file, beside what other sections have there; return the whole."""
    whole: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    runs = {**whole.get("runs", {}), **found["runs"]}
    whole = {**whole, **found, "runs": runs}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    return whole


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of twenty")
    parser.add_argument("--save", action="store_true", help=f"write to {KEPT.relative_to(ROOT)}, also from a part")
    parser.add_argument("--sessions", help="numbers of concurrent calls (default: 1,100,1000)")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (default: 5)")
    parser.add_argument("--round-s", type=float, help="seconds of a round (default: 1.5)")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return chosen


def size_of(chosen: argparse.Namespace) -> Size:
    """Return how much to measure."""
    base = QUICK if chosen.quick else FULL
    sessions = tuple(int(count) for count in chosen.sessions.split(",")) if chosen.sessions else base.sessions
    return Size(sessions, chosen.rounds or base.rounds, chosen.round_s or base.round_s, base.quick)


def main() -> None:
    """Measure, write the JSON, print the bar."""
    chosen = options()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names, size = chosen.only.split(","), size_of(chosen)
    found = run(names, size, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - its progress
    whole = names == list(SECTIONS) and size == FULL
    file = KEPT if whole or chosen.save else SCRATCH
    text = bar.table(merge(file, found))
    sys.stdout.write(f"\n{text}\n\nwritten: {file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
