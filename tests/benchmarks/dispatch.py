"""From the orchestrator's job to the first line of the agent's entrypoint, for calls that come all at once."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from tests.benchmarks.peers import BORN
from tests.benchmarks.rig import SYSTEMS, rig
from tests.benchmarks.turns import percentile

Tell = Callable[[str], None]


async def measure(at_once: int, rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """Return the figures of both systems; the clock is the machine's, which all processes share."""
    times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    async with rig() as systems:
        for number in range(rounds + 1):
            tell(f"{at_once} calls at once, round {number} of {rounds}")
            for system in SYSTEMS:
                calls = await systems.line.place(system, at_once, at_once)
                for call in calls:
                    born = float((await call.turn(BORN)).text)
                    if number:  # the first round warms up
                        times[system].append((born - call.assigned_at) * 1000)
                    call.hang_up()
    return [
        {"system": system, "at_once": at_once, "p50_ms": round(median(each), 3), "p99_ms": percentile(each, 0.99)}
        for system, each in times.items()
    ]
