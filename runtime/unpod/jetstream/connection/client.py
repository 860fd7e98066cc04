"""nats-py's client, with the receiving and the sending of messages replaced. The only file that touches its insides.

nats-py keeps what it does well: connecting, TLS, credentials, the server pool, reconnecting, pings. What is replaced,
and why, each found in nats-py 2.16:

- Receiving: a queue and a task per subscription cost 3 KB and a turn of the event loop per message. Here a handler is
  called where the message is parsed, and that is where the socket is read.
- Sending: `publish` puts a command into a list which survives the connection, so what "failed" is sent after a
  reconnect. Here it goes to the socket's own buffer, which dies with the socket.
- The read loop ends at the first exception it does not know; a pong for a flush that was given up raises one.
- Most `-ERR` lines (a revoked user, a full server) close the client for good. Here they lead to a reconnect.
- nats-py lets the server decide on TLS: one that asks for none gets the password in plain text, even where the URL is
  `tls://`. Here that is an error.
- nats-py reads a credentials file without a JWT (as it is for a moment when it is rewritten) in an endless loop, which
  blocks the process. Here that is an error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from unpod.errors import LogUnavailable, ProtocolViolation
from unpod.jetstream.connection.credentials import jwt_of
from unpod.jetstream.connection.read_protocol import ReadProtocol
from unpod.jetstream.connection.wire import Framing, encode_subscribe, encode_unsubscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Server, Srv
    from typing_extensions import override
else:  # Python 3.11 has no `typing.override`, and one decorator is no reason for a dependency
    override = lambda method: method  # noqa: E731 - read by no type checker


logger = logging.getLogger("unpod.nats")

RawHandler: TypeAlias = "Callable[[bytes, bytes, bytes, bytes], None]"
"""Takes subject, reply subject, header block and payload of one message."""

_READ_BYTES: Final = 256 * 1024
_MAX_UNSENT_BYTES: Final = 16 * 1024 * 1024  # more than that in the socket's buffer: the server has stopped reading
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class WireTail:
    """One subscription, as nats-py's reconnect and close want to see it."""

    __slots__ = ("_queue", "_subject", "denied", "handler", "sid")

    # What nats-py looks at in its own subscriptions; none of it is in use here.
    _max_msgs = 0
    _received = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, sid: int, subject: str, queue: str, handler: RawHandler) -> None:
        self.sid = sid
        self._subject = subject
        self._queue = queue
        self.handler = handler
        self.denied = False

    @property
    def subject(self) -> str:
        """The subject, with its wildcards."""
        return self._subject


class NoTlsError(NatsError):
    """TLS was asked for, and the server has none."""

    def __init__(self) -> None:
        super().__init__("nats: the server has no TLS")


