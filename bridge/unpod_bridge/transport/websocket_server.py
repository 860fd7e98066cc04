"""The listening side of WebSockets: the only other importer of the `websockets` library."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from unpod.errors import ConfigurationError
from unpod_bridge.transport.sockets import Receiver
from unpod_bridge.transport.websocket import Direct, SocketSettings, WebSocket, silent

if TYPE_CHECKING:
    from typing_extensions import override
else:  # Python 3.11 has no `typing.override`, and one decorator is no reason for a dependency
    override = lambda method: method  # noqa: E731 - read by no type checker

logger = logging.getLogger("unpod.bridge.websocket")


class Arrival:
    """A socket that has dialled in, and that nobody listens to yet."""

    def __init__(self, connection: _ServerConnection, settings: SocketSettings) -> None:
        self._connection = connection
        self._settings = settings

    @property
    def target(self) -> str:
        """The path and the query that were dialled; signatures and all, so not for logs."""
        request = self._connection.request
        return "" if request is None else request.path

    def hear(self, receiver: Receiver) -> WebSocket:
        """Return the socket, heard by a receiver from here on."""
        return WebSocket(self._connection, receiver, self._settings)

    def refuse(self, code: int) -> None:
        """Close it, with nothing said."""
        self.hear(_Nobody()).close(code)

    def cut(self) -> None:
        """Cut the connection; whoever hears it is told that it is lost."""
        self._connection.transport.abort()


class Host(Protocol):
    """Whose door it is; nothing here blocks or raises."""

    def is_open_to(self, target: str) -> bool:
        """Whether whoever has dialled a path and query may come in at all."""
        ...

    def arrived(self, arrival: Arrival) -> None:
        """Somebody has dialled in."""
        ...


class Listener:
    """Listens on one port, for as long as it is open."""

    def __init__(self, host: str | None, port: int, settings: SocketSettings | None = None) -> None:
        self._host = host
        self._port = port
        self._settings = SocketSettings() if settings is None else settings
        self._server: Server | None = None

    async def open(self, owner: Host) -> None:
        """Listen, and hand over whoever dials in.

        Raises:
            ConfigurationError: the port or the address cannot be had.
        """
        settings = self._settings

        async def handle(connection: ServerConnection) -> None:
            owner.arrived(Arrival(cast("_ServerConnection", connection), settings))
            await connection.wait_closed()

        def look(connection: ServerConnection, request: Request) -> Response | None:
            if owner.is_open_to(request.path):
                return None
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no new calls: this bridge is ending\n")

        try:
            self._server = await serve(
                handle,
                self._host,
                self._port,
                process_request=look,
                compression=None,
                open_timeout=settings.connect_s,
                close_timeout=settings.close_s,
                ping_interval=None,
                max_size=settings.max_size,
                logger=silent,
                create_connection=_ServerConnection,
            )
        except OSError as error:
            where = f"port {self._port}" if self._host is None else f"{self._host} port {self._port}"
            raise ConfigurationError(
                f"cannot listen on {where} for workers ({error.strerror}): set another port in UNPOD_RUNNER_URL"
            ) from None

    async def close(self) -> None:
        """Listen no more, and cut what is still open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()


class _ServerConnection(Direct, ServerConnection):
    """A connection that was dialled in; the library's server looks after it to its end."""

    masked = True

    @override
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End it, as the server does with all of its connections; whoever hears it is told."""
        if self.socket is None:
            await super().close(code, reason)
        else:
            self.socket.leave(code)
            await self.socket.wait_closed()


class _Nobody:
    """Hears nothing (`sockets.Receiver`)."""

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Nothing is said to it."""

    def on_pong(self, token: bytes) -> None:
        """It asks for nothing."""

    def on_lost(self, code: int | None, reason: str) -> None:
        """It does not care."""
