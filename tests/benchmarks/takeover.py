"""A runner is killed with all its calls: when has each a new owner, and when does its next turn work?"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import msgspec
from tests.benchmarks.brain import BURST, REPLY
from tests.benchmarks.line import LineCall, Timing
from tests.benchmarks.rig import UNPOD, Rig, rig
from tests.benchmarks.turns import percentile

from unpod.core.dispatch_messages import RunnerAnnounced
from unpod.core.subjects import Subjects
from unpod.jetstream import connect
from unpod.ports import Message

Tell = Callable[[str], None]
_PATIENCE_S = 30.0


async def _kill(systems: Rig, calls: Sequence[LineCall], victim: int) -> tuple[list[float], list[float], int]:
    """Kill the runner, and have each call ask at once; return when they had an owner and an answer, in ms."""
    owned: list[float] = []
    answered: list[float] = []
    wrong = 0
    done = asyncio.Event()

    def heard(_: Message) -> None:
        owned.append((time.perf_counter() - killed) * 1000)

    def ended(_: LineCall, timing: Timing) -> None:
        nonlocal wrong
        answered.append((time.perf_counter() - killed) * 1000)
        wrong += timing.text != REPLY
        if len(answered) == len(calls):
            done.set()

    killed = time.perf_counter()
    async with connect(systems.server.connection("bench")) as nats:
        await nats.subscribe(Subjects().channel("own"), heard)
        await nats.flush(timeout_s=2)
        killed = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        for call in calls:
            call.ask(BURST, ended)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await done.wait()
        except TimeoutError:
            wrong += len(calls) - len(answered)
    return owned, answered, wrong


async def measure(counts: Sequence[int], rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """Return the figures for each number of calls that the killed runner has."""
    rows = []
    for count in counts:
        first: list[float] = []
        owned: list[float] = []
        answered: list[float] = []
        lost = 0
        for number in range(rounds):
            tell(f"a runner with {count} calls is killed, {number + 1} of {rounds}")
            async with rig(direct=False) as systems:
                calls = await systems.line.place(UNPOD, count)
                await asyncio.gather(*(call.turn(BURST, _PATIENCE_S) for call in calls))
                await systems.more()
                await _second(systems)
                await systems.rest()
                taken, replied, wrong = await _kill(systems, calls, systems.runners[0])
            first += taken[:1]
            owned += taken
            answered += replied
            lost += wrong
        rows.append(
            {
                "calls": count,
                "first_owner_ms": round(median(first), 1) if first else 0.0,
                "owner_p50_ms": round(median(owned), 1) if owned else 0.0,
                "turn_p50_ms": round(median(answered), 1) if answered else 0.0,
                "turn_p99_ms": percentile(answered, 0.99),
                "turn_max_ms": round(max(answered), 1) if answered else 0.0,
                "lost": lost,
            }
        )
    return rows


async def _second(systems: Rig) -> None:
    """Return once two runners have announced themselves."""
    runners: set[str] = set()
    both = asyncio.Event()

    def heard(message: Message) -> None:
        runners.add(msgspec.json.decode(message.data, type=RunnerAnnounced).runner)
        if len(runners) > 1:
            both.set()

    async with connect(systems.server.connection("bench")) as nats:
        await nats.subscribe(Subjects().runners, heard)
        async with asyncio.timeout(_PATIENCE_S):
            await both.wait()
