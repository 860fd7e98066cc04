"""Where the contract is checked: in memory, and on a real nats-server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unpod.errors import LogFull
from unpod.jetstream import connect, open_log, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod.testing.broker import MemoryBroker
from unpod.testing.memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from unpod.ports import Bus, EventLog

MAX_BYTES = 8 * 1024 * 1024
MAX_RECORD = 1024 * 1024


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for what other processes do; there is nothing of theirs to wait on."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - see the docstring
            await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Client:
    """One process's view: a log and a bus over one connection."""

    log: EventLog
    bus: Bus


class Place(Protocol):
    """A server that can be made to fail."""

    async def client(self) -> Client:
        """Return another connection."""
        ...

    def outage(self) -> AbstractAsyncContextManager[None]:
        """Take the server away; it is back, with its data, at the end."""
        ...

    async def fill(self) -> None:
        """Make the log full."""
        ...


class InMemory:
    def __init__(self) -> None:
        self._broker = MemoryBroker(max_bytes=MAX_BYTES, max_payload=MAX_RECORD)
        self._clients: list[MemoryLog] = []

    async def client(self) -> Client:
        log = MemoryLog(self._broker)
        self._clients.append(log)
        return Client(log, log)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        for client in self._clients:
            client.available = False
        try:
            yield
        finally:
            for client in self._clients:
                client.available = True

    async def fill(self) -> None:
        self._broker.full = True


class OnServer:
    def __init__(self, server: EmbeddedServer, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack
        self._spec = topology(max_bytes=MAX_BYTES, max_msg_size=MAX_RECORD).calls

    async def client(self) -> Client:
        nats = await self._stack.enter_async_context(connect(self._server.connection("contract")))
        return Client(await open_log(nats, self._spec), nats)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await self._server.down(kill=True)
        try:
            yield
        finally:
            await self._server.up()

    async def fill(self) -> None:
        log = (await self.client()).log
        for size in (MAX_RECORD // 2, 10_000, 100, 0):
            await _fill(log, size)


async def _fill(log: EventLog, size: int) -> None:
    while True:
        try:
            await log.append("unpod.call.f", b"x" * size, {})  # nothing can be smaller than the last of these
        except LogFull:
            return


@asynccontextmanager
async def open_place(kind: str, directory: Path) -> AsyncIterator[Place]:
    """Open a place by name, `memory` or `jetstream`."""
    if kind == "memory":
        yield InMemory()
        return
    async with EmbeddedServer(EmbeddedOptions(directory)) as server, AsyncExitStack() as stack:
        yield OnServer(server, stack)
