"""WebSockets: the `websockets` library, which nobody else imports, shakes hands; what follows is ours.

What is received is handed over where it is parsed, and what is written leaves in the same turn of the event loop: what
comes of one read of NATS, in one write. The library's own connection costs a task switch and a lock for each message,
several objects for each frame and 8 KB for each socket: a client's is let go after the handshake
(docs/adr/0010-the-call-socket.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import OPEN

from unpod.event_loop import batch
from unpod_bridge.transport import websocket_frames as frames
from unpod_bridge.transport.sockets import DialError, Receiver
from unpod_bridge.wire.urls import is_local, redact_url

if TYPE_CHECKING:
    from typing_extensions import override
else:  # Python 3.11 has no `typing.override`, and one decorator is no reason for a dependency
    override = lambda method: method  # noqa: E731 - read by no type checker

logger = logging.getLogger("unpod.bridge.websocket")

_HEAD_ENDS: Final = b"\r\n\r\n"

# The library logs the request line, token and all, at DEBUG: it gets a logger that nobody can turn up.
silent = logging.Logger("unpod.bridge.websocket.library", logging.CRITICAL + 1)  # noqa: LOG001


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSettings:
    """Times in seconds, sizes in bytes.

    `max_size` bounds memory, not the protocol: a longer frame than the protocol allows is handed over (and rejected
    there, with the call going on), only beyond this the socket is closed. A socket that says nothing for
    `ping_after_s` is asked, and dead after `pong_within_s` more; one that reads nothing for `stalled_s`, or more than
    `max_unsent` late, likewise.
    """

    connect_s: float = 5.0
    close_s: float = 2.0
    ping_after_s: float = 5.0
    pong_within_s: float = 4.0
    stalled_s: float = 10.0
    max_size: int = 8 * 1024 * 1024
    max_unsent: int = 4 * 1024 * 1024


class WebSocketDialer:
    """Opens WebSockets (`sockets.Dialer`)."""

    def __init__(self, settings: SocketSettings | None = None) -> None:
        self._settings = SocketSettings() if settings is None else settings

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> WebSocket:
        """Return an open socket (`Dialer.dial`)."""
        settings = self._settings
        where = redact_url(url)
        try:
            connection = await connect(
                url,
                additional_headers=headers,
                compression=None,
                open_timeout=settings.connect_s,
                close_timeout=settings.close_s,
                ping_interval=None,
                max_size=settings.max_size,
                logger=silent,
                proxy=None if is_local(url) else True,
                create_connection=_ClientConnection,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise DialError(f"{where} answered with HTTP {status}", status=status) from None
        except InvalidURI:
            raise DialError(f"{where} is not a WebSocket URL") from None
        except TimeoutError:
            raise DialError(f"{where} did not answer within {settings.connect_s:g} s") from None
        except OSError as error:
            raise DialError(f"{where} cannot be reached: {error.strerror or type(error).__name__}") from None
        except (WebSocketException, ValueError, EOFError) as error:  # their texts may quote the URL
            raise DialError(f"{where} does not speak WebSocket: {type(error).__name__}") from None
        return WebSocket(cast("_ClientConnection", connection), receiver, settings)


class Direct(Connection):
    """The library's connection, which sees the handshake only: a `socket` gets all bytes that come after it."""

    socket: WebSocket | None = None
    masked = False
    """Whether what comes from the other side is masked; what goes there is, if that is not."""
    _shaken = False
    _tail = b""
    _early = b""

    def hand_over(self, socket: WebSocket) -> bytes:
        """Give a socket what comes from now on; return what has come."""
        self.socket = socket
        early, self._early = self._early, b""
        return early

    @override
    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.socket is not None:
            self.socket.data_received(data)
        elif self._shaken:
            self._early += data
        else:
            self._shake(data)

    def _shake(self, data: bytes) -> None:
        """Let the library have what belongs to the handshake, and not a byte of the first frame."""
        ends = (self._tail + data).find(_HEAD_ENDS)
        if ends < 0:
            self._tail = (self._tail + data)[1 - len(_HEAD_ENDS) :]
            super().data_received(data)
            return
        ends += len(_HEAD_ENDS) - len(self._tail)
        super().data_received(data[:ends])
        if self.masked or self.protocol.state is OPEN:
            self._shaken, self._early = True, data[ends:]
        elif ends < len(data):  # a refusal, and what it says
            super().data_received(data[ends:])

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        super().connection_lost(exc)
        if self.socket is not None:
            self.socket.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        super().pause_writing()
        if self.socket is not None:
            self.socket.pause_writing()

    @override
    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self.socket is not None:
            self.socket.resume_writing()


class _ClientConnection(Direct, ClientConnection):
    """A connection that we have dialled."""

    @override
    def hand_over(self, socket: WebSocket) -> bytes:
        """Leave the transport to a socket."""
        self.transport.set_protocol(socket)
        return super().hand_over(socket)


