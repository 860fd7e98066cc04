"""What a turn costs beside a bare socket: latency, throughput, processor time, memory, and whether all of it came."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from tests.benchmarks.brain import BURST, DELTA_S, DELTAS, REPLY, SPOKEN, STREAM
from tests.benchmarks.line import LineCall, Timing
from tests.benchmarks.rig import DIRECT, FLOOR, SYSTEMS, UNPOD, Rig, rig

PACED: Final = "paced"
SATURATED: Final = "saturated"
PLAN: Final = ((PACED, STREAM), (PACED, BURST), (PACED, SPOKEN), (SATURATED, STREAM), (SATURATED, BURST))
"""What is measured: how the turns begin, and how the reply's pieces come."""

TURNS_PER_S: Final = 60.0
"""How many turns all calls together begin in a second when paced, well below what either system can do."""
SATURATED_SHARE: Final = 0.5
"""How long a saturated round is, of a paced one: it has so many more turns."""
BARE_SESSIONS: Final = 100
"""With more, direct-json and floor are not measured."""
SLOWEST: Final = 5
"""How many of the slowest turns of a row stand in the JSON, with their round and their time in it."""
_LATE_S: Final = 15.0
"""How long a reply is waited for before its turn counts as not answered."""

Tell = Callable[[str], None]


class Round:
    """Turns on calls for a time; what came back."""

    def __init__(self, calls: Sequence[LineCall], text: str) -> None:
        self.timings: list[Timing] = []
        self.asked = 0
        self.wrong = 0
        self.elapsed_s = 0.0
        self.began = time.perf_counter()
        self._calls = calls
        self._text = text
        self._idle: deque[LineCall] = deque(call for call in calls if not call.busy)
        self._until = 0.0
        self.saturates = False
        self._all_in = asyncio.Event()

    async def paced(self, seconds: float, rate: float = TURNS_PER_S) -> None:
        """Begin turns evenly, each on the call that has been idle longest."""
        loop = asyncio.get_running_loop()
        if self._text == SPOKEN:
            rate = min(rate, len(self._calls) / (DELTAS * DELTA_S * 1.25))
        at = loop.time()
        self._until = at + seconds
        while at < self._until:
            await asyncio.sleep(max(0.0, at - loop.time()))
            if self._idle:
                self._ask(self._idle.popleft())
            at += 1 / rate
        await self._last_ones()
        self.elapsed_s = seconds

    async def saturated(self, seconds: float) -> None:
        """Begin each call's next turn as soon as it has its reply."""
        self._until, self.saturates = asyncio.get_running_loop().time() + seconds, True
        for call in tuple(self._idle):
            self._ask(call)
        await self._last_ones()
        self.elapsed_s = time.perf_counter() - self.began

    def _ask(self, call: LineCall) -> None:
        self.asked += 1
        call.ask(self._text, self._done)

    def _done(self, call: LineCall, timing: Timing) -> None:
        self.timings.append(timing)
        self.wrong += timing.text != REPLY
        if self.saturates and asyncio.get_running_loop().time() < self._until:
            self._ask(call)
            return
        self._idle.append(call)
        if len(self.timings) == self.asked:
            self._all_in.set()

    async def _last_ones(self) -> None:
        while len(self.timings) < self.asked:
            self._all_in.clear()
            try:
                async with asyncio.timeout(_LATE_S):
                    await self._all_in.wait()
            except TimeoutError:  # those calls are busy for ever, and get no more turns
                return


@dataclass(slots=True)
class Figures:
    """One system in one row of the plan, round by round; milliseconds."""

    first_p50s: list[float] = field(default_factory=list)
    end_p50s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    slowest: list[tuple[float, int, float]] = field(default_factory=list)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    wrong: int = 0
    began_busy: int = 0
    """Paced rounds before which a process was still busy with what had been before."""

    def add(self, turns: Round, cpu_ms: dict[str, float]) -> None:
        """Take one round."""
        self.asked += turns.asked
        self.wrong += turns.wrong
        firsts = [timing.first_delta_ms for timing in turns.timings]
        ends = [timing.reply_end_ms for timing in turns.timings]
        self.firsts += firsts
        self.ends += ends
        if firsts:
            self.first_p50s.append(median(firsts))
            self.end_p50s.append(median(ends))
            self.slowest += [] if turns.saturates else self._slow(turns)
            self.rates.append(len(firsts) / turns.elapsed_s)
        for name, spent in cpu_ms.items():
            self.cpu_ms[name] = self.cpu_ms.get(name, 0.0) + spent

    def _slow(self, turns: Round) -> list[tuple[float, int, float]]:
        """Return first deltas that took longest: how long, in which round, and when in it (seconds)."""
        number = len(self.first_p50s)
        return heapq.nlargest(
            SLOWEST,
            ((timing.first_delta_ms, number, timing.sent_at - turns.began) for timing in turns.timings),
        )

    def summary(self) -> dict[str, Any]:
        """Return what is kept: the medians of the rounds, and the p99 of all turns."""
        count = max(1, len(self.firsts))
        return {
            "first_delta_p50_ms": _middle(self.first_p50s),
            "first_delta_p99_ms": percentile(self.firsts, 0.99),
            "reply_end_p50_ms": _middle(self.end_p50s),
            "reply_end_p99_ms": percentile(self.ends, 0.99),
            "turns_per_s": _middle(self.rates),
            "cpu_ms_per_turn": {name: round(spent / count, 3) for name, spent in self.cpu_ms.items()},
            "asked": self.asked,
            "answered": len(self.firsts),
            "wrong": self.wrong,
            "began_busy": self.began_busy,
            "slowest": [
                {"first_delta_ms": round(took, 1), "round": number, "at_s": round(at, 3)}
                for took, number, at in heapq.nlargest(SLOWEST, self.slowest)
            ],
        }


