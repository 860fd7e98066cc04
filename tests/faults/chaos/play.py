"""One run: callers talk, the nemesis does its faults, everything heals, and then everything is looked at."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import structs
from tests.faults.chaos import dump
from tests.faults.chaos.judge import Harmed, judge
from tests.faults.chaos.nemesis import Deed, Nemesis, Places
from tests.faults.chaos.plan import Strength, plan
from tests.faults.chaos.talk import PIECE_S, WORDS, Person, Talk
from tests.faults.checks import Allow, Findings
from tests.faults.load import load
from tests.faults.process import Process, until
from tests.faults.scene import _tracebacks
from tests.faults.soak import told_by
from tests.faults.stack import Setup, Stack, stack

from unpod import AsyncClient

CLOSED_S: Final = 60.0
REGISTERED_S: Final = 30.0
GROWS_MB: Final = 96
DESCRIPTORS: Final = 60
FRESH: Final = 6
"""Calls that are placed when all is over: everybody is there to take them."""
FRESH_MOST: Final = 30
TASKS: Final = 40
"""By how many tasks a process may grow, when its calls are over: some wait for what has ended a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is made of; all of it follows from these."""

    seed: int
    minutes: float = 1.0
    callers: int = 24
    strength: Strength = field(default_factory=Strength)

    @property
    def again(self) -> str:
        """How to run it again."""
        only = f" ONLY={','.join(sorted(self.strength.only))}" if self.strength.only else ""
        return f"make chaos SEED={self.seed} MINUTES={self.minutes:g} NODES={self.strength.nodes}{only}"


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    options: Options
    findings: Findings = field(default_factory=Findings)
    excepted: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    dumps: list[Path] = field(default_factory=list)


async def play(options: Options, directory: Path) -> Outcome:
    """Play a run; what goes wrong is in the outcome, whatever it is."""
    outcome = Outcome(options)
    strength = options.strength
    environment = {
        "UNPOD_FAULTS_PIECE_S": str(PIECE_S),
        "UNPOD_FAULTS_WORDS": str(WORDS),
        "UNPOD_FAULTS_REPLY_TIMEOUT_S": "30",
    }
    runner_health = {"UNPOD_FAULTS_WATCH": str(directory / "watch")}
    setup = Setup(
        runners=strength.runners,
        bridges=strength.bridges,
        cluster=strength.nodes > 1,
        module="tests.faults.watched",
        agent_module="tests.faults.watched",
        bridge_env={**runner_health, "UNPOD_FAULTS_MODULE": "unpod_bridge"},
        runner_env={**runner_health, **environment, "UNPOD_FAULTS_MODULE": "tests.faults.agent"},
        wired=True,
        max_mb=min(900, 128 + int(32 * options.minutes)),
    )
    async with AsyncExitStack() as exits:
        try:
            stacked = await exits.enter_async_context(stack(directory, setup))
            await _run(options, stacked, outcome, exits)
        except Exception as error:  # noqa: BLE001 - a failure of any kind is this run's
            outcome.findings.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


async def _run(options: Options, stacked: Stack, outcome: Outcome, exits: AsyncExitStack) -> None:
    rng = random.Random(options.seed)  # noqa: S311 - a conversation that can be held again
    talking = await exits.enter_async_context(load(stacked.orchestrator, rng))
    talking.length = WORDS
    talking.lengths["brief"] = 8
    client = await exits.enter_async_context(AsyncClient(nats_url=stacked._place.url))
    talk = Talk(talking, client)
    places = Places(stacked)
    nemesis = Nemesis(places, lambda: [caller.call for caller in talking.living])
    before = {process: await _figures(process, stacked.directory) for process in (*stacked.runners, *stacked.bridges)}
    faults = plan(options.seed, 60.0 * options.minutes, options.strength)
    persons = [asyncio.create_task(Person(talk, options.seed, number).live()) for number in range(options.callers)]
    try:
        await nemesis.run(faults)
        talk.stopping.set()
        await asyncio.gather(*persons)
        await _aftermath(talk, stacked, outcome)
    finally:
        for person in persons:
            person.cancel()
        await asyncio.gather(*persons, return_exceptions=True)
    outcome.findings.wrong += talk.wrong
    await _look_at_processes(stacked, places, before, outcome)
    await _look_at_calls(talk, stacked, nemesis.deeds, outcome)
    outcome.figures["faults"] = len(nemesis.deeds)
    outcome.figures["refused calls"] = len(talk.refused)


async def _aftermath(talk: Talk, stacked: Stack, outcome: Outcome) -> None:
    """Both bridges are there again, and new calls come to each and are answered; then everything ends."""
    wrong = outcome.findings.wrong
    alive = [bridge for bridge in stacked.bridges if bridge.alive]
    orchestrator = stacked.orchestrator

    def registered() -> bool:
        return sum(worker.capabilities.max_concurrent > 0 for worker in orchestrator.workers) == len(alive)

    try:
        await until(registered, "all bridges are registered, with room", REGISTERED_S)
    except TimeoutError as error:
        shown = [(worker.worker_id, worker.capabilities.max_concurrent) for worker in orchestrator.workers]
        wrong.append(f"{error}: {len(alive)} bridges live, registered are {shown}")
    try:
        holders: set[Process | None] = set()
        placed = 0
        own = [worker for worker in orchestrator.workers if worker.capabilities.max_concurrent]  # not inherited ones
        room = min(worker.capabilities.max_concurrent for worker in own)
        for worker in own:  # who has said most room, and was used least, is asked first
            worker.assigned_total = 0
            worker.capabilities = structs.replace(worker.capabilities, max_concurrent=room)
        while len(holders) < len(alive) and placed < FRESH_MOST:  # who has the most room gets calls first
            fresh = await talk.load.dial(FRESH)
            placed += FRESH
            for caller in fresh:
                await caller.answer(await caller.ask())
            holders |= {await stacked.line(caller.session) for caller in fresh}
        if len(holders) < len(alive):
            rooms = [(each.worker_id, each.capabilities.max_concurrent, each.free) for each in orchestrator.workers]
            wrong.append(f"the last {placed} calls came to {holders}, of {alive}; room, in all and free: {rooms}")
    except Exception as error:  # noqa: BLE001 - whatever it is, there should be new calls
        wrong.append(f"new calls at the end: {type(error).__name__}: {error}")
    try:
        await talk.load.finish()
    except Exception as error:  # noqa: BLE001 - likewise
        wrong.append(f"at the end: {type(error).__name__}: {error}")
    try:
        await stacked.closed([caller.session for caller in talk.load.callers], CLOSED_S)
    except TimeoutError as error:
        wrong.append(str(error))


async def _look_at_calls(talk: Talk, stacked: Stack, deeds: Sequence[Deed], outcome: Outcome) -> None:
    processes = (*stacked.runners, *stacked.bridges)
    turns = 0
    notes: dict[object, list[dict[str, object]]] = {}
    for what in ("charge", "cleaned"):
        for note in stacked.notes(what):
            notes.setdefault(note["session"], []).append(note)
    excepted: list[str] = []
    for caller in talk.load.callers:
        harmed = Harmed(caller, await stacked.records(caller.session), talk, deeds, notes.get(caller.session, []))
        found = judge(harmed)
        outcome.findings.add(found)
        outcome.excepted += harmed.excepted.counts
        excepted += harmed.excepted.lines
        turns += len(harmed.logged)
        if found:
            text = dump.dump(harmed, str(found).splitlines(), deeds, processes)
            outcome.dumps.append(dump.write(stacked.directory / "dumps", caller.number, text))
    outcome.figures["calls"] = len(talk.load.callers)
    outcome.figures["turns"] = turns
    (stacked.directory / "excepted.txt").write_text("\n".join(excepted) + "\n")
    outcome.findings.wrong += [f"the orchestrator: {line}" for line in stacked.orchestrator.violations]


async def _look_at_processes(
    stacked: Stack, places: Places, before: Mapping[Process, Figures], outcome: Outcome
) -> None:
    wrong = outcome.findings.wrong
    for process in (*stacked.runners, *stacked.bridges):
        if not process.alive and process not in places.killed:
            wrong.append(f"{process!r} has died: {process.text[-500:]}")
        wrong += [f"{process!r} has logged: {trace[-1200:]}" for trace in _tracebacks(process.text, Allow())]
        if process.alive and process in before:
            now, then = await _figures(process, stacked.directory), before[process]
            if now.rss_mb - then.rss_mb > GROWS_MB:
                wrong.append(f"{process!r} has grown by {now.rss_mb - then.rss_mb:.0f} MiB")
            if now.descriptors - then.descriptors > DESCRIPTORS:
                wrong.append(f"{process!r} has {now.descriptors - then.descriptors} descriptors more than at first")
            if now.tasks - then.tasks > TASKS:
                wrong.append(f"{process!r} has {now.tasks - then.tasks} tasks more than at first")


@dataclass(frozen=True, slots=True)
class Figures:
    """A process's memory in MiB, and how many descriptors and tasks it has."""

    rss_mb: float
    descriptors: int
    tasks: int


async def _figures(process: Process, directory: Path) -> Figures:
    told = await told_by(process, directory)
    return Figures(process.rss_mb, _descriptors(process), told["tasks"])


def _descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
