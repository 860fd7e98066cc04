"""One WebSocket on this side: frames go out in order through a bounded queue, and come in one by one."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType, web
from aiohttp.http import WebSocketError

from unpod_orchestrator.wire.constants import MAX_FRAME_BYTES, TOO_BIG

_MAX_QUEUED_FRAMES: Final = 4_000
_MAX_QUEUED_BYTES: Final = 16_000_000
_CLOSE_TIMEOUT_S: Final = 1.0
_MAX_REASON_BYTES: Final = 120


class _Close:
    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason.encode("utf-8", "replace")[:_MAX_REASON_BYTES].decode("utf-8", "ignore").encode()


def new_socket(ping_interval_s: float | None) -> web.WebSocketResponse:
    """A WebSocket answer with this side's limits; `ping_interval_s` finds out a peer that has vanished."""
    return web.WebSocketResponse(
        timeout=_CLOSE_TIMEOUT_S,
        heartbeat=ping_interval_s,
        max_msg_size=MAX_FRAME_BYTES + 1,  # aiohttp refuses what is as large as this
        compress=False,
    )


class SocketLink:
    """An open WebSocket; `run` reads it until it ends, the other methods return at once."""

    def __init__(
        self, socket: web.WebSocketResponse | ClientWebSocketResponse, transport: asyncio.BaseTransport | None
    ) -> None:
        self._socket = socket
        self._transport = cast("asyncio.Transport | None", transport)
        self._outbox: deque[tuple[bytes, WSMsgType] | _Close] = deque()
        self._outbox_bytes = 0
        self._closing = False
        self._aborted = False
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()

    def send(self, data: str | bytes, *, text: bool = True) -> None:
        """Queues a frame; a peer that has stopped reading for too long is cut off."""
        if self._closing:
            return
        payload = data.encode() if isinstance(data, str) else data
        if len(self._outbox) >= _MAX_QUEUED_FRAMES or self._outbox_bytes + len(payload) > _MAX_QUEUED_BYTES:
            self.abort()
            return
        self._outbox.append((payload, WSMsgType.TEXT if text else WSMsgType.BINARY))
        self._outbox_bytes += len(payload)
        self._wake.set()

    def close(self, code: int, reason: str = "") -> None:
        """Closes with a close frame, after what is queued."""
        if self._closing:
            return
        self._closing = True
        self._outbox.append(_Close(code, reason))
        self._wake.set()
        self.resume_reading()

    def abort(self) -> None:
        """Cuts the TCP connection: no close frame, and nothing queued is sent."""
        self._closing = self._aborted = True
        self._outbox.clear()
        if self._transport is not None:
            self._transport.abort()
        self._wake.set()
        self._may_read.set()

    def pause_reading(self) -> None:
        """Nothing is read any more, pings and the peer's end included: a half-open line."""
        self._may_read.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reading goes on."""
        self._may_read.set()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    async def run(self, on_text: Callable[[str], None], on_nonsense: Callable[[str], None]) -> int | None:
        """Reads until the line ends; the peer's close code, or None where it sent none, or this side closed."""
        pump = asyncio.create_task(self._pump())
        try:
            return await self._read(on_text, on_nonsense)
        finally:
            try:
                if self._closing and not self._aborted:
                    await asyncio.wait({pump}, timeout=2 * _CLOSE_TIMEOUT_S)
            finally:
                self._closing = True
                pump.cancel()

    async def _read(self, on_text: Callable[[str], None], on_nonsense: Callable[[str], None]) -> int | None:
        while True:
            await self._may_read.wait()
            try:
                message: WSMessage = await self._socket.receive()
            except ConnectionError:  # a ping came in the moment of a cut, and there is nothing to answer it on
                return None
            if message.type is WSMsgType.TEXT:
                on_text(message.data)
            elif message.type is WSMsgType.BINARY:
                on_nonsense("a binary frame")
            elif message.type is WSMsgType.CLOSE:
                return message.data or None
            else:
                if isinstance(message.data, WebSocketError):
                    on_nonsense(_describe(message.data))
                return None

    async def _pump(self) -> None:
        try:
            while await self._send_queued():
                await self._wake.wait()
        except (ConnectionError, RuntimeError):
            # The peer is gone, or aiohttp has closed the socket meanwhile; the reader notices and says so.
            self._closing = True

    async def _send_queued(self) -> bool:
        """Sends what is queued; false after a close."""
        self._wake.clear()
        while self._outbox:
            item = self._outbox.popleft()
            if isinstance(item, _Close):
                await self._socket.close(code=item.code, message=item.reason)
                return False
            payload, opcode = item
            self._outbox_bytes -= len(payload)
            await self._socket.send_frame(payload, opcode)
        return True


def _describe(error: WebSocketError) -> str:
    return "a frame of more than 1 MiB" if error.code == TOO_BIG else f"a broken WebSocket frame ({error.code})"