def _middle(values: Sequence[float]) -> float:
    return round(median(values), 3) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values is; 0 for none."""
    return round(sorted(values)[int(len(values) * share)], 3) if values else 0.0


async def play(systems: Rig, calls: dict[str, list[LineCall]], rounds: int, round_s: float) -> list[dict[str, Any]]:
    """Measure the whole plan, each round on one system after the other, every time from the other end."""
    found = {(system, *row): Figures() for row in PLAN for system in calls}
    for number in range(rounds + 1):
        for manner, text in PLAN:
            for system in list(calls) if number % 2 else reversed(calls):
                busy = manner == PACED and not await systems.rest()
                before = systems.cpu_ms(system)
                turns = Round(calls[system], text)
                seconds = round_s if number else round_s / 2  # the first round warms up, and does not count
                await (turns.paced(seconds) if manner == PACED else turns.saturated(seconds * SATURATED_SHARE))
                after = systems.cpu_ms(system)
                if number:
                    figures = found[system, manner, text]
                    figures.add(turns, {name: after[name] - before[name] for name in after})
                    figures.began_busy += busy
    return [
        {"system": system, "manner": manner, "pieces": text, **figures.summary()}
        for (system, manner, text), figures in found.items()
    ]


async def place(
    systems: Rig, system: str, count: int, settle_s: float = 1.0
) -> tuple[list[LineCall], dict[str, float]]:
    """Place calls; return them, and what each takes of each process's memory, in KB."""
    warm = await systems.line.place(system, 5)
    await asyncio.sleep(settle_s)
    before = await systems.memory_kb(system)
    calls = await systems.line.place(system, count)
    await asyncio.sleep(settle_s)
    after = await systems.memory_kb(system)
    for call in warm:
        call.hang_up()
    return calls, {name: round((after[name] - before[name]) / count, 1) for name in after}


def _systems(count: int, sync: str) -> Sequence[str]:
    """Return who is measured: what does less stands beside where one sees what the others' work costs."""
    if sync != "1s":
        return (UNPOD,)
    return (*SYSTEMS, FLOOR) if count <= BARE_SESSIONS else (DIRECT, UNPOD)


async def measure(
    counts: Sequence[int], rounds: int, round_s: float, tell: Tell, *, flushed: bool = True
) -> dict[str, Any]:
    """Return the figures of each number of sessions, and if `flushed` of one with every record flushed to the disk."""
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    variants = [(count, "1s") for count in counts]
    if flushed:
        variants.append((min(100, max(counts)), "always"))
    for count, sync in variants:
        tell(f"{count} sessions, sync_interval {sync}")
        async with rig(sync=sync) as systems:
            calls = {}
            for system in _systems(count, sync):
                calls[system], per_session = await place(systems, system, count, min(1.0, round_s))
                memory.append({"sessions": count, "system": system, "sync": sync, "kb": per_session})
            found = await play(systems, calls, rounds, round_s)
        rows += [{"sessions": count, "sync": sync, **row} for row in found]
    return {"rows": rows, "memory": memory, "rounds": rounds, "round_s": round_s, "turns_per_s": TURNS_PER_S}


def row(found: dict[str, Any], system: str, sessions: int, manner: str, pieces: str) -> dict[str, Any] | None:
    """Return one row of what `measure` returned."""
    wanted = {"system": system, "sessions": sessions, "manner": manner, "pieces": pieces, "sync": "1s"}
    return next((each for each in found["rows"] if wanted.items() <= each.items()), None)


def cpu(found: dict[str, Any]) -> float:
    """Return the processor time per turn of a row's system, all its processes together."""
    spent: dict[str, float] = found["cpu_ms_per_turn"]
    return sum(spent.values()) - spent["load"]


__all__ = ["BURST", "DIRECT", "PACED", "SATURATED", "SPOKEN", "STREAM", "UNPOD", "cpu", "measure", "percentile", "row"]