class WireClient(Client):
    """A NATS client without queues: a message goes from the socket to its handler, and to the socket, at once."""

    def __init__(self, on_denied: Callable[[str, str], None]) -> None:
        super().__init__()
        self._tails: dict[int, WireTail] = {}
        self._on_denied = on_denied
        self._out: list[bytes] = []
        self._out_of: object = None
        self._loop = asyncio.get_running_loop()
        self._framing = Framing(self.on_message)
        self._ps = cast("Any", self._framing)  # nats-py resets its parser before each connection

    # -------------------------------------------------------------------------------------------------------- sending

    def send(self, command: bytes) -> None:
        """Write one command: the first of a turn of the event loop at once, what follows in that turn in one write.

        Raises:
            LogUnavailable: not connected, or the server does not read; nothing was sent and nothing will be.
        """
        writer = self._writer()
        if self._out_of is writer:
            self._out.append(command)
            return
        writer.write(command)
        self._out_of = writer
        self._out.clear()
        self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        writer, out = self._out_of, self._out
        self._out_of, self._out = None, []
        # A socket lost in between takes its commands with it: they are never sent on the next one.
        if out and self.is_connected and writer is self._socket():
            cast("asyncio.StreamWriter", writer).write(b"".join(out))

    def _socket(self) -> asyncio.StreamWriter | None:
        return cast("asyncio.StreamWriter | None", getattr(self._transport, "_io_writer", None))

    def _writer(self) -> asyncio.StreamWriter:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is None or not self.is_connected or writer.transport.is_closing():
            raise LogUnavailable("not connected to NATS")
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            raise LogUnavailable("NATS has stopped reading")
        return writer

    # ------------------------------------------------------------------------------------------------------ receiving

    def add_tail(self, subject: str, queue: str, handler: RawHandler) -> WireTail:
        """Open a subscription; nats-py opens it again after each reconnect."""
        self._sid += 1
        tail = WireTail(self._sid, subject, queue, handler)
        self._tails[tail.sid] = tail
        cast("dict[int, Any]", self._subs)[tail.sid] = tail
        if self.is_connected:
            self.send(encode_subscribe(subject, queue, tail.sid))
        return tail

    def remove_tail(self, tail: WireTail) -> None:
        """End a subscription; its handler is not called any more."""
        self._subs.pop(tail.sid, None)
        if self._tails.pop(tail.sid, None) is not None and self.is_connected:
            self.send(encode_unsubscribe(tail.sid))

    def on_message(self, sid: int, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        """Hand one message to its handler, whose errors end here: one that got out would end the read loop."""
        tail = self._tails.get(sid)
        if tail is None:
            return
        try:
            tail.handler(subject, reply, block, data)
        except Exception as error:  # noqa: BLE001 - see the docstring
            # The error's text may hold what was said on a call, so only its kind and its place are told.
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "?"
            logger.log(logging.ERROR, "a handler of %s failed: %s at %s", tail.subject, type(error).__name__, line)

    async def on_control(self, line: bytes) -> None:
        """Do what a control line asks."""
        if line.startswith(b"PING"):
            self._write_now(b"PONG\r\n")
        elif line.startswith(b"PONG"):
            await self._process_pong()
        elif line.startswith(b"-ERR"):
            await self._process_err(line[4:].decode("utf-8", "replace").strip())
        elif line.startswith(b"INFO "):
            await self._process_info(json.loads(line[5:]))
        elif line and not line.startswith(b"+OK"):
            raise ProtocolViolation("the server sent a line that is not NATS")

    @override
    async def _read_loop(self) -> None:
        transport, intake = cast("Any", self._transport), ReadProtocol(self._framing.feed)
        try:
            await intake.begin(transport._io_reader, transport._io_writer)  # noqa: SLF001 - nats-py's own
            while not self.is_closed and not self.is_reconnecting:
                for line in await intake.control():
                    await self.on_control(line)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, a new connection is the way out
            await self._process_op_err(error)
        finally:
            intake.stop()

    @override
    async def _connect_to_server(self, s: Srv) -> None:
        # nats-py's own reads 32 KB at a time and pauses the socket at twice that: a replay stops and starts.
        s.last_attempt = time.monotonic()
        self._transport = self._transport or cast("Any", TcpTransport)()
        await self._transport.connect(s.uri, buffer_size=_READ_BYTES, connect_timeout=self.options["connect_timeout"])

    @override
    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (OSError, NatsError, TimeoutError):
            raise
        except Exception as error:
            # Whatever answers there is no NATS server; nats-py's reconnect would end at this for good.
            raise NatsError(f"nats: {type(error).__name__} in the handshake") from error

    @override
    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 - nats-py's signature
    ) -> None:
        if initial_connection and self._tls_wanted() and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise NoTlsError
            info["tls_required"] = True  # what nats-py looks at next, before it sends anything
        await super()._process_info(info, initial_connection)

    def _tls_wanted(self) -> bool:
        server = self._current_server
        return "tls" in self.options or (server is not None and server.uri.scheme == "tls")

    @override
    def _read_creds_user_jwt(self, creds: object) -> bytearray:
        jwt = jwt_of(Path(str(creds)).read_bytes())
        if not jwt:
            raise NatsError("nats: the credentials file holds no JWT")
        return bytearray(jwt)

    @override
    async def _process_err(self, err_msg: str) -> None:
        denied = _DENIED.search(err_msg)
        if denied is not None:
            self._deny(denied[1].lower(), denied[2])
            return
        self._err = NatsError(f"nats: {err_msg}")
        await self._error_cb(self._err)
        await self._process_op_err(self._err)

    def _deny(self, kind: str, subject: str) -> None:
        if kind == "subscription":
            for tail in self._tails.values():
                tail.denied |= tail.subject == subject
        self._on_denied(kind, subject)

    # ---------------------------------------------------------------------------------------------------------- pings

    @override
    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py's own ping would overtake commands that wait for the end of the turn: a flush would return too early.
        self._pongs.append(future or self._loop.create_future())
        self._write_now(b"PING\r\n")

    def _write_now(self, command: bytes) -> None:
        writer = self._socket()
        if writer is None or writer.transport.is_closing():
            return
        if self._out_of is writer:
            self._out.append(command)
        else:
            writer.write(command)

    @override
    async def _process_pong(self) -> None:
        self._pings_outstanding = 0
        self._pongs_received += 1
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():  # given up: nats-py's own would raise here, and end its read loop
                future.set_result(True)


def next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
    """Choose the server that failed least: the first try after a loss at once, the others 0.05 to 0.15 s apart."""
    fewest = min(server.reconnects for server in servers)
    server = random.choice([s for s in servers if s.reconnects == fewest])  # noqa: S311 - spreads load, guards nothing
    return server, random.uniform(0.05, 0.15) if fewest else random.uniform(0.0, 0.02)  # noqa: S311 - jitter
