"""Connections to providers, shared by all calls of a process.

A connection pool for each call would pay a TLS handshake in the first turn of each; so adapters with the same settings
share one. A process that serves many tenants has many settings: beyond a number, those that no adapter uses any more
are closed, the longest unused first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

C = TypeVar("C")
Close = Callable[[], Awaitable[object]]

logger = logging.getLogger("unpod.adapters")

KEPT: Final = 16
"""How many clients an event loop keeps that no adapter uses."""


class _Shared:
    """One client, and the adapters that use it."""

    __slots__ = ("client", "users")

    def __init__(self, client: object) -> None:
        self.client = client
        self.users: WeakSet[object] = WeakSet()


class _Loop:
    """The clients of one event loop, those asked for last at the end, and the tasks that close some of them."""

    __slots__ = ("clients", "closing", "end")

    def __init__(self) -> None:
        self.clients: dict[tuple[type[object], Hashable], _Shared] = {}
        self.closing: set[asyncio.Task[None]] = set()
        self.end = self._end()
        # asyncio.run, and whatever else ends a loop in order, closes the async generators that have begun on it.
        with suppress(StopIteration):
            self.end.asend(None).send(None)

    async def _end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await asyncio.gather(*(_close(one.client) for one in self.clients.values()), *self.closing)
            self.clients.clear()


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


def shared(user: object, kind: type[C], settings: Hashable, make: Callable[[], C]) -> C:
    """Return the running event loop's client of a kind for these settings, made when it is first asked for.

    It is kept as long as `user` or another one lives, and closed by its `aclose` or `close`.
    """
    this = _loops.setdefault(asyncio.get_running_loop(), _Loop())
    key = kind, settings
    found = this.clients.pop(key, None) or _Shared(make())
    this.clients[key] = found
    found.users.add(user)
    unused = [key for key, one in this.clients.items() if not one.users]
    for old in unused[: max(0, len(unused) - KEPT)]:
        task = asyncio.get_running_loop().create_task(_close(this.clients.pop(old).client), name="unpod-close-client")
        this.closing.add(task)
        task.add_done_callback(this.closing.discard)
    assert isinstance(found.client, kind)  # noqa: S101 - for mypy: the key has it
    return found.client


async def close_clients() -> None:
    """Close the running event loop's shared connections; adapters made from now on open new ones.

    A loop that ends in order, as with `asyncio.run`, does so by itself.
    """
    this = _loops.pop(asyncio.get_running_loop(), None)
    if this is not None:
        await this.end.aclose()


async def _close(client: object) -> None:
    close: Close = getattr(client, "aclose", None) or getattr(client, "close")  # noqa: B009 - vendors' clients
    try:
        await close()
    except Exception as error:  # noqa: BLE001 - the others are closed all the same
        logger.warning("closing a %s failed: %s", type(client).__name__, type(error).__name__)
