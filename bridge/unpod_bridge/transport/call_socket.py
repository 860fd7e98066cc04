"""The socket of one call, over all its dials: at most one is heard at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from unpod_bridge.transport.sockets import Dialer, DialError, Ear, Receiver, Socket

logger = logging.getLogger("unpod.bridge.line")


class Caller(Receiver, Protocol):
    """Who hears the socket, and how the dials go."""

    def on_open(self) -> None:
        """The socket is open."""
        ...

    def on_dial_failed(self, status: int | None) -> None:
        """No socket; `status` is the HTTP status of a refusal."""
        ...


class Link:
    """Dials, and carries frames both ways; nothing here decides. `url` returns the URL with its token, at each dial."""

    def __init__(self, dialer: Dialer, job_id: str, url: Callable[[], str], caller: Caller) -> None:
        self._dialer = dialer
        self._job_id = job_id
        self._url = url
        self._caller = caller
        self._socket: Socket | None = None
        self._closing: set[Socket] = set()
        self._ear: Ear | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._deaf = False

    @property
    def up(self) -> bool:
        """Whether there is a socket."""
        return self._socket is not None

    @property
    def deaf(self) -> bool:
        """Whether nothing is read for now, so that the worker has to wait."""
        return self._deaf

    def dial(self, allowed: Callable[[], Awaitable[bool]]) -> asyncio.Task[None]:
        """Begin to dial, once `allowed` has said so, and return the task that does."""
        ear = self._ear = Ear(self._caller)
        self._dialling = asyncio.get_running_loop().create_task(self._open(ear, allowed))
        return self._dialling

    async def _open(self, ear: Ear, allowed: Callable[[], Awaitable[bool]]) -> None:
        if not await allowed():
            return
        try:
            socket = await self._dialer.dial(self._url(), ear)
        except (DialError, ValueError) as error:
            status = error.status if isinstance(error, DialError) else None
            reason = str(error) if isinstance(error, DialError) else "bridge_url is not a URL"
            logger.warning("job %s: the dial failed: %s", self._job_id, reason)
            if ear.hears:
                self._caller.on_dial_failed(status)
            return
        if not ear.hears:
            self._leave(socket, 1000)
            return
        self._socket = socket
        self._caller.on_open()

    def write(self, data: bytes) -> None:
        """Send a frame."""
        if self._socket is not None:
            self._socket.write(data)

    def ping(self, token: bytes) -> None:
        """Ask for a pong."""
        if self._socket is not None:
            self._socket.ping(token)

    def pause_reading(self) -> None:
        """Let the worker wait."""
        if self._socket is not None and not self._deaf:
            self._deaf = True
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._socket is not None and self._deaf:
            self._deaf = False
            self._socket.resume_reading()

    def close(self, code: int) -> None:
        """Close the socket, or give up the dial that is under way; nothing more is heard of either."""
        socket = self._socket
        self.turn_away()
        if socket is not None:
            self._leave(socket, code)

    def leave(self, code: int) -> None:
        """Close the socket, and hear what is on its way until it is gone."""
        if self._socket is not None:
            self._socket.leave(code)
            self._closing.add(self._socket)

    def abort(self) -> None:
        """Cut the connection at once."""
        socket = self._socket
        self.turn_away()
        if socket is not None:
            socket.abort()
            self._closing.add(socket)

    def turn_away(self) -> None:
        """Hear nothing more of the socket, or of the dial that is under way."""
        if self._ear is not None:
            self._ear.turn_away()
        if self._socket is None and self._dialling is not None:
            self._dialling.cancel()
        self._ear = self._socket = self._dialling = None
        self._deaf = False

    async def wait_closed(self) -> None:
        """Return once every socket that was closed is gone."""
        for socket in self._closing:
            await socket.wait_closed()

    def _leave(self, socket: Socket, code: int) -> None:
        socket.close(code)
        self._closing.add(socket)