class WebSocket(asyncio.Protocol):
    """One open socket (`sockets.Socket`), which a connection is handed over to."""

    __slots__ = (
        "_batch", "_deaf", "_doom", "_early", "_flushing", "_gone", "_heard_at", "_leaving", "_loop", "_masks", "_open",
        "_out", "_reader", "_receiver", "_settings", "_stall", "_theirs", "_timer", "_transport", "_waiters", "_why",
    )  # fmt: skip

    def __init__(self, connection: Direct, receiver: Receiver, settings: SocketSettings) -> None:
        self._receiver: Receiver | None = receiver
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._batch = batch()
        self._transport = connection.transport
        self._masks = not connection.masked
        self._reader = frames.Reader(masked=connection.masked, max_size=settings.max_size)
        self._open = True
        self._gone = False
        self._theirs: tuple[int, str] | None = None
        self._why = ""
        self._out: list[bytes] = []
        self._flushing = False
        self._deaf = False
        self._leaving = False
        self._waiters: list[asyncio.Future[None]] | None = None
        self._heard_at = self._loop.time()
        self._stall: asyncio.TimerHandle | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(settings.ping_after_s, self._look)
        self._early = connection.hand_over(self)
        if self._early:
            self._loop.call_soon(self.data_received, b"")
        if connection.connection_lost_waiter.done():
            self._loop.call_soon(self.connection_lost, None)

    # ------------------------------------------------------------------------------------------------------- receiving

    @override
    def data_received(self, data: bytes) -> None:
        """Take bytes (`asyncio.Protocol`)."""
        self._heard_at = self._loop.time()
        if self._early:
            data, self._early = self._early + data, b""
        try:
            self._reader.feed(data, self._take)
        except frames.Violation as violation:
            self._why = violation.reason
            self._reader.stop()
            self._say_goodbye(violation.code, violation.reason)
            self._closing()

    def _take(self, opcode: int, data: bytes) -> None:
        receiver = self._receiver
        if opcode <= frames.BINARY:
            if receiver is not None:
                receiver.on_frame(data, binary=opcode == frames.BINARY)
        elif opcode == frames.PONG:
            if data and receiver is not None:
                receiver.on_pong(data)
        elif opcode == frames.PING:
            self._send(frames.PONG, data)
        else:
            self._theirs = frames.goodbye(data)
            if self._open:
                self._end(data)
            self._closing()

    def _closing(self) -> None:
        """One side has sent a close frame, or broken the protocol: the receiver is told before TCP has ended."""
        if self._leaving and self._theirs is None:
            return  # we have closed, and still take what is on its way
        self._tell()
        if not self._masks and self._reader.stopped:
            self._transport.close()  # the server ends the connection, the client waits for that
        if self._doom is None and not self._gone:
            self._doom = self._loop.call_later(self._settings.close_s, self._transport.abort)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone (`asyncio.Protocol`)."""
        del exc  # the receiver is told close codes, not errors
        self._open, self._gone = False, True
        self._tell()
        if self._doom is not None:
            self._doom.cancel()
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._quiet()
        if receiver is None:
            return
        if self._theirs is not None and self._theirs[0] != frames.NO_CODE:
            receiver.on_lost(*self._theirs)
        else:
            receiver.on_lost(None, self._why)

    # --------------------------------------------------------------------------------------------------------- writing

    def write(self, data: bytes) -> None:
        """Send one text message (`Socket.write`)."""
        if self._open:
            self._send(frames.TEXT, data)

    def ping(self, token: bytes) -> None:
        """Ask for a pong (`Socket.ping`)."""
        if self._open:
            self._send(frames.PING, token)

    def _send(self, opcode: int, data: bytes) -> None:
        self._out.append(frames.encode(opcode, data, masked=self._masks))
        if self._flushing:
            return
        self._flushing = True
        if self._batch.reading:
            self._batch.defer(self._flush_turn, last=True)
        else:
            self._loop.call_soon(self._flush_turn)
            self._flush()

    def _flush_turn(self) -> None:
        self._flushing = False
        if self._out:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        transport = self._transport
        if not out or transport.is_closing():
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if transport.get_write_buffer_size() > self._settings.max_unsent:
            self._dead("it does not read")

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, and hear nothing more (`Socket.close`)."""
        self._receiver = None
        self._say_goodbye(code, reason)
        self._closing()

    def leave(self, code: int) -> None:
        """Send a close frame, and hear what is on its way (`Socket.leave`)."""
        if self._open:
            self._leaving = True
            self._say_goodbye(code)
            self._doom = self._loop.call_later(self._settings.close_s, self._transport.abort)
        else:
            self._closing()

    def abort(self) -> None:
        """Cut the connection (`Socket.abort`)."""
        self._receiver = None
        self._quiet()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Return once the connection is gone (`Socket.wait_closed`)."""
        if not self._gone:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter

    def _say_goodbye(self, code: int, reason: str = "") -> None:
        if self._open:
            self._end(frames.closing(code, reason))

    def _end(self, payload: bytes) -> None:
        """Send our close frame, and nothing of our own after it."""
        self._open = False
        self._out.append(frames.encode(frames.CLOSE, payload, masked=self._masks))
        self._flush()

    def _dead(self, why: str) -> None:
        logger.warning("a socket is given up: %s", why)
        self._transport.abort()

    # ------------------------------------------------------------------------------------------------ is it still there

    def _look(self) -> None:
        settings, now = self._settings, self._loop.time()
        idle = now - self._heard_at
        if self._deaf:
            self._heard_at, idle = now, 0.0  # we do not listen, so nothing can be said of it
        if idle < settings.ping_after_s:
            self._timer = self._loop.call_later(settings.ping_after_s - idle, self._look)
        elif idle < settings.ping_after_s + settings.pong_within_s:
            self.ping(b"")
            self._timer = self._loop.call_later(settings.pong_within_s, self._look)
        else:
            self._dead(f"nothing heard for {idle:.1f} s")

    @override
    def pause_writing(self) -> None:
        """The other side does not read, and the buffer is full (`asyncio.Protocol`)."""
        if self._stall is None:
            self._stall = self._loop.call_later(self._settings.stalled_s, self._dead, "it has stopped reading")

    @override
    def resume_writing(self) -> None:
        """The other side reads again (`asyncio.Protocol`)."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def pause_reading(self) -> None:
        """Let the other side wait (`Socket.pause_reading`)."""
        if not self._deaf and not self._transport.is_closing():
            self._deaf = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on (`Socket.resume_reading`)."""
        if self._deaf:
            self._deaf, self._heard_at = False, self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _quiet(self) -> None:
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
