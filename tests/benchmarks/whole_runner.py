"""One call through all of a runner, from NATS's bytes to NATS's bytes; the server and the bridge behind it are here.

What carries it is the runner's own: the connection to NATS, the codec, the session, its adapter, the ordered writer.
The socket is a transport that keeps what is written. The server acknowledges each record and sends it to those who
listen, the runner itself among them, as a real one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from tests.benchmarks.whole_bridge import Server

from unpod.core import events as ev
from unpod.core.dispatch_messages import Start
from unpod.core.headers import HeaderText
from unpod.core.positions import Positions
from unpod.core.subjects import Channel, Subjects
from unpod.jetstream import JetStreamLog, LogClock, topology
from unpod.ports import Message
from unpod.runner.call import CallServices, Entrypoint, RunningCall
from unpod.runner.context import CallContext
from unpod.runner.probation import Probation
from unpod.session.settings import SessionSettings

SESSION: Final = "s1"
AGENT: Final = "agent"


class _Log(JetStreamLog):
    """A stream that has the call's records so far."""

    async def read(
        self, pattern: str, *, start_seq: int = 1, until_seq: int = 0, positions: Positions | None = None
    ) -> AsyncGenerator[Message, None]:
        """Yield them."""
        del pattern, start_seq, until_seq, positions
        for message in self.stored:
            yield message

    stored: Sequence[Message] = ()


class Scene(Server):
    """The server and the bridge on the other side of one call of a runner."""

    rounds = 30

    def __init__(self, entrypoint: Entrypoint, past: Sequence[Message] = ()) -> None:
        super().__init__()
        self.subjects = Subjects()
        self.call = self.subjects.call(AGENT, SESSION)
        clock = LogClock()
        self.heard: list[bytes] = []
        self.records: list[Message] = [*past]
        self._index = 0
        self._turn = 0
        if not past:
            self._begin()
        log = _Log(self.nats, topology().calls)
        log.stored = self.records
        services = CallServices(
            log=log,
            bus=self.nats,
            clock=clock,
            subjects=self.subjects,
            runner_id="runner-1",
            agent_id=AGENT,
            probation=Probation(clock, lambda _start, _phase: None),
            settings=SessionSettings(agent_id=AGENT),
            entrypoint=entrypoint,
            on_call_start=_nothing,
            on_call_end=_nothing,
        )
        until = self.records[-1].seq
        begun = Start(job="job-1", agent=AGENT, session=SESSION, epoch=until - 1, until_seq=until)
        self.running = RunningCall(services, begun)

    def _begin(self) -> None:
        """Write what stands in the log before the owner can act."""
        self._record("line", ev.LineTaken(bridge="bridge-1"))
        self._record("evt", ev.HelloAcked())
        self._record("evt", ev.CallStarted(session_id=SESSION))
        self._own(ev.OwnerChanged(epoch=0, runner="runner-1"))

    def _own(self, start: ev.OwnerChanged) -> None:
        self._record("own", ev.OwnerAppointed(runner=start.runner, takeover=start.takeover))
        self._record("ack", replace(start, epoch=len(self.records)))

    def moved(self) -> list[Message]:
        """Have the bridge appoint another runner, and return what this will read."""
        last = sum(".cmd" in record.subject or ".run." in record.subject for record in self.records)
        text = "It is what it is."
        start = ev.OwnerChanged(epoch=0, runner="runner-2", takeover=1, last_owner_index=last, turn=self._turn)
        self._own(replace(start, deltas=2, chars=len(text), text=text))
        return self.records

    def _record(self, channel: Channel, body: Struct) -> tuple[str, bytes, bytes]:
        """Store the bridge's next record, and return it; nothing of unpod is called that would be counted."""
        placed = channel in ("line", "own")
        if not placed:
            self._index += 1
        index, epoch, tag = (0 if placed else self._index), int(not placed), str(body.__struct_config__.tag)
        identifier = f"{channel}{index:028x}"
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        block = (
            f"NATS/1.0\r\nNats-Msg-Id: {identifier}\r\nce-specversion: 1.0\r\nce-id: {identifier}\r\n"
            f"ce-type: io.unpod.{channel}.{tag}.v1\r\nce-source: /unpod/bridge/b\r\nce-subject: {SESSION}\r\n"
            f"ce-time: {moment}\r\nUnpod-Epoch: {epoch}\r\nUnpod-Index: {index}\r\n\r\n"
        )
        subject = f"{self.call.line.removesuffix('line')}{channel}{f'.{tag}' if channel == 'evt' else ''}"
        data = msgspec.json.encode(body)
        self._store(subject, block.encode(), data)
        return subject, block.encode(), data

    def _store(self, subject: str, block: bytes, data: bytes) -> None:
        text = HeaderText(block[block.index(b"\r\n") + 2 : -4].decode())
        self.records.append(Message(subject, data, text, len(self.records) + 1, time.time_ns()))

    # --- the bridge ---------------------------------------------------------------------------------------------------

    async def writes(self, channel: Channel, body: Struct) -> None:
        """Have the bridge write a record, and let the runner do what it does."""
        subject, block, data = self._record(channel, body)
        sizes = f"{len(block)} {len(block) + len(data)}"
        line = f"HMSG {subject} {self.sids[self.call.all]} _INBOX.bridge.1 {sizes}\r\n"
        self.tells(b"%b%b%b\r\n" % (line.encode(), block, data))
        await self.settle()

    async def turn(self) -> None:
        """Say a text, have the reply spoken, and give its figures."""
        self._turn = turn = self._turn + 1
        self.heard.clear()
        await self.writes("evt", ev.UserText(text="What is it?"))
        assert any(b".cmd " in command for command in self.heard), "the reply has not ended"
        await self.writes("ack", ev.ReplySpoken(turn=turn, deltas=2, chars=17, ended=True))
        await self.writes("evt", ev.TurnMetrics(turn_id=turn, asr_ms=1.0, tts_ttfb_ms=1.0))
        assert any(b"turn.completed" in command for command in self.heard), "the turn is not completed"

    def passes_on(self, command: bytes) -> bytes:
        """Return what the server sends to the runner of what this has published."""
        self.heard.append(command)
        line, _, rest = command.partition(b"\r\n")
        name, subject, *more = line.decode().split()
        if name == "PUB":  # a piece of a reply
            return f"MSG {subject} {self.sids[self.call.live]} {more[-1]}\r\n".encode() + rest
        head = int(more[1])
        self._store(subject, rest[:head], rest[head:-2])
        return f"HMSG {subject} {self.sids[self.call.all]} {' '.join(more)}\r\n".encode() + rest


async def _nothing(*_: object) -> None:
    """Take no note."""


@asynccontextmanager
async def carried(entrypoint: Entrypoint, past: Sequence[Message] = ()) -> AsyncIterator[Scene]:
    """Have one call up, or taken over with its past."""
    begun = asyncio.Event()

    async def begin(context: CallContext) -> None:
        begun.set()
        await entrypoint(context)

    scene = Scene(begin, past)
    task = asyncio.get_running_loop().create_task(scene.running.run())
    try:
        while not (begun.is_set() and scene.running.live):
            await scene.settle()
        await scene.settle()
        yield scene
    finally:
        scene.running.abandon()
        await asyncio.wait([task])
