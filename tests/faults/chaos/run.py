"""`make chaos`: callers talk, and real processes are killed, stopped, and cut off from each other, all by one seed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.chaos.plan import Strength, chosen, names, plan
from tests.faults.chaos.play import Options, Outcome, play

SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Play it; return 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="what everything follows from")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="of NATS")
    parser.add_argument("--only", default="", help=f"these faults only, by kind or by name: {', '.join(names(3))}")
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=3, help="how many faults may overlap")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and end")
    parser.add_argument("--dumps", type=Path, default=None, help="where to write calls that failed")
    given = parser.parse_args(argv)
    only = frozenset(filter(None, given.only.split(",")))
    try:
        chosen(only, given.nodes)
    except ValueError as error:
        parser.error(str(error))
    strength = Strength(nodes=given.nodes, only=only, at_once=given.at_once)
    options = Options(seed=given.seed, minutes=given.minutes, callers=given.callers, strength=strength)
    if given.plan:
        for fault in plan(options.seed, 60.0 * options.minutes, strength):
            _say(f"{fault.at_s:7.2f} s: {fault.name} {fault.slot}, {fault.lasts_s:g} s")
        return 0
    _say(f"playing `{options.again}`")
    directory = given.dumps or Path(tempfile.mkdtemp(prefix=f"unpod-chaos-{options.seed}-"))
    outcome = asyncio.run(play(options, directory))
    _say(report(outcome))
    return 1 if outcome.findings else 0


def report(outcome: Outcome) -> str:
    """Return what came of a run, and how to run it again where it failed."""
    figures = ", ".join(f"{value:g} {name}" for name, value in outcome.figures.items())
    excepted = ", ".join(f"{count} of {what}" for what, count in sorted(outcome.excepted.items())) or "nothing"
    lines = [f"{figures}; excepted: {excepted}"]
    if outcome.findings:
        found = str(outcome.findings).splitlines()
        lines += [*found[:SHOWN], *([f"... and {len(found) - SHOWN} lines more"] if len(found) > SHOWN else [])]
        lines += [f"dump: {file}" for file in outcome.dumps[:SHOWN]]
        lines.append(f"again with `{outcome.options.again}`")
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
