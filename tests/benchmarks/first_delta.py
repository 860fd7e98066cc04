"""What a turn costs: from a caller's text to the reply's first piece on the socket, beside a bare WebSocket client.

::

    make bench
    make bench ARGS="--calls 1,100 --json"

unpod is measured whole: a bridge process, a nats-server that stores to disk, a runner process. The peer ("direct") is
one process that holds the calls' sockets itself, `websockets` and `json`, with no log. Both answer with the same brain,
a reply of 20 pieces as fast as they are taken, to the same load generator, in turns, in the same run. Times include the
load generator's own part, which is the same for both; all processes share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.line import Line, LineCall, Timing
from tests.benchmarks.peers import DELTAS, REPLY

from unpod.jetstream import EmbeddedOptions, EmbeddedServer, connect, embedded_topology, ensure

SYSTEMS: Final = ("direct", "unpod")
_TURNS_PER_S: Final = 60.0
"""How many turns all calls together begin in a second: paced, well below what either can do."""


@dataclass(slots=True)
class Figures:
    """One system at one number of calls: the median of each round's p50, and the p99 of all turns, in milliseconds."""

    p50s: list[float] = field(default_factory=list)
    end_p50s: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    cpu_ms: float = 0.0

    def add(self, timings: Sequence[Timing], cpu_ms: float) -> None:
        """Take the turns of one round."""
        firsts = [timing.first_delta_ms for timing in timings]
        self.firsts += firsts
        self.p50s.append(median(firsts))
        self.end_p50s.append(median(timing.reply_end_ms for timing in timings))
        self.cpu_ms += cpu_ms

    def summary(self) -> dict[str, float]:
        """Return what is shown."""
        return {
            "first_delta_p50_ms": round(median(self.p50s), 3),
            "first_delta_p99_ms": round(sorted(self.firsts)[int(len(self.firsts) * 0.99)], 3),
            "reply_end_p50_ms": round(median(self.end_p50s), 3),
            "cpu_ms_per_turn": round(self.cpu_ms / len(self.firsts), 3),
        }


# ----------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True)
class Rig:
    """The line, and the processes of each system."""

    line: Line
    pids: dict[str, list[int]]

    def cpu_ms(self, system: str) -> float:
        """Return the processor time that a system's processes have used."""
        return sum(_cpu_ms(pid) for pid in self.pids[system])


def _cpu_ms(pid: int) -> float:
    with suppress(OSError):  # no /proc here
        figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(figures[11]) + int(figures[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    return 0.0


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[int]:
    """Run one Python process, and end it; yields its pid."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_"))}
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, env={**kept, **environment})
    try:
        yield child.pid
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(5):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


@asynccontextmanager
async def rig(data_dir: Path) -> AsyncIterator[Rig]:
    """Start both systems."""
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(Line())
        peers = ("-m", "tests.benchmarks.peers")
        direct = await stack.enter_async_context(process(*peers, "direct", line.url))
        server = await stack.enter_async_context(EmbeddedServer(EmbeddedOptions(data_dir)))
        async with connect(server.connection()) as nats:
            streams = embedded_topology()
            await ensure(nats, streams.calls, streams.jobs)
        quiet = {"UNPOD_NATS_URL": server.url, "UNPOD_LOG_LEVEL": "WARNING"}
        there = {"UNPOD_API_KEY": "sk_bench", "UNPOD_ORCHESTRATOR_URL": line.url}
        bridge = await stack.enter_async_context(process("-m", "unpod_bridge", **quiet, **there))
        runner = await stack.enter_async_context(process(*peers, "unpod", **quiet))
        yield Rig(line, {"direct": [direct], "unpod": [server.pid, bridge, runner]})


# ---------------------------------------------------------------------------------------------------------- measuring


async def play(calls: Sequence[LineCall], turns: int) -> list[Timing]:
    """Have turns on calls, each call at its own even pace, out of step with the others."""
    interval = len(calls) / _TURNS_PER_S

    async def talk(call: LineCall, offset_s: float) -> list[Timing]:
        loop = asyncio.get_running_loop()
        at, timings = loop.time() + offset_s, []
        for _ in range(turns):
            await asyncio.sleep(max(0.0, at - loop.time()))
            timing = await call.turn("what is it?")
            if timing.text != REPLY:
                raise RuntimeError(f"{call.name}: the reply is not whole")
            timings.append(timing)
            at += interval * random.uniform(0.8, 1.2)  # noqa: S311 - out of step with anything periodic
        return timings

    offsets = [interval * number / len(calls) for number in range(len(calls))]
    each = await asyncio.gather(*map(talk, calls, offsets))
    return [timing for timings in each for timing in timings]


async def measure(rig: Rig, count: int, rounds: int, round_s: float) -> dict[str, Figures]:
    """Measure both systems with so many calls, round by round, each time the other one first."""
    calls = {system: await rig.line.place(system, count) for system in SYSTEMS}
    found = {system: Figures() for system in SYSTEMS}
    turns = max(2, round(round_s * _TURNS_PER_S / count))
    for number in range(rounds + 1):
        for system in SYSTEMS if number % 2 else reversed(SYSTEMS):
            before = rig.cpu_ms(system)
            timings = await play(calls[system], turns)
            if number:  # the first round warms up
                found[system].add(timings, rig.cpu_ms(system) - before)
    await asyncio.gather(*(call.hang_up() for system in SYSTEMS for call in calls[system]))
    return found


def table(results: dict[int, dict[str, dict[str, float]]]) -> str:
    """Return the results as text."""
    lines = [f"{'calls':>5}  {'':<8}{'first delta p50':>16}{'p99':>9}{'reply end p50':>15}{'CPU a turn':>12}   (ms)"]
    for count, systems in results.items():
        for system, row in systems.items():
            unit = "x" if system == "ratio" else " "
            cells = [
                f"{row['first_delta_p50_ms']:>15.2f}{unit}",
                f"{row['first_delta_p99_ms']:>8.2f}{unit}",
                f"{row['reply_end_p50_ms']:>14.2f}{unit}",
                f"{row['cpu_ms_per_turn']:>11.2f}{unit}",
            ]
            lines.append(f"{count:>5}  {system:<8}{''.join(cells)}")
    return "\n".join(lines)


async def bench(counts: Sequence[int], rounds: int, round_s: float) -> dict[int, dict[str, dict[str, float]]]:
    """Return the figures by number of calls, for both systems and their ratio."""
    results: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="unpod-bench-") as folder:
        for count in counts:
            async with rig(Path(folder) / str(count)) as systems:
                figures = await measure(systems, count, rounds, round_s)
            rows = {system: found.summary() for system, found in figures.items()}
            direct, unpod = (rows[system] for system in SYSTEMS)
            ratios = {name: round(unpod[name] / direct[name], 2) if direct[name] else 0.0 for name in direct}
            results[count] = {**rows, "ratio": ratios}
    return results


def main() -> None:
    """Run the benchmark, and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", default="1,20", help="numbers of concurrent calls (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds for each number of calls (default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=1.5, help="seconds of a round (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    counts = [int(count) for count in options.calls.split(",")]
    results = asyncio.run(bench(counts, options.rounds, options.round_s))
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return
    head = (
        f"From a caller's text to the reply: {DELTAS} pieces, {options.rounds} rounds, {_TURNS_PER_S:g} turns/s in all"
    )
    sys.stdout.write(f"{head}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
