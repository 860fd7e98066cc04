"""Where sockets that were dialled in wait for the call that they belong to: the serve transport seen as dials.

A served call has an address of its own, `served:<key>`, which is dialled like any other: the dial waits until the
worker has come. So a worker that comes back after a drop is a redial, also at a bridge that has adopted the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from unpod_bridge.transport.sockets import Dialer, DialError, Receiver, Socket

SCHEME: Final = "served"
LATE: Final = 1013
"""How a socket is closed that nobody has fetched: its worker may come again."""


class Visitor(Protocol):
    """A socket that has dialled in (`websocket_server.Arrival`)."""

    def hear(self, receiver: Receiver) -> Socket:
        """Return the socket, heard from here on."""
        ...

    def refuse(self, code: int) -> None:
        """Close it, with nothing said."""
        ...

    def cut(self) -> None:
        """Cut the connection; whoever hears it is told that it is lost."""
        ...


def address(key: str) -> str:
    """Return where a served call is dialled."""
    return f"{SCHEME}:{quote(key, safe='')}"


class DialInSockets:
    """Dials served calls here, all others outside (`sockets.Dialer`). `open`: workers can dial in at all."""

    def __init__(self, admission: Dialer, *, is_open: bool, patience_s: float = 5.0) -> None:
        self._admission = admission
        self._is_open = is_open
        self._patience_s = patience_s
        self._waiting: dict[str, tuple[Visitor, asyncio.TimerHandle]] = {}
        self._dialling: dict[str, asyncio.Future[Visitor]] = {}
        self._current: dict[str, Visitor] = {}

    def expects(self, key: str) -> bool:
        """Whether a call of that key is here, up or being dialled."""
        return key in self._dialling or key in self._current

    def enter(self, key: str, visitor: Visitor) -> None:
        """A worker has dialled in: its call's next dial gets this socket, and one that the call had before is cut."""
        dialling = self._dialling.get(key)
        if dialling is not None and not dialling.done():
            dialling.set_result(visitor)
            return
        self._send_away(key)
        timer = asyncio.get_running_loop().call_later(self._patience_s, self._send_away, key)
        self._waiting[key] = visitor, timer
        current = self._current.get(key)
        if current is not None:
            current.cut()

    def forget(self, key: str) -> None:
        """The call is over."""
        self._current.pop(key, None)
        self._send_away(key)

    def close(self) -> None:
        """Nobody is waited for any more."""
        for key in tuple(self._waiting):
            self._send_away(key)

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> Socket:
        """Return an open socket (`Dialer.dial`)."""
        if not url.startswith(f"{SCHEME}:"):
            return await self._admission.dial(url, receiver, headers=headers)
        if not self._is_open:
            raise DialError("the call's worker dials in, and can not here: UNPOD_RUNNER_URL is not set")
        key = unquote(urlsplit(url).path)
        visitor = self._current[key] = await self._visitor(key)
        return visitor.hear(receiver)

    async def _visitor(self, key: str) -> Visitor:
        found = self._waiting.pop(key, None)
        if found is not None:
            found[1].cancel()
            return found[0]
        future: asyncio.Future[Visitor] = asyncio.get_running_loop().create_future()
        self._dialling[key] = future
        try:
            await asyncio.wait({future}, timeout=self._patience_s)
            if not future.done():
                raise DialError(f"its worker has not dialled in again within {self._patience_s:g} s")
            return future.result()
        except asyncio.CancelledError:
            if future.done():
                future.result().refuse(LATE)
            raise
        finally:
            if self._dialling.get(key) is future:
                del self._dialling[key]
            future.cancel()

    def _send_away(self, key: str) -> None:
        found = self._waiting.pop(key, None)
        if found is not None:
            found[1].cancel()
            found[0].refuse(LATE)
