"""A wire between a process and NATS that a test can cut: everything passes, until it does not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self


class Wire:
    """A TCP relay to `port` on this machine; `cut` breaks what goes through it, and `held` lets nothing new through."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.held = False
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Break every connection that goes through it."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection. This task must not be cancelled (asyncio complains), so the work has one of its own."""
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        await asyncio.wait({task})
        self._tasks.discard(task)
        writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.held:
            with suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", self._target)
                await self._relay((reader, writer), there)

    async def _relay(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._writers |= {here[1], there[1]}
        ways = [asyncio.create_task(_pass(here[0], there[1])), asyncio.create_task(_pass(there[0], here[1]))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers -= {here[1], there[1]}
            there[1].transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
