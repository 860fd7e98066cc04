"""A bridge process among a real nats-server, the local orchestrator and runners that are written here, over NATS."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.dispatch_messages import (
    BRIDGE_ANNOUNCED,
    OFFER,
    QUEUED_ANNOUNCED,
    TO_RUNNER,
    BridgeAnnounced,
    Hold,
    OfferAnswered,
    Pulse,
    Release,
    RunnerAnnounced,
    Start,
    Told,
    encode,
)
from unpod.core.envelope import Envelope, to_headers
from unpod.core.live import Delta
from unpod.core.subjects import Subjects
from unpod.jetstream import JetStreamLog, JobStore, Nats, connect, embedded_topology, open_jobs, open_log
from unpod.jetstream.streams.topology import Topology
from unpod.ports import Fence, Message, Subscription
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_orchestrator import LocalCall, LocalOrchestrator

SUBJECTS = Subjects()
KEY = "sk_local"
PATIENCE_S = 15.0


class News:
    """Wakes whoever waits for something to become true."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._news.wait()


class FakeRunner:
    """A runner with an echo for an adapter: it answers each final text with the same text."""

    def __init__(self, nats: Nats, log: JetStreamLog, news: News, runner_id: str, agent: str, capacity: int) -> None:
        self.runner_id = runner_id
        self.agent = agent
        self.capacity = capacity
        self.dev = False
        self.draining = False
        self.held: set[str] = set()
        self.started: dict[str, Start] = {}
        self.hearing: set[str] = set()
        self.told: list[Hold | Start | Release] = []
        self._nats = nats
        self._log = log
        self._news = news
        self._tasks: set[asyncio.Task[None]] = set()
        self._announcing: asyncio.Task[None] | None = None
        self._pulse: Subscription | None = None

    async def start(self) -> None:
        pool = f"{self.agent}@dev" if self.dev else self.agent
        await self._nats.subscribe(SUBJECTS.dispatch(pool), self._on_offer, queue="runners")
        await self._nats.subscribe(SUBJECTS.runner(self.runner_id), self._on_told)
        self._pulse = await self._nats.subscribe(f"{SUBJECTS.runner(self.runner_id)}.ping", self._on_ping)
        self._announcing = asyncio.create_task(self._keep_announcing())

    async def stop(self, *, say_so: bool = True) -> None:
        for task in (self._announcing, *self._tasks):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if say_so and self._pulse is not None:
            await self._pulse.close()
            self.announce(gone=True)

    def announce(self, *, gone: bool = False) -> None:
        said = RunnerAnnounced(
            runner=self.runner_id,
            agent=self.agent,
            capacity=self.capacity,
            in_flight=len(self.held),
            dev=self.dev,
            draining=self.draining,
            gone=gone,
        )
        self._nats.send(SUBJECTS.runners, encode(said))

    async def _keep_announcing(self) -> None:
        while True:
            self.announce()
            await asyncio.sleep(1)

    def _on_offer(self, message: Message) -> None:
        offer = OFFER.decode(message.data)
        taken = len(self.held) < self.capacity
        if taken:
            self.held.add(offer.job)
        answer = OfferAnswered(answer="taken" if taken else "full", runner=self.runner_id)
        self._nats.send(message.reply, encode(answer))

    def _on_told(self, message: Message) -> None:
        told = TO_RUNNER.decode(message.data)
        self.told.append(told)
        known = told.job in self.held
        if isinstance(told, Release):
            self.held.discard(told.job)
        elif isinstance(told, Start) and known and told.job not in self.started:
            self.started[told.job] = told
            task = asyncio.create_task(self._run(told))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if message.reply:
            self._nats.send(message.reply, encode(Told(ok=known)))
        self._news.tell()

    def _on_ping(self, message: Message) -> None:
        sessions = {start.session: (start.epoch, 0) for start in self.started.values()}
        self._nats.send(message.reply, encode(Pulse(runner=self.runner_id, sessions=sessions)))

    async def _run(self, start: Start) -> None:
        subjects = SUBJECTS.call(start.agent, start.session)
        heard: asyncio.Queue[codec.Record] = asyncio.Queue()
        await self._nats.subscribe(
            f"{subjects.evt('x')[:-1]}>",
            lambda message: heard.put_nowait(codec.read(SUBJECTS, message.subject, message.headers, message.data)),
        )
        self.hearing.add(start.job)
        self._news.tell()
        turn = index = 0
        while True:
            record = await heard.get()
            if isinstance(record.body, ev.CallEnded):
                await self._close(start, record.envelope, index + 1)
                self.held.discard(start.job)
                self.announce()
                self._news.tell()
                return
            if not isinstance(record.body, ev.UserText) or not record.body.is_final:
                continue
            turn += 1
            delta = Delta(start.epoch, turn, 0, 1, index, record.body.text)
            self._nats.send(subjects.delta, codec.encode(delta))
            index += 1
            end = cmd.EndReply(turn=turn, deltas=1, chars=len(record.body.text))
            envelope = Envelope(
                id=ids.command_id(start.session, record.envelope.id, "main", "reply.end", 0),
                type="cmd.reply.end",
                source=self.runner_id,
                session=start.session,
                time=record.envelope.time,
                epoch=start.epoch,
                index=index,
                seen=record.envelope.index,
                cause=record.envelope.id,
            )
            fence = Fence(subjects.own, start.epoch)
            await self._log.append(subjects.cmd, codec.encode(end), to_headers(envelope), fence=fence)

    async def _close(self, start: Start, ended: Envelope, index: int) -> None:
        subjects = SUBJECTS.call(start.agent, start.session)
        envelope = Envelope(
            id=ids.record_id(start.session, "owner", index),
            type="run.session.closed",
            source=self.runner_id,
            session=start.session,
            time=ended.time,
            epoch=start.epoch,
            index=index,
            seen=ended.index,
        )
        fence = Fence(subjects.own, start.epoch)
        closed = codec.encode(ev.SessionFinished())
        await self._log.append(subjects.run("session.closed"), closed, to_headers(envelope), fence=fence)


