"""One call on a bridge, with everything around it in memory: a worker's sockets, the log, an owner, and the time."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.envelope import Envelope, to_headers
from unpod.core.live import LIVE_SUBJECT, Delta, SeenAnswer, SeenRecord
from unpod.core.subjects import Subjects
from unpod.core.withhold import withhold
from unpod.ports import Fence, Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.placing import LineResult, LineServices, LineSettings, NewCall
from unpod_bridge.journal.stalls import StallDetector
from unpod_bridge.transport.sockets import DialError, Receiver
from unpod_bridge.wire.call_frames import OWN_VERBS, VERBS
from unpod_bridge.wire.job import Job

SUBJECTS = Subjects()
TOKEN = "t0p-s3cret&token"


class FakeSocket:
    """The worker's end of one call socket."""

    def __init__(self, receiver: Receiver, url: str) -> None:
        self.receiver: Receiver | None = receiver
        self.url = url
        self.sent: list[dict[str, object]] = []
        self.pings: deque[bytes] = deque()
        self.closed: int | None = None
        self.pauses: list[bool] = []
        self.auto_pong = True

    def write(self, data: bytes) -> None:
        if self.closed is None:
            self.sent.append(json.loads(data))

    def ping(self, token: bytes) -> None:
        self.pings.append(token)
        if self.auto_pong:
            asyncio.get_running_loop().call_soon(self.pong)

    def close(self, code: int, reason: str = "") -> None:
        self.closed = code if self.closed is None else self.closed
        self.receiver = None

    def leave(self, code: int) -> None:
        self.closed = code if self.closed is None else self.closed

    def abort(self) -> None:
        self.close(1006)

    def pause_reading(self) -> None:
        self.pauses.append(True)

    def resume_reading(self) -> None:
        self.pauses.append(False)

    async def wait_closed(self) -> None:
        return

    # --- what the worker does

    def pong(self) -> None:
        if self.pings and self.receiver is not None:
            self.receiver.on_pong(self.pings.popleft())

    def say(self, event: str, /, **fields: object) -> None:
        self.raw(json.dumps({"event": event, **fields}).encode())

    def raw(self, data: bytes, *, binary: bool = False) -> None:
        if self.receiver is not None:
            self.receiver.on_frame(data, binary=binary)

    def lose(self, code: int | None = None, reason: str = "") -> None:
        receiver, self.receiver = self.receiver, None
        self.closed = code or 1006
        if receiver is not None:
            receiver.on_lost(code, reason)

    @property
    def events(self) -> list[object]:
        return [frame["event"] for frame in self.sent]


Answer = Callable[["FakeSocket"], None] | DialError
"""What a dial leads to: what the worker does on the new socket, or a refusal."""


@dataclass
class FakeWorker:
    """A `Dialer` whose other end is a worker; `script` answers the dials in turn, then `greet` does."""

    session_id: str = "session-1"
    verbs: tuple[str, ...] = VERBS + OWN_VERBS
    metadata: dict[str, object] = field(default_factory=dict)
    script: deque[Answer] = field(default_factory=deque)
    sockets: list[FakeSocket] = field(default_factory=list)
    dials: int = 0

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> FakeSocket:
        self.dials += 1
        answer = self.script.popleft() if self.script else self.greet
        if isinstance(answer, DialError):
            raise answer
        socket = FakeSocket(receiver, url)
        self.sockets.append(socket)
        asyncio.get_running_loop().call_soon(answer, socket)
        return socket

    def greet(self, socket: FakeSocket) -> None:
        self.ack(socket)
        self.start(socket)

    def ack(self, socket: FakeSocket) -> None:
        socket.say("hello.ack", protocol_version=2, negotiated_verbs=list(self.verbs), session_id=self.session_id)

    def start(self, socket: FakeSocket) -> None:
        socket.say("call.started", session_id=self.session_id, job_id="job-1", room_id="r", metadata=self.metadata)

    @property
    def socket(self) -> FakeSocket:
        return self.sockets[-1]


