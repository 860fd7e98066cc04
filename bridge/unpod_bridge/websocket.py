"""WebSockets over the `websockets` library, which nobody else imports.

What is received is handed over where it is parsed, and what is written leaves in the same turn of the event loop: the
library's own `recv` and `send` cost a task switch and a lock for each message.
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
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event

from unpod_bridge.sockets import DialError, Receiver
from unpod_bridge.urls import is_local, redact_url

if TYPE_CHECKING:
    from typing_extensions import override
else:  # Python 3.11 has no `typing.override`, and one decorator is no reason for a dependency
    override = lambda method: method  # noqa: E731 - read by no type checker

logger = logging.getLogger("unpod.bridge.websocket")

_NO_CODES: Final = frozenset({1005, 1006, 1015})
"""What the library makes up where the other side sent no close code."""

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
        made = cast("_ClientConnection", connection)
        made.request = made.response = None  # kilobytes for each call, and nobody asks for them again
        return WebSocket(made, receiver, settings)


class Direct(Connection):
    """The library's connection with its receiving queue left out: each event goes to `socket` where it is parsed."""

    socket: WebSocket | None = None
    early: list[Frame] | None = None

    @override
    def process_event(self, event: Event) -> None:
        """Pass a frame on."""
        if not isinstance(event, Frame):
            super().process_event(event)  # the answer to the handshake
        elif self.socket is not None:
            self.socket.received(event)
        else:  # came in one packet with the answer to the handshake
            self.early = [*(self.early or ()), event]

    @override
    def data_received(self, data: bytes) -> None:
        """Take bytes; a closing handshake in them is told at once."""
        super().data_received(data)
        if self.socket is not None and self.protocol.state is not OPEN:
            self.socket.closing()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        super().connection_lost(exc)
        if self.socket is not None:
            self.socket.lost()

    @override
    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        super().pause_writing()
        if self.socket is not None:
            self.socket.stalled()

    @override
    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self.socket is not None:
            self.socket.unstalled()


class _ClientConnection(Direct, ClientConnection):
    """A connection that we have dialled."""


