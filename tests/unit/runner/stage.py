"""A runner on a NATS in memory, and the bridge that its calls come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from msgspec import Struct, ValidationError

from unpod.core.dispatch_messages import (
    HAND_OVER,
    OFFER_ANSWERED,
    PROBATION_TOLD,
    RUNNER_ANNOUNCED,
    TOLD,
    BridgeAnnounced,
    HandOver,
    Hold,
    Offer,
    OfferAnswered,
    ProbationTold,
    QueuedAnnounced,
    Release,
    RunnerAnnounced,
    Start,
    Told,
    encode,
)
from unpod.core.subjects import Subjects
from unpod.errors import NoResponders
from unpod.ports import Message
from unpod.runner.call import Entrypoint
from unpod.runner.calls import InCall
from unpod.runner.drain import DrainMode, RunnerStop
from unpod.runner.runner_hooks import RunnerHooks
from unpod.runner.service import RunnerOptions, RunnerPorts, Service
from unpod.runner.stats import LastHour
from unpod.session.settings import SessionSettings
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.line import ALL_VERBS, MemoryLine
from unpod.testing.memory import MemoryLog

_SESSIONS = count(1)


@dataclass
class Bridge:
    """Offers jobs and starts calls, as a bridge does."""

    log: MemoryLog
    clock: VirtualClock
    subjects: Subjects
    agent: str
    key: str
    heard: list[RunnerAnnounced] = field(default_factory=list)
    lines: dict[str, MemoryLine] = field(default_factory=dict)
    handed_over: list[HandOver] = field(default_factory=list)
    probations: list[ProbationTold] = field(default_factory=list)

    async def open(self) -> None:
        await self.log.subscribe(self.subjects.runners, self._on_runner)
        await self.log.subscribe(self.subjects.bridge("memory"), self._on_told)

    def _on_told(self, message: Message) -> None:
        try:
            self.probations.append(PROBATION_TOLD.decode(message.data))
        except ValidationError:
            self.handed_over.append(HAND_OVER.decode(message.data))

    def _on_runner(self, message: Message) -> None:
        self.heard.append(RUNNER_ANNOUNCED.decode(message.data))

    async def offer(self, job: str, *, resume: bool = False) -> OfferAnswered | None:
        """Ask the runners; None where none listens."""
        offer = Offer(job=job, bridge="b1", agent=self.agent, resume=resume)
        subject = self.subjects.resume(self.key) if resume else self.subjects.dispatch(self.key)
        try:
            answer = await self.log.request(subject, encode(offer), timeout_s=1.0)
        except NoResponders:
            return None
        return OFFER_ANSWERED.decode(answer.data)

    async def tell(self, runner: str, message: Struct) -> Told:
        answer = await self.log.request(self.subjects.runner(runner), encode(message), timeout_s=1.0)
        return TOLD.decode(answer.data)

    async def promised(self, job: str) -> str:
        """Offer a job and have its place confirmed; return the runner."""
        answered = await self.offer(job)
        assert answered is not None
        assert answered.answer == "taken"
        assert (await self.tell(answered.runner, Hold(job=job))).ok
        return answered.runner

    async def connect(self, session: str = "") -> tuple[MemoryLine, int]:
        """Bring a call up as far as its log; return its line and where the owner's reading ends."""
        session = session or f"session-{next(_SESSIONS)}"
        self.lines[session] = line = MemoryLine(
            MemoryLog(self.log.broker), self.clock, self.subjects, self.agent, session
        )
        return line, await line.open({}, ALL_VERBS, {})

    async def call(self, job: str) -> MemoryLine:
        """Put a call through."""
        runner = await self.promised(job)
        line, until_seq = await self.connect()
        assert (await self.tell(runner, self.start(job, line, until_seq))).ok
        await settle()
        return line

    async def move(self, job: str, line: MemoryLine) -> str:
        """Let another runner, or the same again, take a call over; return which."""
        answered = await self.offer(job, resume=True)
        assert answered is not None
        assert answered.answer == "taken"
        assert (await self.tell(answered.runner, Hold(job=job))).ok
        until_seq = await line.takeover()
        assert (await self.tell(answered.runner, self.start(job, line, until_seq))).ok
        await settle(100)
        return answered.runner

    async def announce_runner(self, **fields: object) -> None:
        said = RunnerAnnounced(**{"runner": "another", "agent": self.agent, "capacity": 5, **fields})  # type: ignore[arg-type]
        await self.log.publish(self.subjects.runners, encode(said))
        await settle()

    def start(self, job: str, line: MemoryLine, until_seq: int) -> Start:
        return Start(job=job, agent=self.agent, session=line.session_id, epoch=line.epoch, until_seq=until_seq)

    async def release(self, runner: str, job: str) -> Told:
        return await self.tell(runner, Release(job=job))

    async def announce(self, **fields: object) -> None:
        said = BridgeAnnounced(**{"bridge": "b1", **fields})  # type: ignore[arg-type]
        await self.log.publish(self.subjects.bridges, encode(said))
        await settle()

    async def announce_queued(self, waiting: int) -> None:
        said = QueuedAnnounced(bridge="b1", agent=self.key, count=waiting)
        await self.log.publish(self.subjects.queued(self.key), encode(said))
        await settle()


@dataclass
class Stage:
    """A running service and what is around it."""

    service: Service
    bridge: Bridge
    clock: VirtualClock
    stop: RunnerStop
    hooks: RunnerHooks
    bus: MemoryLog
    serving: asyncio.Task[None]

    async def drained(self) -> None:
        """Return once `serve` has returned; raises what it raises."""
        async with asyncio.timeout(5):
            await self.serving


@asynccontextmanager
async def stage(
    entrypoint: Entrypoint,
    *,
    capacity: int = 2,
    permits: float | None = None,
    drain_timeout_s: float = 60.0,
    dev: bool = False,
    drain: DrainMode = "wait",
    runner_id: str = "runner-1",
    broker: MemoryBroker | None = None,
    clock: VirtualClock | None = None,
) -> AsyncIterator[Stage]:
    clock = clock or VirtualClock()
    broker = broker or MemoryBroker(now_ns=clock.now_ns)
    subjects = Subjects()
    plan = RunnerOptions(
        entrypoint=entrypoint,
        agent_id="agent",
        capacity=capacity,
        permits_per_minute=permits,
        drain_timeout_s=drain_timeout_s,
        dev=dev,
        settings=SessionSettings(silence_timeout_s=None),
        drain=drain,
    )
    bus = MemoryLog(broker)
    bridge = Bridge(MemoryLog(broker), clock, subjects, "agent", plan.agent_key)
    await bridge.open()
    hooks, stop = RunnerHooks(0.05), RunnerStop()
    ground = RunnerPorts(bus, bus, clock, subjects)
    service = Service(plan, ground, runner_id, hooks=hooks, last_hour=LastHour(), inside=InCall())
    await service.open()
    serving = asyncio.create_task(service.serve(stop))
    await settle()
    try:
        yield Stage(service, bridge, clock, stop, hooks, bus, serving)
    finally:
        stop.abort()
        closing = asyncio.gather(serving, return_exceptions=True)
        while not closing.done():
            await clock.advance(1.0)
        await service.close()
        for line in bridge.lines.values():
            await line.close()
