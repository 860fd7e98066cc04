"""Everything that docs/explanation/performance.md says, measured: one section after the other, each also alone.

::

    make bench                                # all of it, under 12 minutes, then the page is written anew
    make bench QUICK=1                        # two minutes, to see where one is
    make bench ARGS="--only=turns --sessions=1,100 --rounds=3"

The full run writes docs/explanation/performance.json and the page; a quick or a partial one writes build/bench.json,
and `--save` puts what a partial run has measured into the page's file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvloop
from tests.benchmarks import bar, dispatch, page, pure, replay, scale, takeover, turns
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
QUICK: Final = Size((1, 100, 1_000), 1, 0.6, quick=True)

Section = Callable[[Size, Tell], Coroutine[Any, Any, Any]]


async def _turns(size: Size, tell: Tell) -> dict[str, Any]:
    return await turns.measure(size.sessions, size.rounds, size.round_s, tell, flushed=not size.quick)


async def _pure(size: Size, tell: Tell) -> dict[str, Any]:
    tell("the fold and the codec")
    return pure.measure(turns=200, rounds=size.rounds * 3)


async def _replay(size: Size, tell: Tell) -> list[dict[str, Any]]:
    sizes, others = ((100, 1_000, 10_000), (300_000,)) if size.quick else REPLAYS
    return await replay.measure(sizes, others, size.rounds, tell)


async def _dispatch(size: Size, tell: Tell) -> list[dict[str, Any]]:
    return await dispatch.measure(50, size.rounds * 2, tell)


async def _takeover(size: Size, tell: Tell) -> list[dict[str, Any]]:
    return await takeover.measure((1, 50) if size.quick else (1, 50, 500), size.rounds, tell)


async def _scale(size: Size, tell: Tell) -> dict[str, Any]:
    if size.quick:
        return await scale.measure((10, 100), (100,), size.round_s, tell)
    return await scale.measure((10, 100, 1_000, 10_000), (500, 1_000, 2_000), 10.0, tell)


async def _consumers(size: Size, tell: Tell) -> Any:  # noqa: ANN401 - whatever it prints as JSON
    if find_spec("tests.benchmarks.consumers") is None:
        tell("there is no tests/benchmarks/consumers.py")
        return {}
    tell("each consumer, in processes of its own")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.benchmarks.consumers", "--json"),
        *(("--calls=100", "--records=10000", "--seconds=4") if size.quick else ()),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"the consumers' benchmark has failed ({child.returncode})")
    return json.loads(printed)


REPLAYS: Final = ((100, 1_000, 10_000, 100_000), (1_000_000, 10_000_000))
"""Records of a call, and of others in the same stream."""

SECTIONS: Final[dict[str, Section]] = {
    "turns": _turns,
    "pure": _pure,
    "replay": _replay,
    "dispatch": _dispatch,
    "takeover": _takeover,
    "scale": _scale,
    "consumers": _consumers,
}
"""What can be measured, in order; `--only` takes these names."""


def run(names: list[str], size: Size, file: Path, tell: Tell) -> list[str]:
    """Measure sections, each in an event loop of its own, and write what each says; return the names that failed."""
    began = time.monotonic()
    failed: list[str] = []
    for number, name in enumerate(names, 1):

        def say(what: str, name: str = name, number: int = number) -> None:
            tell(f"[{number}/{len(names)}, {time.monotonic() - began:4.0f} s] {name}: {what}")

        about = machine()
        try:
            found = uvloop.run(SECTIONS[name](size, say))
        except Exception as error:  # noqa: BLE001 - the other sections are worth their minutes
            say(f"failed: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        load = [round(each, 2) for each in os.getloadavg()]
        merge(file, name, found, {"machine": about, "load_average_after": load, "quick": size.quick})
    return failed


def kept(file: Path) -> dict[str, Any]:
    """Return what a file has."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def merge(file: Path, name: str, found: object, about: dict[str, Any]) -> None:
    """Put what a section has measured into a file, beside what other sections have there."""
    whole = kept(file)
    whole[name] = found
    whole["runs"] = {**whole.get("runs", {}), name: about}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of twelve")
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
    whole = names == list(SECTIONS) and size == FULL
    file = KEPT if whole or chosen.save else SCRATCH
    failed = run(names, size, file, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - its progress
    found = kept(file)
    if file == KEPT:
        page.write(found)
    sys.stdout.write(f"\n{bar.table(found)}\n\nwritten: {file.relative_to(ROOT)}\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
