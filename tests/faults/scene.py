"""What a row of faults.md is made of, and how one is played: calls talk, something dies, everything is looked at."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.checks import Allow, Findings, look
from tests.faults.load import PATIENCE_S, SETTLED_S, Caller, Load, load
from tests.faults.process import Process, eventually
from tests.faults.stack import Setup, Stack, stack

MOST_MORE: Final = 30
GIVE_UP_S: Final = 5.0
_TRACEBACK: Final = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How hard it is tried. `slack` multiplies the limits of time; `away_s` is how long something is away."""

    calls: int
    slack: float
    away_s: float
    frozen_s: float
    whole: bool

    def limit(self, seconds: float) -> float:
        """Return a limit of time as it counts here."""
        return seconds * self.slack


SHORT = Bounds(calls=5, slack=4.0, away_s=3.0, frozen_s=3.0, whole=False)
"""For `make processes`: the machine is shared with other tests, so times are only bounded."""
REAL = Bounds(calls=20, slack=1.0, away_s=30.0, frozen_s=10.0, whole=True)
"""For `make faults`: the calls and the times of faults.md."""


class Scene:
    """What a fault acts on; `mark` says when it happened, from which recovery counts."""

    def __init__(self, stack: Stack, load: Load, rng: random.Random, bounds: Bounds) -> None:
        self.stack = stack
        self.load = load
        self.rng = rng
        self.bounds = bounds
        self.marked_at = 0.0
        self.wrong: list[str] = []
        """What the fault itself has found to be wrong."""
        self.figures: dict[str, float] = {}
        self.spans: set[tuple[str, str, str]] = set()
        """Trace, span and name of what a collector has been sent."""
        self.expected_deaths: set[Process] = set()
        self.allow: dict[Caller, Allow] = {}
        """What the fault may cost some of the calls, and not the others."""
        self.told: dict[str, str] = {}
        """What was said from outside, and what became of it as far as its sender was told."""

    def mark(self) -> None:
        """The fault is now."""
        self.marked_at = asyncio.get_running_loop().time()

    def expect(self, holds: object, otherwise: str) -> None:
        """Note what is wrong, and go on."""
        if not holds:
            self.wrong.append(otherwise)

    async def some_words(self) -> None:
        """Return at a random point: after so many more words of answers, mostly in the middle of some."""
        await self.load.words(self.rng.randint(1, 4 * len(self.load.callers)))

    async def hush(self) -> None:
        """Return when nobody says anything any more: between turns."""
        for caller in self.load.living:
            caller.hush()
        for caller in self.load.living:
            await caller.quiet()

    def go_on(self) -> None:
        """Let everybody talk again."""
        for caller in self.load.living:
            caller.go_on()

    async def spread(self) -> None:
        """Place more calls until each runner and each bridge has one: who gets which is not ours to say."""
        processes = {*self.stack.runners, *self.stack.bridges}
        for _ in range(MOST_MORE):
            if not processes - {*await self.runners(), *await self.bridges()}:
                return
            await self.load.dial(1)
        raise RuntimeError("some process gets no calls")

    # ------------------------------------------------------------------------------------------------ whom it hits

    async def runners(self) -> Counter[Process]:
        """Return how many living calls each runner owns."""
        owners = [await self.stack.owner(caller.session) for caller in self.load.living]
        return Counter(owner for owner in owners if owner is not None)

    async def bridges(self) -> Counter[Process]:
        """Return how many living calls each bridge holds the line of."""
        lines = [await self.stack.line(caller.session) for caller in self.load.living]
        return Counter(line for line in lines if line is not None)

    async def a_runner(self) -> Process:
        """Return a runner that has calls."""
        return self.rng.choice(sorted(await self.runners(), key=lambda process: process.label))

    async def a_bridge(self) -> Process:
        """Return a bridge that has calls."""
        return self.rng.choice(sorted(await self.bridges(), key=lambda process: process.label))

    async def calls_of(self, process: Process) -> list[Caller]:
        """Return the callers whose calls a process owns, or holds the line of."""
        return [
            caller
            for caller in self.load.living
            if process in (await self.stack.owner(caller.session), await self.stack.line(caller.session))
        ]

    async def kill(self, process: Process) -> None:
        """SIGKILL a process; it is expected to be gone."""
        self.expected_deaths.add(process)
        await process.kill()

    async def dead(self, process: Process) -> None:
        """Return once a process has died of what it was told to."""
        self.expected_deaths.add(process)
        await process.exited()

    async def owned(self, sessions: Sequence[str]) -> None:
        """Return once each session is owned by a runner that lives."""

        async def all_are() -> bool:
            owners = [await self.stack.owner(session) for session in sessions]
            return all(owner is not None and owner.alive for owner in owners)

        await eventually(all_are, "living owners")

    async def moved(self, sessions: Sequence[str], old: Process) -> None:
        """Return once another runner owns the sessions, or another bridge holds their lines."""

        async def gone() -> bool:
            holders = [await holds(session) for session in sessions for holds in (self.stack.owner, self.stack.line)]
            return old not in holders

        await eventually(gone, f"others for the calls of {old!r}")


