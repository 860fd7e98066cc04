"""One call through all of the bridge, from its call socket's bytes to NATS's and back; both other sides are in memory.

What carries it is the bridge's own: the WebSocket's frames, the state machine, the ledger, the ordered writer, the
connection to NATS. The worker's socket and NATS's are transports that keep what is written; the server acknowledges it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from nats.aio.client import Client

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Delta
from unpod.core.subjects import Subjects
from unpod.event_loop import batch
from unpod.jetstream import JetStreamLog, LogClock, Nats, NatsOptions, topology
from unpod_bridge.call.call import Call
from unpod_bridge.journal.journal import Writing
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.journal.stalls import StallDetector
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.outputs import Store
from unpod_bridge.transport import websocket_frames as frames
from unpod_bridge.transport.sockets import Receiver
from unpod_bridge.transport.websocket import Direct, SocketSettings, WebSocket
from unpod_bridge.wire.job import Job

SESSION: Final = "s1"
AGENT: Final = "agent"
OWNER_EPOCH: Final = 2
_SHORT: Final = 125
_TURNS: Final = 100
TEXT: Final = "word 0 "
REST: Final = "".join(f"word {number} " for number in range(1, 20))


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.writes = 0
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:  # noqa: ANN401 - as asyncio has it
        """Keep it."""
        self.writes += 1
        self.written.append(data)

    def take(self) -> bytes:
        """Return what was written since."""
        data, self.written = b"".join(self.written), []
        return data

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def abort(self) -> None:
        """Cut it."""
        if self.protocol is not None:
            self.protocol.connection_lost(None)

    def close(self) -> None:
        """Close it."""
        self.abort()


class _Dialer:
    """Opens the one socket."""

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport
        self.socket: WebSocket | None = None

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> WebSocket:
        """Return it."""
        del url, headers
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        opened = SimpleNamespace(
            transport=self._transport, masked=False, hand_over=lambda _: b"", connection_lost_waiter=lost
        )
        self.socket = self._transport.protocol = WebSocket(cast("Direct", opened), receiver, SocketSettings())
        return self.socket


class _Line(Call):
    """A call that needs no placing."""

    def _enter(self) -> None:
        self._feed(self._protocol.start(self._clock.now()))

    def _begin(self, output: do.Begin) -> None:
        self._spawn(self._placed(output))

    async def _placed(self, begin: do.Begin) -> None:
        await self._listen(begin.session_id)
        self._journal = self._open_journal(Writing(session=SESSION, source="bridge-1", epoch=1, offset_s=0.0))
        for frame in (begin.hello, begin.started):
            self._journal.put(Store("evt", frame.body, frame.data))
        self._feed(self._protocol.owner.appoint(OWNER_EPOCH, self._clock.now()))
        self._feed(self._protocol.begin(self._clock.now()))

    @property
    def carried(self) -> bool:
        """Whether the call is up."""
        return self._journal is not None and self._journal.backlog == 0


class Server:
    """NATS, as far as one connection to it can tell: it takes what is written, acknowledges records, and sends."""

    rounds = 1
    """So many turns of the event loop after the last that was written, all has been."""

    def __init__(self) -> None:
        self.nats = Nats(NatsOptions(("nats://nowhere",)))
        self.server_socket = _Transport()
        self._client = client = self.nats._client
        loop = asyncio.get_running_loop()
        writer = asyncio.StreamWriter(self.server_socket, asyncio.Protocol(), None, loop)
        client._transport = cast("Any", SimpleNamespace(_io_writer=writer))
        client._status = Client.CONNECTED
        client.options = {"verbose": False}
        client._server_info = {"max_payload": 2**20}
        client._max_payload = 2**20
        self.nats._up = True
        client.add_tail(f"{self.nats.replies.prefix}*", "", self.nats.replies.dispatch)
        self.sids: dict[str, int] = {}
        self.stored = 0

    async def settle(self) -> None:
        """Let the server answer what it has received, until nothing comes."""
        for _ in range(_TURNS):
            for _ in range(self.rounds):
                await asyncio.sleep(0)
            commands = self.server_socket.take()
            if not commands:
                return
            answers = b"".join(self._answers(commands))
            for line in self._client._framing.feed(answers):
                await self._client.on_control(line)
        raise AssertionError("what is tested does not come to rest")

    def tells(self, *messages: bytes) -> None:
        """Have the server send messages in one piece."""
        batch().read(self._client._framing.feed, b"".join(messages))

    def passes_on(self, command: bytes) -> bytes:
        """Return what the server sends to the connection of what this has published."""
        del command
        return b""

    def _answers(self, commands: bytes) -> list[bytes]:
        answers: list[bytes] = []
        at = 0
        while at < len(commands):
            begun, end = at, commands.index(b"\r\n", at)
            name, *parts = commands[at:end].decode().split()
            at = end + 2
            if name in ("PUB", "HPUB"):
                at += int(parts[-1]) + 2
                answers.append(self.passes_on(commands[begun:at]))
                if name == "HPUB":  # a record, with the reply subject of its acknowledgement
                    self.stored += 1
                    ack = b'{"stream":"UNPOD_CALLS","seq":%d}' % (10_000_000 + self.stored)
                    answers.append(b"MSG %b 1 %d\r\n%b\r\n" % (parts[1].encode(), len(ack), ack))
            elif name == "SUB":
                self.sids[parts[0]] = int(parts[-1])
            elif name == "PING":
                answers.append(b"PONG\r\n")
        return answers


class Scene(Server):
    """The worker and the server on both sides of one call."""

    def __init__(self) -> None:
        super().__init__()
        self.call_socket = _Transport()
        self.dialer = _Dialer(self.call_socket)
        services = LineServices(
            log=JetStreamLog(self.nats, topology().calls),
            bus=self.nats,
            subjects=Subjects(),
            clock=LogClock(),
            bridge_id="bridge-1",
            dialer=self.dialer,
            stalls=StallDetector(),
        )
        self.call = Subjects().call(AGENT, SESSION)
        self.line = _Line(Job("job-1", "c1", AGENT, "ws://nowhere", "token"), services)
        self._own = 0
        self._seen = 2
        self._turn = 0
        self._events = 0

    # ----------------------------------------------------------------------------------------------------- the sockets

    def says(self, **fields: object) -> None:
        """Have the worker send a frame."""
        self._receive(_frame(frames.TEXT, msgspec.json.encode(fields)))

    def _receive(self, data: bytes) -> None:
        assert self.dialer.socket is not None
        self.dialer.socket.data_received(data)

    # -------------------------------------------------------------------------------------------------------- the owner

    def delta(self, turn: int, number: int, text: str) -> bytes:
        """Return a piece of a reply as the server sends it."""
        data = msgspec.json.encode(Delta(OWNER_EPOCH, turn, 0, number, self._own, text))
        return b"MSG %b %d %d\r\n%b\r\n" % (self.call.delta.encode(), self.sids[self.call.live], len(data), data)

    def record(self, kind: str, body: Struct) -> bytes:
        """Return the owner's next record as the server sends it."""
        self._own = index = self._own + 1
        tag = str(body.__struct_config__.tag)
        block = (
            f"NATS/1.0\r\nNats-Msg-Id: {index:032x}@{OWNER_EPOCH}\r\nce-specversion: 1.0\r\nce-id: {index:032x}\r\n"
            f"ce-type: io.unpod.{kind}.{tag}.v1\r\nce-source: runner-1\r\nce-subject: {SESSION}\r\n"
            f"ce-time: 2023-11-14T22:13:20.250000Z\r\nUnpod-Epoch: {OWNER_EPOCH}\r\nUnpod-Index: {index}\r\n"
            f"Unpod-Seen: {self._seen}\r\nUnpod-Settled: {self._seen}\r\nUnpod-Handler: user_turn:0\r\n"
            f"Nats-Expected-Last-Subject-Sequence: {OWNER_EPOCH}\r\n"
            f"Nats-Expected-Last-Subject-Sequence-Subject: {self.call.own}\r\n\r\n"
        )
        subject = self.call.cmd if kind == "cmd" else f"{self.call.own.removesuffix('own')}run.{tag}"
        data = msgspec.json.encode(body)
        sizes = f"{len(block)} {len(block) + len(data)}"
        line = f"HMSG {subject} {self.sids[self.call.all]} _INBOX.{'x' * 22}.{index} {sizes}\r\n"
        return b"%b%b%b\r\n" % (line.encode(), block.encode(), data)

    async def turn(self) -> None:
        """Have the worker say a text, and the owner answer it at once."""
        self._turn = turn = self._turn + 1
        self.says(event="user.text", text="burst", is_final=True)
        await self.settle()
        end = cmd.EndReply(turn=turn, deltas=2, chars=len(TEXT + REST))
        pieces = self.delta(turn, 1, TEXT), self.delta(turn, 2, REST)
        self.tells(*pieces, self.record("cmd", end))
        await self.settle()
        assert self.call_socket.take(), "the worker has heard nothing"
        self._receive(_frame(frames.PONG, b"e%d" % turn))
        self.says(event="turn.metrics", call_id=SESSION, turn_id=turn, asr_ms=1.0, tts_ttfb_ms=1.0)
        completed = ev.TurnCompleted(turn_id=turn, user_text="burst", agent_text=TEXT + REST)
        await self.settle()
        self.tells(self.record("run", completed))
        await self.settle()
        self._seen += 3


def _frame(opcode: int, data: bytes) -> bytes:
    """Return a frame of the worker's, of less than 64 KB."""
    size = bytes((len(data),)) if len(data) <= _SHORT else b"\x7e" + len(data).to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + size + data


@asynccontextmanager
async def carried() -> AsyncIterator[Scene]:
    """Have one call up."""
    scene = Scene()
    running = asyncio.get_running_loop().create_task(scene.line.run())
    try:
        await _until(scene.call_socket.take)
        ids = {"session_id": SESSION, "job_id": "job-1", "room_id": "room"}
        scene.says(event="hello.ack", protocol_version=2, call_id=SESSION, negotiated_events=[], **ids)
        scene.says(event="call.started", metadata={}, voice_profile_id=None, agent_id=None, **ids)
        while not scene.line.carried:
            await scene.settle()
        yield scene
    finally:
        running.cancel()
        asyncio.get_running_loop().call_later(0.0, scene.call_socket.close)  # what was said goodbye to has gone
        await asyncio.wait([running])


async def _until(condition: Callable[[], object]) -> None:
    """Return once a condition holds, which takes some turns of the event loop."""
    for _ in range(_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the bridge does not do what it should")