@dataclass
class FakePlace:
    """A runner's place."""

    runner_id: str = "runner-1"
    waited_s: float | None = None
    willing: bool = True
    answers: asyncio.Event | None = None
    begun: list[str] = field(default_factory=list)
    started: list[tuple[str, int, int]] = field(default_factory=list)
    positions: bytes = b""
    released: list[str] = field(default_factory=list)

    async def begin(self, session_id: str) -> None:
        self.begun.append(session_id)

    async def start(self, session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
        self.started.append((session_id, epoch, until_seq))
        self.positions = positions
        if self.answers is not None:
            await self.answers.wait()
        return self.willing

    async def release(self, reason: str) -> None:
        self.released.append(reason)


class Rig:
    """One call and its surroundings."""

    def __init__(
        self, worker: FakeWorker, settings: LineSettings, *, url: str, stalls: StallDetector | None = None
    ) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(now_ns=self.clock.now_ns)
        self.log = MemoryLog(self.broker)
        self.owner_log = MemoryLog(self.broker)
        self.worker = worker
        self.place = FakePlace()
        services = self.services = LineServices(
            log=self.log,
            bus=self.log,
            subjects=SUBJECTS,
            clock=self.clock,
            bridge_id="bridge-1",
            dialer=worker,
            stalls=stalls,
        )
        self.stalls = stalls
        self.make: Callable[[], NewCall] = partial(
            NewCall, Job("job-1", "call-1", "agent-1", url, TOKEN), self.place, services, settings
        )
        self.line = self.make()
        self.task: asyncio.Task[LineResult] | None = None
        self.index = 0
        self.seen: list[SeenRecord] = []
        """What the owner has seen of this bridge's newest records."""

    def say_seen(self, message: Message) -> None:
        """The owner is asked for that."""
        self.owner_log.send(message.reply, codec.encode(SeenAnswer(tuple(self.seen))))

    @property
    def epoch(self) -> int:
        return self.place.started[0][1]

    def run(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.line.run())

    def another(self) -> asyncio.Task[LineResult]:
        """The same call a second time."""
        return asyncio.get_running_loop().create_task(self.make().run())

    async def result(self) -> LineResult:
        assert self.task is not None
        return await self.task

    async def message(self, command: cmd.AnyCommand, name: str = "") -> Message:
        """Return the next record of the owner without sending it."""
        self.index += 1
        envelope = Envelope(
            id=ids.derive("test", name or self.index),
            type=f"cmd.{ev.tag_of(command)}",
            source="runner-1",
            session=self.worker.session_id,
            time=self.clock.now(),
            epoch=self.epoch,
            index=self.index,
        )
        subject = SUBJECTS.call("agent-1", self.worker.session_id).cmd
        return Message(subject, codec.encode(command), to_headers(envelope))

    async def command(self, command: cmd.AnyCommand, name: str = "", *, withheld: bool = False) -> None:
        """The owner stores a command."""
        subjects = SUBJECTS.call("agent-1", self.worker.session_id)
        message = await self.message(command, name)
        data = message.data
        if withheld:
            await self.owner_log.publish(subjects.text, data, {**message.headers, LIVE_SUBJECT: subjects.cmd})
            data = codec.encode(withhold(command))
        await self.owner_log.append(subjects.cmd, data, message.headers, fence=Fence(subjects.own, self.epoch))
        await self.settle()

    async def delta(self, turn: int, n: int, text: str, *, part: int = 0, after: int | None = None) -> None:
        """The owner sends a piece of a reply."""
        subjects = SUBJECTS.call("agent-1", self.worker.session_id)
        piece = Delta(self.epoch, turn, part, n, self.index if after is None else after, text)
        await self.owner_log.publish(subjects.delta, codec.encode(piece))

    async def end_reply(self, turn: int, deltas: int, chars: int = 0, **more: object) -> None:
        await self.command(cmd.EndReply(turn=turn, deltas=deltas, chars=chars, **more))  # type: ignore[arg-type]

    async def settle(self) -> None:
        """Let everything that is ready happen."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Wait for something that takes real time: the log's own retries; the virtual clock moves along by `step_s`."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)
                if step_s:
                    await self.clock.advance(step_s)

    def records(self, channel: str = "") -> list[Record]:
        """What stands in the log."""
        found = [codec.read(SUBJECTS, m.subject, m.headers, m.data, m.seq) for m in self.broker.records]
        return [record for record in found if not channel or record.channel == channel]

    def types(self, channel: str = "") -> list[str]:
        return [record.envelope.type.partition(".")[2] for record in self.records(channel)]

    def bodies(self, kind: type[object]) -> list[object]:
        return [record.body for record in self.records() if isinstance(record.body, kind)]

    def outcomes(self) -> list[tuple[str, str]]:
        return [(fact.verb, fact.outcome) for fact in self.bodies(ev.CommandAcknowledged)]  # type: ignore[attr-defined]


@asynccontextmanager
async def call(
    *,
    worker: FakeWorker | None = None,
    settings: LineSettings | None = None,
    up: bool = True,
    url: str = "ws://w/c?a=1",
    stalls: StallDetector | None = None,
) -> AsyncIterator[Rig]:
    """Run one call; with `up`, return once its owner has been told to start."""
    rig = Rig(worker or FakeWorker(), settings or LineSettings(), url=url, stalls=stalls)
    if rig.worker.session_id:
        await rig.owner_log.subscribe(SUBJECTS.call("agent-1", rig.worker.session_id).seen, rig.say_seen)
    rig.run()
    await rig.settle()
    if up:
        assert rig.place.started
    try:
        yield rig
    finally:
        assert rig.task is not None
        if not rig.task.done():
            rig.line.cancel()
            await rig.settle()
        if not rig.task.done():
            rig.task.cancel()
        await asyncio.wait([rig.task])
