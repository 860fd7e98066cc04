"""A line and its runners over the log and the bus in memory, the time virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.unit.bridge.call.call_rig import SUBJECTS, FakePlace, FakeWorker

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.dispatch_messages import (
    OFFER,
    PING,
    PROBATION_TOLD,
    TO_RUNNER,
    Hold,
    Offer,
    OfferAnswered,
    ProbationPhase,
    ProbationTold,
    Pulse,
    Release,
    Start,
    Told,
    encode,
)
from unpod.core.envelope import Envelope, to_headers
from unpod.core.live import Delta
from unpod.core.positions import unpack
from unpod.ports import Fence, Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.placing import LineResult, LineServices, NewCall
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.dispatch import Dispatcher, DispatchTimes
from unpod_bridge.fleet.runner_health import RunnerHealth
from unpod_bridge.fleet.suspects import Suspect, Suspects
from unpod_bridge.wire.call_frames import VERBS
from unpod_bridge.wire.job import Job

CALL = SUBJECTS.call("agent-1", "session-1")
QUICK = DispatchTimes(try_s=0.05, pause_s=(0.005, 0.01), resume_s=0.2, avoid_s=0.1)
"""Finding a runner takes real time."""


class Runner:
    """A runner that takes over what it is offered, and writes what a test tells it to."""

    def __init__(self, broker: MemoryBroker, runner_id: str) -> None:
        self.log = MemoryLog(broker)
        self.runner_id = runner_id
        self.offers: list[Offer] = []
        self.told: list[Hold | Start | Release] = []
        self.starts: list[Start] = []
        """What it was told to begin with; one that is held is not begun."""
        self.epoch = 0
        self.willing = True
        self.lets_in = True
        self.older = False
        """Whether it is of a release that waits for a second word."""
        self.culprit = ""
        self.deaf_to: type[object] | None = None
        self.index = 0
        self.seqs: dict[int, int] = {}
        self.tells = True
        """Whether it says where its records stand."""

    async def listen(self) -> Runner:
        await self.log.subscribe(SUBJECTS.resume("agent-1"), self._on_offer, queue="runners")
        await self.log.subscribe(SUBJECTS.runner(self.runner_id), self._on_told)
        await self.log.subscribe(f"{SUBJECTS.runner(self.runner_id)}.ping", self._on_ping)
        return self

    @property
    def given(self) -> Start:
        """The start with which it was told where records stand."""
        [start] = [told for told in self.told if isinstance(told, Start) and told.positions]
        return start

    def die(self) -> None:
        self.log.available = False

    def _on_offer(self, message: Message) -> None:
        self.offers.append(OFFER.decode(message.data))
        answer = OfferAnswered(answer="taken" if self.willing else "full", runner=self.runner_id)
        self.log.send(message.reply, encode(answer))

    def _on_told(self, message: Message) -> None:
        told = TO_RUNNER.decode(message.data)
        self.told.append(told)
        if isinstance(told, Start):
            self.epoch = told.epoch
            self._waiting = told
            if not told.held or (self.lets_in and not self.older):
                self.starts.append(told)
            if told.held and self.lets_in and not self.older:
                self.say("begun")
        if self.deaf_to is not None and isinstance(told, self.deaf_to):
            return
        if message.reply:
            self.log.send(message.reply, encode(Told(ok=True, lets_in=not self.older)))

    def say(self, phase: ProbationPhase, session: str = "session-1") -> None:
        """Say how far a session is that was held."""
        said = ProbationTold(runner=self.runner_id, session=session, epoch=self.epoch, phase=phase)
        self.log.send(SUBJECTS.bridge("bridge-1"), encode(said))

    def let_in(self) -> None:
        """The turn of the one that is held has come."""
        self.starts.append(self._waiting)
        self.say("begun")

    def _on_ping(self, message: Message) -> None:
        ping = PING.decode(message.data)
        sessions = dict.fromkeys(ping.sessions, (self.epoch, self.index))
        pulse = Pulse(
            runner=self.runner_id,
            lag_s=6.0 if self.culprit else 0.0,
            culprit=self.culprit,
            sessions=sessions,
            stored={name: (after, self._behind(after)) for name, after in ping.after.items() if self.tells},
        )
        self.log.send(message.reply, encode(pulse))

    def _behind(self, after: int) -> list[int]:
        return [seq for index, seq in sorted(self.seqs.items()) if index > after]

    # --- the session

    async def write(self, body: cmd.AnyCommand | ev.SessionEvent, *, index: int = 0, settled: int = 0) -> str:
        self.index = index or self.index + 1
        channel = "cmd" if isinstance(body, cmd.Command) else "run"
        tag = ev.tag_of(body)
        identifier = ids.derive("test", self.runner_id, self.index)
        envelope = Envelope(
            id=identifier,
            type=f"{channel}.{tag}",
            source=self.runner_id,
            session="session-1",
            time=1.0,
            epoch=self.epoch,
            index=self.index,
            seen=3,
            settled=settled,
        )
        subject = CALL.cmd if channel == "cmd" else CALL.run(tag)
        fence = Fence(CALL.own, self.epoch)
        stored = await self.log.append(subject, codec.encode(body), to_headers(envelope), fence=fence)
        self.seqs[self.index] = stored.seq
        return identifier

    def speak(self, turn: int, n: int, text: str, *, part: int = 0) -> None:
        self.log.send(CALL.delta, codec.encode(Delta(self.epoch, turn, part, n, 0, text)))


class FirstPlace(FakePlace):
    """The place at the call's first runner, which was found before the line began."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.runner_id)
        self._runner = runner

    async def start(self, session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
        start = Start(
            job="job-1",
            agent="agent-1",
            session=session_id,
            epoch=epoch,
            until_seq=until_seq,
            positions=positions,
        )
        self._runner.starts.append(start)
        self._runner.epoch = epoch
        return self.willing


class House:
    """One call on a bridge that cares for its owner."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(now_ns=self.clock.now_ns)
        self.log = MemoryLog(self.broker)
        self.worker = FakeWorker(verbs=VERBS)
        self.runner_health = RunnerHealth(self.log, SUBJECTS, self.clock, "bridge-1")
        self.suspects = Suspects(self.clock)
        self.dispatcher = Dispatcher(self.log, SUBJECTS, "bridge-1", times=QUICK)
        self.services = LineServices(
            log=self.log, bus=self.log, subjects=SUBJECTS, clock=self.clock, bridge_id="bridge-1", dialer=self.worker
        )
        self.first = Runner(self.broker, "runner-1")
        self.place = FirstPlace(self.first)
        care = Care(self.runner_health, self.suspects, self.dispatcher.resume)
        job = Job("job-1", "call-1", "agent-1", "ws://w/c", "token")
        self.line = NewCall(job, self.place, self.services, care=care)
        self.task: asyncio.Task[LineResult] | None = None

    async def listen(self) -> None:
        await self.log.subscribe(SUBJECTS.bridge("bridge-1"), self._on_told)

    def _on_told(self, message: Message) -> None:
        self.suspects.told(PROBATION_TOLD.decode(message.data))

    def beside(self, runner: Runner, session: str) -> Suspect:
        """Another session is on probation at a runner."""
        held = self.suspects.hold(runner.runner_id, session, 1)
        self.suspects.told(ProbationTold(runner=runner.runner_id, session=session, epoch=1, phase="begun"))
        return held

    async def runner(self, runner_id: str) -> Runner:
        return await Runner(self.broker, runner_id).listen()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - real time, and the condition has no event
                await asyncio.sleep(0.001)  # the dispatcher's pauses are real time
        await settle()

    async def kill(self, runner: Runner) -> None:
        """The runner dies, and the server says so."""
        runner.die()
        self.runner_health.said_gone(runner.runner_id)
        await settle()

    def lose(self, why: str) -> None:
        """The watch takes the runner for lost."""
        watched = self.runner_health._sessions["session-1"]
        watched.lose(why)
        watched.session.succeed()

    def hear(self, text: str) -> None:
        self.worker.socket.say("user.text", text=text)

    async def hang_up(self) -> LineResult:
        self.worker.socket.lose(1000)
        assert self.task is not None
        return await self.task

    def records(self, kind: type[object]) -> list[Record]:
        found = [codec.read(SUBJECTS, m.subject, m.headers, m.data, m.seq) for m in self.broker.records]
        return [record for record in found if isinstance(record.body, kind)]

    def is_charted(self, index: int) -> bool:
        """Whether the bridge knows where the owner's records up to an index stand."""
        assert self.line._journal is not None
        return self.line._journal.stream_positions.owner_index == index

    @property
    def changes(self) -> list[ev.OwnerChanged]:
        return [record.body for record in self.records(ev.OwnerChanged) if isinstance(record.body, ev.OwnerChanged)]

    @property
    def said(self) -> list[object]:
        return [frame.get("text") for frame in self.worker.socket.sent if frame["event"] == "agent.say"]

    @property
    def spoken(self) -> list[object]:
        """Pieces of replies as their texts, ends as None."""
        return [f.get("text") for f in self.worker.socket.sent if str(f["event"]).startswith("agent.text.")]


@asynccontextmanager
async def a_house(*, started: bool = True) -> AsyncIterator[House]:
    """Run one call whose runner takes no other."""
    made = House()
    made.place.willing = started
    await made.listen()
    await made.first.listen()
    made.first.willing = False
    watching = asyncio.create_task(made.runner_health.run())
    made.task = asyncio.create_task(made.line.run())
    await settle(40)
    try:
        yield made
    finally:
        for task in (made.task, watching):
            task.cancel()
        await asyncio.wait({made.task, watching})
        after = None if made.task.cancelled() else made.task.result().after
        if after is not None and "_journal" in vars(after):  # the test has not waited for the cleanup
            await after.leave_cleanup()
            await after.clean_up()


def handed(start: Start, broker: MemoryBroker) -> tuple[list[int], bool]:
    """Return what a runner was told of where records stand, and whether it leaves out nothing of its history."""
    positions = unpack(start.positions)
    stored = [message.seq for message in broker.records if message.seq <= start.until_seq]
    return list(positions.seqs), positions.through >= start.until_seq and list(positions.seqs) == stored
