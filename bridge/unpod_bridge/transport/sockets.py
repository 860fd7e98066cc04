"""A WebSocket as the bridge sees it, and what can go wrong with one. No library in here; `websocket.py` has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from unpod.errors import UnpodError


class DialError(UnpodError):
    """A WebSocket could not be opened; the text holds no token. `status` is the HTTP status of a refusal, else None."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def unauthorized(self) -> bool:
        """Whether the other side refused the credential (HTTP 401 or 403)."""
        return self.status in (401, 403)


class Receiver(Protocol):
    """Who is told what a socket receives, on the event loop and in order; it must neither block nor raise."""

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Take one whole message; a text is given as its bytes."""
        ...

    def on_pong(self, token: bytes) -> None:
        """The other side has read everything up to the ping with this token."""
        ...

    def on_lost(self, code: int | None, reason: str) -> None:
        """The socket is gone: told once, unless we closed it.

        `code` is the close code received, None without one; `reason` is theirs, or else why we had to give it up.
        """
        ...


class Ear:
    """A receiver that hears one socket for another receiver, until that turns away from it."""

    __slots__ = ("_receiver",)

    def __init__(self, receiver: Receiver) -> None:
        self._receiver: Receiver | None = receiver

    @property
    def hears(self) -> bool:
        """Whether what comes is still passed on."""
        return self._receiver is not None

    def turn_away(self) -> None:
        """Pass nothing on any more."""
        self._receiver = None

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Pass a message on."""
        if self._receiver is not None:
            self._receiver.on_frame(data, binary=binary)

    def on_pong(self, token: bytes) -> None:
        """Pass a pong on."""
        if self._receiver is not None:
            self._receiver.on_pong(token)

    def on_lost(self, code: int | None, reason: str) -> None:
        """Pass the loss on."""
        if self._receiver is not None:
            self._receiver.on_lost(code, reason)


class Socket(Protocol):
    """An open WebSocket. Nothing here waits or raises; what is written to a lost socket is lost."""

    def write(self, data: bytes) -> None:
        """Send one text message: the first in a turn of the event loop at once, that turn's others in one write."""
        ...

    def ping(self, token: bytes) -> None:
        """Ask for a pong that comes when everything written before has been read."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the receiver hears nothing more. Without an answer the connection is cut."""
        ...

    def leave(self, code: int) -> None:
        """Send a close frame, and hear what is on its way: the receiver is told when the other side has closed, too."""
        ...

    def abort(self) -> None:
        """Cut the connection at once; the receiver hears nothing more."""
        ...

    def pause_reading(self) -> None:
        """Let the other side wait."""
        ...

    def resume_reading(self) -> None:
        """Read on."""
        ...

    async def wait_closed(self) -> None:
        """Return once the connection is gone, whoever ended it."""
        ...


class Dialer(Protocol):
    """What opens WebSockets."""

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> Socket:
        """Return an open socket; `receiver` may be called before this returns.

        Raises:
            DialError: it could not be opened within the connect time-out.
        """
        ...
