"""One runner and one bridge with more and more sessions: what a turn costs, what an idle one costs, and who talks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

from tests.benchmarks.brain import STREAM
from tests.benchmarks.line import LineCall
from tests.benchmarks.rig import UNPOD, Rig, rig
from tests.benchmarks.turns import TURNS_PER_S, Round, percentile

from unpod.jetstream import connect, topology
from unpod.jetstream.streams.topology import info

TURN_EVERY_S: Final = 5.0
Tell = Callable[[str], None]


async def _cost(systems: Rig, calls: Sequence[LineCall], seconds: float, rate: float) -> dict[str, Any]:
    """Return what turns at this rate take on these calls, once nothing is left of placing them."""
    await systems.rest()
    before = systems.cpu_ms(UNPOD)
    turns = Round(calls, STREAM)
    await turns.paced(seconds, rate)
    after = systems.cpu_ms(UNPOD)
    firsts = [timing.first_delta_ms for timing in turns.timings]
    return {
        "turns_per_s": rate,
        "first_delta_p50_ms": round(median(firsts), 3) if firsts else 0.0,
        "first_delta_p99_ms": percentile(firsts, 0.99),
        "cpu_ms_per_turn": {name: round((after[name] - before[name]) / max(1, len(firsts)), 3) for name in after},
        "asked": turns.asked,
        "due": round(rate * seconds),
        "answered": len(firsts),
        "wrong": turns.wrong,
    }


async def _idle(systems: Rig, seconds: float) -> dict[str, float]:
    """Return which share of a core each process takes while nobody speaks, once nothing is left of placing them."""
    await systems.rest()
    before, began = systems.cpu_ms(UNPOD), time.perf_counter()
    await asyncio.sleep(seconds)
    after, elapsed_ms = systems.cpu_ms(UNPOD), (time.perf_counter() - began) * 1000
    return {name: round((after[name] - before[name]) / elapsed_ms, 4) for name in after}


async def measure(attached: Sequence[int], talking: Sequence[int], seconds: float, tell: Tell) -> dict[str, Any]:
    """Return the figures by number of sessions, ascending: attached at one rate of turns, and talking each 5 s."""
    rows: list[dict[str, Any]] = []
    talks: list[dict[str, Any]] = []
    async with rig(direct=False) as systems:
        calls = await systems.line.place(UNPOD, attached[0])
        await Round(calls, STREAM).paced(seconds / 2)  # warms up
        empty = await systems.memory_kb(UNPOD)
        first = len(calls)
        for count in sorted({*attached, *talking}):
            tell(f"{count:,} sessions on one runner and one bridge")
            began = time.perf_counter()
            more = count - len(calls)
            calls += await systems.line.place(UNPOD, more)
            placed_s = time.perf_counter() - began
            if count in attached:
                idle = await _idle(systems, seconds / 2)
                kept = await systems.memory_kb(UNPOD)
                grown = {name: round((kept[name] - empty[name]) / max(1, count - first), 1) for name in kept}
                cost = await _cost(systems, calls, seconds, TURNS_PER_S)
                rows.append({"sessions": count, "idle": idle, "kb": grown if count > first else {}, **cost})
                rows[-1]["placed_per_s"] = round(more / placed_s) if more else 0
            if count in talking:
                talks.append({"sessions": count, **await _cost(systems, calls, seconds, count / TURN_EVERY_S)})
        stored = await _stored(systems)
    return {"attached": rows, "talking": talks, "stored": stored}


async def _stored(systems: Rig) -> dict[str, float]:
    """Return how many bytes of the store a record takes."""
    async with connect(systems.server.connection("bench")) as nats:
        found = await info(nats, topology().calls.name)
    state = {"messages": 0, "bytes": 0} if found is None else found["state"]
    return {"records": state["messages"], "bytes_per_record": round(state["bytes"] / max(1, state["messages"]))}