class WebSocket:
    """One open socket (`sockets.Socket`)."""

    __slots__ = (
        "_connection", "_deaf", "_doom", "_flushing", "_heard_at", "_leaving", "_loop", "_partial", "_partial_binary",
        "_receiver", "_settings", "_stall", "_timer",
    )  # fmt: skip

    def __init__(self, connection: Direct, receiver: Receiver, settings: SocketSettings) -> None:
        self._connection = connection
        self._receiver: Receiver | None = receiver
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._flushing = False
        self._partial = bytearray()
        self._partial_binary = False
        self._deaf = False
        self._leaving = False
        self._heard_at = self._loop.time()
        self._stall: asyncio.TimerHandle | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(settings.ping_after_s, self._look)
        connection.socket = self
        early, connection.early = connection.early or [], None
        self._loop.call_soon(self._take_early, early)

    # ------------------------------------------------------------------------------------------------------- receiving

    def _take_early(self, early: list[Frame]) -> None:
        for frame in early:
            self.received(frame)
        if self._connection.connection_lost_waiter.done():
            self.lost()
        elif self._connection.protocol.state is not OPEN:
            self.closing()

    def received(self, frame: Frame) -> None:
        """Take one frame of the wire."""
        self._heard_at = self._loop.time()
        opcode = frame.opcode
        if self._receiver is None:
            return
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            binary = opcode is Opcode.BINARY
            if frame.fin:
                self._receiver.on_frame(bytes(frame.data), binary=binary)
            else:
                self._partial, self._partial_binary = bytearray(frame.data), binary
        elif opcode is Opcode.CONT:
            self._partial += frame.data
            if frame.fin:
                data, self._partial = bytes(self._partial), bytearray()
                self._receiver.on_frame(data, binary=self._partial_binary)
        elif opcode is Opcode.PONG and frame.data:
            self._receiver.on_pong(bytes(frame.data))

    def closing(self) -> None:
        """The other side has said goodbye, or broken the WebSocket protocol: whoever listens need not wait for TCP."""
        if self._leaving and self._connection.protocol.close_rcvd is None:
            return  # we have said goodbye, and what is on its way counts
        self._tell()
        if self._doom is None:
            self._doom = self._loop.call_later(self._settings.close_s, self._connection.transport.abort)

    def lost(self) -> None:
        """The connection is gone."""
        self._tell()
        if self._doom is not None:
            self._doom.cancel()

    def _tell(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._quiet()
        if receiver is None:
            return
        theirs, ours = self._connection.protocol.close_rcvd, self._connection.protocol.close_sent
        if theirs is not None and theirs.code not in _NO_CODES:
            receiver.on_lost(theirs.code, theirs.reason)
        else:
            receiver.on_lost(None, "" if ours is None else ours.reason)

    # --------------------------------------------------------------------------------------------------------- writing

    def write(self, data: bytes) -> None:
        """Send one text message (`Socket.write`)."""
        protocol = self._connection.protocol
        if protocol.state is not OPEN:
            return
        protocol.send_text(data)
        self._send()

    def ping(self, token: bytes) -> None:
        """Ask for a pong (`Socket.ping`)."""
        if self._connection.protocol.state is OPEN:
            self._connection.protocol.send_ping(token)
            self._send()

    def _send(self) -> None:
        if self._flushing:
            return
        self._flushing = True
        self._loop.call_soon(self._flush_turn)
        self._flush()

    def _flush_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        parts = self._connection.protocol.data_to_send()
        transport = self._connection.transport
        if not parts or transport.is_closing():
            return
        transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if transport.get_write_buffer_size() > self._settings.max_unsent:
            self._dead("it does not read")

    # --------------------------------------------------------------------------------------------------------- closing

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye (`Socket.close`)."""
        self._receiver = None
        protocol = self._connection.protocol
        if protocol.state is OPEN:
            self._flush()
            protocol.send_close(code, reason[:100])
            self._flush()
        self.closing()

    def leave(self, code: int) -> None:
        """Say goodbye, and listen on (`Socket.leave`)."""
        protocol = self._connection.protocol
        if protocol.state is OPEN:
            self._leaving = True
            self._flush()
            protocol.send_close(code)
            self._flush()
            self._doom = self._loop.call_later(self._settings.close_s, self._connection.transport.abort)
        else:
            self.closing()

    def abort(self) -> None:
        """Cut the connection (`Socket.abort`)."""
        self._receiver = None
        self._quiet()
        self._connection.transport.abort()

    async def wait_closed(self) -> None:
        """Return once the connection is gone (`Socket.wait_closed`)."""
        await asyncio.shield(self._connection.connection_lost_waiter)

    def _dead(self, why: str) -> None:
        logger.warning("a socket is given up: %s", why)
        self._connection.transport.abort()

    # ------------------------------------------------------------------------------------------------ is it still there

    def _look(self) -> None:
        settings, now = self._settings, self._loop.time()
        idle = now - self._heard_at
        if self._deaf:
            self._heard_at, idle = now, 0.0  # we do not listen, so nothing can be said of it
        if idle < settings.ping_after_s:
            self._timer = self._loop.call_later(settings.ping_after_s - idle, self._look)
        elif idle < settings.ping_after_s + settings.pong_within_s:
            self._connection.protocol.send_ping(b"")
            self._send()
            self._timer = self._loop.call_later(settings.pong_within_s, self._look)
        else:
            self._dead(f"nothing heard for {idle:.1f} s")

    def stalled(self) -> None:
        """The other side does not read, and the buffer is full."""
        if self._stall is None:
            self._stall = self._loop.call_later(self._settings.stalled_s, self._dead, "it has stopped reading")

    def unstalled(self) -> None:
        """The other side reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def pause_reading(self) -> None:
        """Let the other side wait (`Socket.pause_reading`)."""
        if not self._deaf and not self._connection.transport.is_closing():
            self._deaf = True
            self._connection.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on (`Socket.resume_reading`)."""
        if self._deaf:
            self._deaf, self._heard_at = False, self._loop.time()
            if not self._connection.transport.is_closing():
                self._connection.transport.resume_reading()

    def _quiet(self) -> None:
        self.unstalled()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