class BridgeProcess:
    """`python -m unpod_bridge`, with what it writes to stderr."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        return self._output.read_text()

    async def said(self, text: str) -> None:
        """Return once it has written a text."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.text:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)

    async def exited(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def bridge_process(output: Path, **environment: str) -> AsyncIterator[BridgeProcess]:
    """Start a bridge with an environment of its own, and kill it at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_"))}
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unpod_bridge", env={**kept, **environment}, stderr=file
        )
    try:
        yield BridgeProcess(process, output)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Stack:
    """NATS, the orchestrator, and what a test does with them."""

    def __init__(self, server: EmbeddedServer, nats: Nats, orchestrator: LocalOrchestrator, directory: Path) -> None:
        self.server = server
        self.nats = nats
        self.orchestrator = orchestrator
        self.news = News()
        self.subjects = SUBJECTS
        self.bridges: dict[str, BridgeAnnounced] = {}
        self.queued: list[int] = []
        self.topology: Topology = embedded_topology()
        self._directory = directory
        self._runners: list[FakeRunner] = []
        self._count = 0

    async def open(self, topology: Topology | None = None) -> None:
        self.topology = topology or self.topology
        self.log: JetStreamLog = await open_log(self.nats, self.topology.calls)
        self.jobs: JobStore = await open_jobs(self.nats, self.topology.jobs)
        await self.nats.subscribe(SUBJECTS.bridges, self._on_bridge)
        await self.nats.subscribe(SUBJECTS.queued("agent"), self._on_queued)

    async def close(self) -> None:
        for runner in self._runners:
            await runner.stop()

    async def forgotten(self, job_id: str) -> None:
        """Return once the bridges' record of a job is gone: it goes after the call has left the heartbeat."""
        async with asyncio.timeout(20):
            while await self.jobs.get(job_id) is not None:  # noqa: ASYNC110 - the store is another process
                await asyncio.sleep(0.02)

    def _on_bridge(self, message: Message) -> None:
        said = BRIDGE_ANNOUNCED.decode(message.data)
        self.bridges[said.bridge] = said
        self.news.tell()

    def _on_queued(self, message: Message) -> None:
        self.queued.append(QUEUED_ANNOUNCED.decode(message.data).count)
        self.news.tell()

    def states(self, key: str = "agent") -> list[str]:
        return [said.agents[key] for said in self.bridges.values() if key in said.agents]

    @asynccontextmanager
    async def bridge(self, **environment: str) -> AsyncIterator[BridgeProcess]:
        self._count += 1
        settings = {
            "UNPOD_API_KEY": KEY,
            "UNPOD_ORCHESTRATOR_URL": self.orchestrator.url,
            "UNPOD_NATS_URL": self.server.url,
            "UNPOD_LOG_LEVEL": "debug",
        }
        async with bridge_process(
            self._directory / f"bridge-{self._count}.log", **{**settings, **environment}
        ) as bridge:
            yield bridge

    def place(self, *, even_if_full: bool = False) -> asyncio.Task[LocalCall]:
        """Place a call without waiting for whoever takes it."""
        return asyncio.create_task(self.orchestrator.place_call("agent", even_if_full=even_if_full))

    async def runner(
        self, runner_id: str = "runner-1", capacity: int = 10, agent: str = "agent", *, dev: bool = False
    ) -> FakeRunner:
        runner = FakeRunner(self.nats, self.log, self.news, runner_id, agent, capacity)
        runner.dev = dev
        await runner.start()
        self._runners.append(runner)
        return runner


@asynccontextmanager
async def stack(directory: Path) -> AsyncIterator[Stack]:
    """NATS and the orchestrator; bridges and runners are for the test to start."""
    async with (
        EmbeddedServer(EmbeddedOptions(directory / "nats")) as server,
        connect(server.connection("test")) as nats,
        LocalOrchestrator(speed=50.0, heartbeat_interval_s=1) as orchestrator,
    ):
        made = Stack(server, nats, orchestrator, directory)
        try:
            yield made
        finally:
            await made.close()
