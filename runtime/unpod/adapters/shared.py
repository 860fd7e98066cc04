"""Connections to providers, shared by all calls of a process.

A connection pool for each call would pay a TLS handshake in the first turn of each; so adapters with the same settings
share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

C = TypeVar("C")
Close = Callable[[], Awaitable[object]]

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[type[object], Hashable], object]] = (
    WeakKeyDictionary()
)


def shared(kind: type[C], settings: Hashable, make: Callable[[], C]) -> C:
    """Return the running event loop's client of a kind for these settings, made when it is first asked for.

    It is closed by its `aclose` or `close`.
    """
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    key = kind, settings
    found = clients.get(key)
    if not isinstance(found, kind):
        found = clients[key] = make()
    return found


async def close_clients() -> None:
    """Close the running event loop's shared connections; adapters made from now on open new ones."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        close: Close = getattr(client, "aclose", None) or getattr(client, "close")  # noqa: B009 - vendors' clients
        await close()