Act = Callable[[Scene], Awaitable[None]]


async def _nothing(_: Scene) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of faults.md, or one way to do it (`variant`).

    `act` is the fault, `then` what is looked at once all calls are over; `within_s` None: nothing has to recover.
    """

    number: int
    name: str
    act: Act
    then: Act = _nothing
    variant: str = ""
    within_s: float | None = None
    setup: Setup = field(default_factory=Setup)
    allow: Allow = field(default_factory=Allow)
    orders: frozenset[str] = frozenset({"say", "count"})
    closes: bool = True
    slow: bool = False

    @property
    def key(self) -> str:
        """How it is asked for on a command line."""
        return f"{self.number}{'-' + self.variant if self.variant else ''}"


@dataclass(slots=True)
class Result:
    """What became of one play."""

    row: Row
    seed: int
    findings: Findings
    recovery: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def again(self) -> str:
        """How to run it again."""
        return f"make faults ROUNDS=1 ROWS={self.row.key} SEED={self.seed}"


async def play(row: Row, seed: int, bounds: Bounds, directory: Path) -> Result:
    """Play a row once; what goes wrong is in the result, whatever it is."""
    result = Result(row, seed, Findings())
    async with AsyncExitStack() as exits:
        try:
            rng = random.Random(f"{row.key}:{seed}")  # noqa: S311 - a schedule that can be run again
            stacked = await exits.enter_async_context(stack(directory, row.setup, rng.randint(*row.setup.failpoint_at)))
            talking = await exits.enter_async_context(load(stacked.orchestrator, rng))
            scene = Scene(stacked, talking, rng, bounds)
            await _play(row, scene, result)
        except Exception as error:  # noqa: BLE001 - a failure of any kind is this row's
            result.findings.wrong.append(f"{type(error).__name__}: {error}")
    return result


async def _play(row: Row, scene: Scene, result: Result) -> None:
    talking, bounds = scene.load, scene.bounds
    talking.orders = lambda caller, turn: row.orders
    talking.takes_cuts = row.allow.cut or row.allow.drops
    try:
        await talking.dial(bounds.calls)
        await scene.spread()
        await talking.begin()
        await row.act(scene)
        if row.within_s is not None:
            within = bounds.limit(row.within_s)
            result.recovery = list((await talking.recovered(scene.marked_at, within)).values())
        # A turn may work before the fault is felt, and the next one has to wait for as long as a recovery takes.
        await talking.finish(max(SETTLED_S, row.within_s or 0.0))
        if row.closes:
            await scene.stack.closed([caller.session for caller in talking.callers if not caller.orphaned], PATIENCE_S)
        await row.then(scene)
    except Exception as error:  # noqa: BLE001 - all that can still be looked at is looked at
        scene.wrong.append(f"{type(error).__name__}: {error}")
        with suppress(Exception):
            async with asyncio.timeout(GIVE_UP_S):
                await talking.finish()
    result.figures = scene.figures
    await _look(row, scene, result.findings)


async def _look(row: Row, scene: Scene, findings: Findings) -> None:
    findings.wrong += scene.wrong
    for process in (*scene.stack.runners, *scene.stack.bridges):
        if not process.alive and process not in scene.expected_deaths:
            findings.wrong.append(f"{process!r} has died: {process.text[-300:]}")
        findings.wrong += [f"{process!r} has logged: {trace[-1200:]}" for trace in _tracebacks(process.text, row.allow)]
    for caller in scene.load.callers:
        allow = scene.allow.get(caller, row.allow)
        findings.add(look(caller, await scene.stack.records(caller.session), allow))


def _tracebacks(text: str, allow: Allow) -> list[str]:
    """Return the tracebacks in a process's log, but for those that are allowed."""
    found = [match[0] for match in _TRACEBACK.finditer(text)]
    return [trace for trace in found if not any(name in trace for name in allow.tracebacks)]
