"""`make faults`: every row, as many rounds as asked, with the calls and limits of faults.md, and a table at the end."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.load import percentile
from tests.faults.rows import NOT_YET, PLAYED
from tests.faults.scene import REAL, SHORT, Bounds, Result, Row, play

SHOWN = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds; return 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each row is played")
    parser.add_argument("--rows", default="", help="which, by their keys: 1,2-repeat,11; all that can be held without")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="the first round's")
    parser.add_argument("--short", action="store_true", help="with the calls and limits of `make processes`")
    options = parser.parse_args(argv)
    wanted = set(filter(None, options.rows.split(",")))
    rows = [row for row in PLAYED if not wanted or wanted & {row.key, str(row.number)}]
    if not rows:
        parser.error(f"no such row: {options.rows}")
    results = asyncio.run(_rounds(rows, options.rounds, options.seed, SHORT if options.short else REAL))
    _say(_table(rows, results))
    for key, reason in NOT_YET.items():
        _say(f"not yet: row {key}: {reason}")
    failed = [result for result in results if result.findings]
    for result in failed:
        _say(f"\nrow {result.row.key}, {result.row.name}; again with `{result.again}`")
        lines = str(result.findings).splitlines()
        _say("\n".join(lines[:SHOWN] + ([f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])))
    return 1 if failed else 0


async def _rounds(rows: Sequence[Row], rounds: int, seed: int, bounds: Bounds) -> list[Result]:
    results: list[Result] = []
    total = rounds * len(rows)
    for number in range(rounds):
        for row in rows:
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="unpod-faults-") as directory:
                result = await play(row, seed + number, bounds, Path(directory))
            results.append(result)
            how = "FAILED" if result.findings else "ok"
            slowest = f", recovery {max(result.recovery):.2f} s" if result.recovery else ""
            took = time.monotonic() - begun
            _say(f"{len(results):4}/{total} row {row.key:12} seed {result.seed}: {how} in {took:.1f} s{slowest}")
    return results


def _table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    figures = f"{'rounds':>6} {'failed':>6} {'lost':>5} {'again':>5} {'p50 s':>6} {'p99 s':>6} {'limit':>6}"
    head = f"{'row':12} {'fault':56} {figures}"
    lines = ["", head, "-" * len(head)]
    for row in rows:
        played = [result for result in results if result.row is row]
        recovery = [seconds for result in played for seconds in result.recovery]
        p50, p99 = (f"{percentile(recovery, share):.2f}" if recovery else "" for share in (0.5, 0.99))
        lines.append(
            f"{row.key:12} {row.name[:56]:56} {len(played):6} {sum(bool(each.findings) for each in played):6} "
            f"{sum(len(each.findings.lost) for each in played):5} "
            f"{sum(len(each.findings.repeated) for each in played):5} "
            f"{p50:>6} {p99:>6} {'' if row.within_s is None else f'{row.within_s:.1f}':>6}"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
