"""`Nats`: one connection, never given up, and the `Bus` over it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from nats.errors import Error as NatsError
from nats.nuid import NUID

from unpod.errors import ConfigurationError, LogUnavailable, NoResponders, RecordTooLarge
from unpod.jetstream.connection.client import NoTlsError, WireClient, next_server
from unpod.jetstream.connection.credentials import take_secrets
from unpod.jetstream.connection.listeners import Listeners
from unpod.jetstream.connection.options import NatsOptions, PermissionDenied
from unpod.jetstream.connection.request_mux import RequestMux
from unpod.jetstream.connection.wire import (
    NO_HEADERS,
    check_subject,
    decode_headers,
    encode_headers,
    encode_publish,
    status_of,
)
from unpod.ports import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from unpod.errors import LogError
    from unpod.jetstream.connection.client import WireTail
    from unpod.ports import Handler

logger = logging.getLogger("unpod.nats")

_CANCELLED_S: Final = 0.1
_CLOSE_S: Final = 2.0
_ACTIVE_S: Final = 5.0
_DELIVERY: Final = b"$JS.ACK."


class _Subscription:
    """A live subscription (`ports.Subscription`)."""

    __slots__ = ("_nats", "_tail")

    def __init__(self, nats: Nats, tail: WireTail) -> None:
        self._nats = nats
        self._tail = tail

    async def close(self) -> None:
        self._nats.unsubscribe(self._tail)


def _taker(handler: Handler, *, delivered: bool) -> Callable[[bytes, bytes, bytes, bytes], None]:
    """Return what hands messages over to a handler; deliveries of a JetStream consumer are dropped unless `delivered`.

    Anybody with the right to make a consumer can let it deliver to any subject, and so could forge requests to a
    runner.
    """

    def take(name: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        if reply and not delivered and reply.startswith(_DELIVERY):
            return
        headers = decode_headers(block) if block else NO_HEADERS
        handler(Message(name.decode("utf-8", "replace"), data, headers, 0, 0, reply.decode("utf-8", "replace")))

    return take


class Nats:
    """One connection to NATS: publish, subscribe, request (`ports.Bus`), and answers on an inbox of its own.

    It is never given up: a lost server is tried again every 0.1 s, a silent one is noticed within 3 s. What cannot be
    sent now raises, and is never sent later. `max_payload` is the server's limit on headers and payload together.
    """

    def __init__(self, options: NatsOptions) -> None:
        self.options = options
        self._client = WireClient(self._on_denied)
        self._up = False
        self._closing = True  # until there is something to close
        self._first_error: BaseException | None = None
        self._refused = asyncio.Event()
        self._state: Listeners[bool] = Listeners()
        self._denials: Listeners[PermissionDenied] = Listeners()
        self._given_up: Listeners[LogUnavailable] = Listeners()
        self.replies = RequestMux(f"{options.inbox_prefix}.{NUID().next().decode()}.")

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def connected(self) -> bool:
        """Whether a publish would be sent now."""
        return self._up and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The server's limit on headers and payload together, in bytes."""
        return self._client.max_payload

    @property
    def client_id(self) -> int:
        """The server's number for this connection, as in its `$SYS.ACCOUNT.*.DISCONNECT`; 0 while there is none."""
        return self._client.client_id or 0

    def on_state(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call `listener(connected)` at each change; return what ends that."""
        return self._state.add(listener)

    def on_denied(self, listener: Callable[[PermissionDenied], None]) -> Callable[[], None]:
        """Call `listener` when the server refuses a subject; return what ends that."""
        return self._denials.add(listener)

    def on_given_up(self, listener: Callable[[LogUnavailable], None]) -> Callable[[], None]:
        """Call `listener` when the connection is closed for good, though nobody has asked for it; it never comes back.

        Return what ends that.
        """
        return self._given_up.add(listener)

    # ------------------------------------------------------------------------------------------------------------ bus

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = "") -> None:
        """Publish at once, without a coroutine.

        Raises:
            LogUnavailable: not connected; it will not be sent later.
            RecordTooLarge: over the server's limit; it would have cost the connection.
        """
        check_subject(subject)
        self.send_checked(subject, data, encode_headers(headers) if headers else b"", reply)

    def send_block(self, subject: str, data: bytes, block: bytes, reply: str) -> None:
        """Publish with headers that are encoded already; errors as in `send`."""
        check_subject(subject)
        self.send_checked(subject, data, block, reply)

    def send_checked(self, subject: str, data: bytes, block: bytes, reply: str) -> None:
        """Publish on a subject that `check_subject` has seen; errors as in `send`."""
        size = len(data) + len(block)
        if size > self._client.max_payload:
            raise RecordTooLarge(size, self._client.max_payload)
        if not self._up:
            raise LogUnavailable("not connected to NATS")
        self._client.send(encode_publish(subject, reply, block, data))

    def send_commands(self, commands: bytes) -> None:
        """Write what is encoded already (`wire.encode_publishes`); raises LogUnavailable as `send` does."""
        if not self._up:
            raise LogUnavailable("not connected to NATS")
        self._client.send(commands)

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Send without waiting (`Bus.publish`); errors as in `send`."""
        self.send(subject, data, headers, reply=reply)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> _Subscription:
        """Call `handler` for each message on `subject` (`Bus.subscribe`); active once this returns.

        Raises:
            PermissionDenied: the user may not.
            LogUnavailable: no server within 5 s.
        """
        return (await self._subscribe({subject: handler}, queue))[0]

    async def subscribe_all(self, handlers: Mapping[str, Handler]) -> list[_Subscription]:
        """Subscribe to all or to none, with one flush (`Bus.subscribe_all`); errors as in `subscribe`."""
        return await self._subscribe(handlers, "")

    async def _subscribe(self, handlers: Mapping[str, Handler], queue: str) -> list[_Subscription]:
        for name in (*handlers, queue) if queue else handlers:
            check_subject(name)
        tails: list[WireTail] = []
        try:
            for subject, handler in handlers.items():
                delivered = subject.startswith(self.options.inbox_prefix)
                tails.append(self._client.add_tail(subject, queue, _taker(handler, delivered=delivered)))
            await self.flush(timeout_s=_ACTIVE_S)
            for tail in tails:
                if tail.denied:
                    raise PermissionDenied("subscription", tail.subject)
        except BaseException:
            for tail in tails:
                self.unsubscribe(tail)
            raise
        return [_Subscription(self, tail) for tail in tails]

    def unsubscribe(self, tail: WireTail) -> None:
        """End a subscription."""
        with suppress(LogUnavailable):
            self._client.remove_tail(tail)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and return the first answer (`Bus.request`)."""
        block, answer = await self.ask(subject, data, timeout_s=timeout_s)
        return Message(subject, answer, decode_headers(block) if block else NO_HEADERS)

    async def ask(self, subject: str, data: bytes, *, timeout_s: float) -> tuple[bytes, bytes]:
        """Send and return the first answer's header block and payload.

        Raises:
            NoResponders: nobody listens.
            LogUnavailable: not connected, or no answer in time.
            PermissionDenied: the user may not.
        """
        future: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

        def answer(block: bytes, body: bytes) -> None:
            if future.done():
                return
            if not body and status_of(block) == "503":
                future.set_exception(NoResponders(f"nobody listens on {subject!r}"))
            else:
                future.set_result((block, body))

        def lost(reason: LogError) -> None:
            if not future.done():
                future.set_exception(reason)

        awaited = self.replies.expect(subject, timeout_s + 1, answer, lost)
        try:
            self.send_block(subject, data, b"", awaited.reply)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise LogUnavailable(f"no answer on {subject!r} within {timeout_s:g} s") from None
        finally:
            awaited.close()

    async def flush(self, *, timeout_s: float) -> None:
        """Return once the server has taken everything sent so far.

        Raises:
            LogUnavailable: it has not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._until_up()
                    pong: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                    stop = self.on_state(lambda _up, pong=pong: pong.done() or pong.set_result(False))  # type: ignore[misc]
                    try:
                        await self._client._send_ping(pong)  # noqa: SLF001 - ours, in client.py
                        if await pong:
                            return
                    finally:
                        stop()
        except TimeoutError:
            raise LogUnavailable(f"NATS did not answer within {timeout_s:g} s") from None

    async def _until_up(self) -> None:
        if self.connected:
            return
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard(up: bool) -> None:  # noqa: FBT001 - the listener's signature
            if up and not came.done():
                came.set_result(None)

        stop = self.on_state(heard)
        try:
            await came
        finally:
            stop()

    # ------------------------------------------------------------------------------------------------ life and death

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigurationError: nothing answers within `connect_timeout_s`, or the server refuses us.
            PermissionDenied: the user may not have an inbox under `inbox_prefix`.
        """
        options = self.options
        options.credentials.check()
        tls = options.credentials.tls()
        self._closing = False
        connecting = asyncio.ensure_future(self._client.connect(**self._arguments(), tls=tls))
        refused = asyncio.ensure_future(self._refused.wait())
        try:
            await asyncio.wait(
                {connecting, refused}, timeout=options.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connecting.done() or connecting.exception() is not None:
                raise self._no_connection()
            inbox = self._client.add_tail(f"{self.replies.prefix}*", "", self.replies.dispatch)
            self._up = True
            await self.flush(timeout_s=options.connect_timeout_s)
            if inbox.denied:  # without it nothing is ever acknowledged
                raise PermissionDenied("subscription", inbox.subject)
        except BaseException:
            await self._end(connecting)
            raise
        finally:
            refused.cancel()

    def _arguments(self) -> dict[str, Any]:
        options, creds = self.options, self.options.credentials
        servers, in_url = take_secrets(options.urls)
        return {
            "servers": list(servers),
            "name": options.name,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,  # the default gives up after 60 tries
            "reconnect_time_wait": 0.1,
            "reconnect_to_server_handler": next_server,
            "connect_timeout": 1,
            "ping_interval": options.ping_interval_s,
            "max_outstanding_pings": 2,
            "pending_size": 0,  # what was published while disconnected has failed, and is not sent later
            "no_echo": options.no_echo,
            "inbox_prefix": options.inbox_prefix,
            "user": creds.user or in_url.user or None,
            "password": creds.password or in_url.password or None,
            "token": creds.token or in_url.token or None,
            "user_credentials": creds.creds_file or None,
            "nkeys_seed": creds.nkey_file or None,
        }

    def _no_connection(self) -> ConfigurationError:
        where, variable = self.options.readable(), self.options.variable
        if isinstance(self._first_error, NoTlsError):
            return ConfigurationError(f"{variable}: {where} has no TLS, and a tls:// URL or a TLS file asks for it")
        if self._refused.is_set():
            return ConfigurationError(
                f"{variable}: {where} refuses these credentials: check the user in the URL, NATS_CREDS or NATS_CONTEXT"
            )
        kind = type(self._first_error).__name__ if self._first_error is not None else "no answer"
        return ConfigurationError(
            f"{variable}: no NATS server answers at {where} within {self.options.connect_timeout_s:g} s ({kind}): "
            "start one there, or unset the variable to run with an embedded server"
        )

    async def close(self) -> None:
        """Send what is in the socket's buffer and end; safe to call twice."""
        await self._end(None)

    async def _end(self, connecting: asyncio.Future[None] | None) -> None:
        if self._closing:
            return
        self._closing = True
        while connecting is not None and not connecting.done():
            connecting.cancel()  # more than once: a handshake of TLS that fails at that moment swallows it
            await asyncio.wait({connecting}, timeout=_CANCELLED_S)
        if connecting is not None and not connecting.cancelled():
            connecting.exception()  # why it failed is told already
        self._down()
        try:
            with suppress(OSError, NatsError, TimeoutError, LogUnavailable):
                async with asyncio.timeout(_CLOSE_S):
                    await self._client.close()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if (
                task is None or task.cancelling()
            ):  # else it is asyncio's own, about a TLS socket that was lost while it closed
                raise
        self.replies.close(LogUnavailable("this connection is closed"))

    def _down(self) -> None:
        if not self._up:
            return
        self._up = False
        self.replies.lose(LogUnavailable("the connection to NATS was lost"))
        self._state.tell(self._up)

    # --------------------------------------------------------------------------------------- what nats-py tells us of

    async def _on_error(self, error: Exception) -> None:
        if self._first_error is None:
            self._first_error = error
        text = str(error).lower()
        if isinstance(error, NoTlsError) and not self._up:
            self._refused.set()  # trying again will not help
        elif "authorization" in text or "authentication" in text:
            self._refused.set()
            if self._up or self._closing:
                logger.error("NATS refuses our credentials (%s)", self.options.readable())
        logger.debug("nats: %s", type(error).__name__)

    async def _on_disconnected(self) -> None:
        if not self._closing:
            logger.warning("lost the connection to NATS (%s); trying again", self.options.readable())
        self._down()

    async def _on_reconnected(self) -> None:
        logger.info("connected to NATS again (%s)", self.options.readable())
        self._up = True
        self._state.tell(self._up)

    async def _on_closed(self) -> None:
        self._down()
        if not self._closing:
            reason = f"nats-py has given the connection up ({self.options.readable()}): restart this process"
            logger.critical("%s", reason)
            self._given_up.tell(LogUnavailable(reason))

    def _on_denied(self, kind: str, subject: str) -> None:
        denied = PermissionDenied(kind, subject)
        logger.error("%s", denied)
        if kind == "publish":
            self.replies.lose(denied, subject=subject)
        self._denials.tell(denied)


@asynccontextmanager
async def connect(options: NatsOptions) -> AsyncIterator[Nats]:
    """Hold a connection for the length of an `async with` block.

    Raises:
        ConfigurationError: nothing answers, or the server refuses us.
    """
    nats = Nats(options)
    try:
        await nats.open()
        yield nats
    finally:
        await nats.close()
