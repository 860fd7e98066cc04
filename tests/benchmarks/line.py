"""The other side of the wire, and nothing more: control socket and call sockets that measure what comes back.

The same for everybody who is measured. The local orchestrator speaks, counts and checks; this one only takes the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from tests.benchmarks.sockets import Owner, Socket

CONTROL_PATH: Final = "/v1/internal/workers"
_READY_S: Final = 60.0
_AT_ONCE: Final = 50
"""How many calls are placed before the first of them is connected."""


class _Frame(msgspec.Struct):
    """What is looked at of a frame."""

    event: str = ""
    type: str = ""
    text: str = ""
    pool: str = ""
    accepted: bool = True
    reason: str | None = None
    supported_events: list[str] = []
    supported_verbs: list[str] = []


_DECODE: Final = msgspec.json.Decoder(_Frame).decode
_ENCODE: Final = msgspec.json.Encoder().encode


def _text(**fields: Any) -> bytes:  # noqa: ANN401 - JSON
    return _ENCODE(fields)


class Timing(msgspec.Struct, frozen=True):
    """One turn, in milliseconds from the caller's text: to the first delta, and to the reply's end.

    `sent_at` is when the text was sent, on the machine's monotonic clock.
    """

    first_delta_ms: float
    reply_end_ms: float
    text: str
    sent_at: float


Done = Callable[["LineCall", Timing], None]


class LineCall:
    """One call. `busy` while a turn is not answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.job_id = f"job-{name}"
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.assigned_at = 0.0
        self.busy = False
        self.refused = ""
        self.over = False
        self._socket: Socket | None = None
        self._turn = 0
        self._sent_at = 0.0
        self._first_at = 0.0
        self._pieces: list[str] = []
        self._done: Done | None = None

    def ask(self, text: str, done: Done) -> None:
        """Say a text; `done` is called when its reply has ended."""
        assert self._socket is not None
        self._turn += 1
        self._first_at, self._pieces, self._done, self.busy = 0.0, [], done, True
        data = _text(event="user.text", text=text, is_final=True)
        self._sent_at = time.perf_counter()
        self._socket.send(data)

    def interrupt(self) -> None:
        """Cut in."""
        self.send(event="user.interrupted", turn_id=self._turn, heard_prefix=None)

    def send(self, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Send a frame, whatever it is."""
        assert self._socket is not None
        self._socket.send(_text(**fields))

    async def turn(self, text: str, within_s: float = 10.0) -> Timing:
        """Say a text, and return what its reply took."""
        ended: asyncio.Future[Timing] = asyncio.get_running_loop().create_future()
        self.ask(text, lambda _, timing: None if ended.done() else ended.set_result(timing))
        async with asyncio.timeout(within_s):
            return await ended

    def hang_up(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()

    def claim(self, socket: Socket) -> Owner:
        """Take the socket on which the agent has dialled."""
        self._socket = socket
        return self

    def closed(self) -> None:
        """Take note that the call is over."""
        self.over = True

    def received(self, data: bytes) -> None:
        """Take a frame."""
        now = time.perf_counter()
        frame = _DECODE(data)
        if frame.event == "agent.text.delta":
            self._first_at = self._first_at or now
            self._pieces.append(frame.text)
        elif frame.event == "agent.text.end":
            self._ended(now)
        elif frame.event == "hello":
            self._start(frame)

    def _start(self, hello: _Frame) -> None:
        assert self._socket is not None
        ids = {"session_id": self.name, "job_id": self.job_id, "room_id": "room"}
        negotiated = {"negotiated_events": hello.supported_events, "negotiated_verbs": hello.supported_verbs}
        self._socket.send(_text(event="hello.ack", protocol_version=2, call_id=self.name, **negotiated, **ids))
        self._socket.send(_text(event="call.started", metadata={}, voice_profile_id=None, agent_id=None, **ids))
        if not self.connected.done():
            self.connected.set_result(None)

    def _ended(self, now: float) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        assert self._socket is not None
        self.busy = False
        figures = _text(event="turn.metrics", call_id=self.name, turn_id=self._turn, asr_ms=1.0, tts_ttfb_ms=1.0)
        self._socket.send(figures)
        first, end = ((at - self._sent_at) * 1000 for at in (self._first_at or now, now))
        done(self, Timing(first, end, "".join(self._pieces), self._sent_at))


class Line:
    """The orchestrator: whoever registers gets the calls of its agent."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._calls: dict[str, LineCall] = {}
        self._news = asyncio.Event()
        self.url = ""

    def register(self, agent: str, worker: _Worker) -> None:
        """Take a worker."""
        self._workers[agent] = worker
        self._news.set()

    async def worker(self, agent: str) -> None:
        """Return once an agent has a worker."""
        async with asyncio.timeout(_READY_S):
            while agent not in self._workers:
                self._news.clear()
                await self._news.wait()

    async def place(self, agent: str, count: int, at_once: int = _AT_ONCE) -> list[LineCall]:
        """Place calls with the agent's worker, once there is one; they are connected when this returns."""
        await self.worker(agent)
        calls: list[LineCall] = []
        while len(calls) < count:
            some = [self._assign(agent) for _ in range(min(at_once, count - len(calls)))]
            async with asyncio.timeout(_READY_S):
                await asyncio.gather(*(call.connected for call in some))
            calls += some
        return calls

    def _assign(self, agent: str) -> LineCall:
        call = LineCall(f"{agent}-{len(self._calls)}")
        self._calls[call.name] = call
        data = _text(
            type="job.assign",
            job_id=call.job_id,
            call_id=call.name,
            agent_id=agent,
            bridge_url=f"{self.url}/{call.name}",
            call_token="token",
            assign_id=f"assign-{call.name}",
            deadline_ms=20_000,
            metadata={},
        )
        call.assigned_at = time.perf_counter()
        self._workers[agent].socket.send(data)
        return call

    def claim(self, path: str, socket: Socket) -> Owner:
        """Return whose socket it is."""
        where = path.partition("?")[0]
        if where == CONTROL_PATH:
            return _Worker(self, socket)
        return self._calls[where.removeprefix("/")].claim(socket)


class _Worker:
    """A control socket."""

    def __init__(self, line: Line, socket: Socket) -> None:
        self._line = line
        self.socket = socket

    def received(self, data: bytes) -> None:
        """Take a frame."""
        frame = _DECODE(data)
        if frame.type == "register":
            self.socket.send(_text(type="registered", heartbeat_interval_s=30, transport_ack="dial_out"))
            self._line.register(frame.pool, self)
        elif frame.type == "job.ack" and not frame.accepted:
            raise RuntimeError(f"a call was refused: {frame.reason}")

    def closed(self) -> None:
        """Take note of it."""


@asynccontextmanager
async def open_line() -> AsyncIterator[Line]:
    """Run an orchestrator for as long as the block lasts."""
    line = Line()
    server = await asyncio.get_running_loop().create_server(lambda: Socket(line.claim), "127.0.0.1", 0, backlog=1_024)
    port = server.sockets[0].getsockname()[1]
    line.url = f"ws://127.0.0.1:{port}"
    try:
        yield line
    finally:
        server.close()
