"""The other side of the wire, and nothing more: control socket and call sockets that measure what comes back.

The same for everybody who is measured. The local orchestrator speaks, counts and checks; this one only takes the time.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

CONTROL_PATH: Final = "/v1/internal/workers"
_READY_S: Final = 20.0
_REPLY_S: Final = 10.0


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


def _text(**fields: Any) -> str:  # noqa: ANN401 - JSON
    return _ENCODE(fields).decode()


class Timing(msgspec.Struct, frozen=True):
    """One turn, in milliseconds from the caller's text: to the first delta, and to the reply's end."""

    first_delta_ms: float
    reply_end_ms: float
    text: str


class LineCall:
    """One call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connected = asyncio.Event()
        self._socket: ServerConnection | None = None
        self._turn = 0
        self._sent_at = 0.0
        self._first_at = 0.0
        self._pieces: list[str] = []
        self._ended: asyncio.Future[Timing] | None = None

    async def turn(self, text: str) -> Timing:
        """Say a text, and return what its reply took."""
        assert self._socket is not None
        self._turn += 1
        self._first_at, self._pieces = 0.0, []
        self._ended = asyncio.get_running_loop().create_future()
        frame = _text(event="user.text", text=text, is_final=True)
        self._sent_at = time.perf_counter()
        await self._socket.send(frame)
        async with asyncio.timeout(_REPLY_S):
            timing = await self._ended
        figures = _text(event="turn.metrics", call_id=self.name, turn_id=self._turn, asr_ms=1.0, tts_ttfb_ms=1.0)
        await self._socket.send(figures)
        return timing

    async def hang_up(self) -> None:
        """Hang up."""
        assert self._socket is not None
        await self._socket.close()

    async def serve(self, socket: ServerConnection) -> None:
        """Talk to whoever has dialled, until the socket is closed."""
        hello = _DECODE(await socket.recv())
        ids = {"session_id": self.name, "job_id": f"job-{self.name}", "room_id": "room"}
        await socket.send(
            _text(
                event="hello.ack",
                protocol_version=2,
                negotiated_events=hello.supported_events,
                negotiated_verbs=hello.supported_verbs,
                call_id=self.name,
                **ids,
            )
        )
        await socket.send(_text(event="call.started", metadata={}, voice_profile_id=None, agent_id=None, **ids))
        self._socket = socket
        self.connected.set()
        async for message in socket:
            self._received(_DECODE(message))

    def _received(self, frame: _Frame) -> None:
        now = time.perf_counter()
        if frame.event == "agent.text.delta":
            self._first_at = self._first_at or now
            self._pieces.append(frame.text)
        elif frame.event == "agent.text.end" and self._ended is not None and not self._ended.done():
            first, end = ((at - self._sent_at) * 1000 for at in (self._first_at, now))
            self._ended.set_result(Timing(first, end, "".join(self._pieces)))


class Line:
    """The orchestrator: whoever registers gets the calls of its agent."""

    def __init__(self) -> None:
        self._exit = AsyncExitStack()
        self._workers: dict[str, ServerConnection] = {}
        self._calls: dict[str, LineCall] = {}
        self._registered = asyncio.Condition()
        self.url = ""

    async def __aenter__(self) -> Self:
        server = await self._exit.enter_async_context(serve(self._serve, "127.0.0.1", 0, compression=None))
        port = next(iter(server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def place(self, agent: str, count: int) -> list[LineCall]:
        """Place calls with the agent's worker, once there is one; they are connected when this returns."""
        async with asyncio.timeout(_READY_S), self._registered:
            await self._registered.wait_for(lambda: agent in self._workers)
        calls = [LineCall(f"{agent}-{len(self._calls) + number}") for number in range(count)]
        for call in calls:
            self._calls[call.name] = call
            await self._workers[agent].send(
                _text(
                    type="job.assign",
                    job_id=f"job-{call.name}",
                    call_id=call.name,
                    agent_id=agent,
                    bridge_url=f"{self.url}/{call.name}",
                    call_token="token",
                    assign_id=f"assign-{call.name}",
                    deadline_ms=2000,
                    metadata={},
                )
            )
            async with asyncio.timeout(_READY_S):
                await call.connected.wait()
        return calls

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path.partition("?")[0]
        try:
            if path == CONTROL_PATH:
                await self._control(socket)
            else:
                await self._calls[path.removeprefix("/")].serve(socket)
        except ConnectionClosed:
            return

    async def _control(self, socket: ServerConnection) -> None:
        async for message in socket:
            frame = _DECODE(message)
            if frame.type == "register":
                await socket.send(_text(type="registered", heartbeat_interval_s=30, transport_ack="dial_out"))
                async with self._registered:
                    self._workers[frame.pool] = socket
                    self._registered.notify_all()
            elif frame.type == "job.ack" and not frame.accepted:
                raise RuntimeError(f"a call was refused: {frame.reason}")
