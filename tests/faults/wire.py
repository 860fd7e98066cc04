"""A wire between a process and NATS, or between two NATS nodes, that a test can harm: everything passes, until not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Literal, Self, TypeAlias

Way: TypeAlias = Literal["there", "back"]
"""`there`: from whoever has connected to the port behind the wire; `back`: the other way round."""

BOTH: Final[frozenset[Way]] = frozenset({"there", "back"})
NONE: Final[frozenset[Way]] = frozenset()

_CHUNK: Final = 65_536
_TRICKLE_S: Final = 0.02
_ON_ITS_WAY: Final = 4_000_000
"""How many bytes a slow wire holds before it reads no more."""


class Wire:
    """A TCP relay to ports on this machine, each behind a port of its own, which are harmed all alike.

    `cut` breaks what goes through it, and `held` lets nothing new through. `stopped`: on these ways nothing arrives;
    what was sent arrives later, as with packets that are sent again. `delay_s` passes before a byte arrives. `trickle`:
    so many bytes go through at once, fifty times a second; 0 for all.
    """

    def __init__(self, *ports: int) -> None:
        self.ports: list[int] = []
        self.held = False
        self.delay_s = 0.0
        self.trickle = 0
        self._stopped = NONE
        self._moving = {"there": asyncio.Event(), "back": asyncio.Event()}
        for event in self._moving.values():
            event.set()
        self._targets = ports
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for target in self._targets:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int = target) -> None:
                await self._serve(reader, writer, target)

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._writers) // 2

    @property
    def stopped(self) -> frozenset[Way]:
        """On which ways nothing arrives."""
        return self._stopped

    @stopped.setter
    def stopped(self, ways: frozenset[Way]) -> None:
        self._stopped = ways
        for way, moving in self._moving.items():
            (moving.clear if way in ways else moving.set)()

    def cut(self) -> None:
        """Break every connection that goes through it."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Let everything through again, at once."""
        self.held = False
        self.delay_s = 0.0
        self.trickle = 0
        self.stopped = NONE

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        """Relay one connection. This task must not be cancelled (asyncio complains), so the work has one of its own."""
        task = asyncio.create_task(self._connect(reader, writer, target))
        self._tasks.add(task)
        await asyncio.wait({task})
        self._tasks.discard(task)
        writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        if not self.held:
            with suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", target)
                await self._relay((reader, writer), there)

    async def _relay(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._writers |= {here[1], there[1]}
        ways = [
            asyncio.create_task(self._pass("there", here[0], there[1])),
            asyncio.create_task(self._pass("back", there[0], here[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers -= {here[1], there[1]}
            there[1].transport.abort()

    async def _pass(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes one way: read, wait for their time to arrive, write; in order, whatever changes meanwhile."""
        loop = asyncio.get_running_loop()
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        under_way = _Amount()

        async def arrive() -> None:
            while True:
                due, data = await travelling.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._moving[way].wait()
                await self._write(way, data, writer)
                under_way.less(len(data))

        arriving: asyncio.Task[None] | None = None
        try:
            with suppress(OSError):
                while data := await reader.read(_CHUNK):
                    if arriving is None and not (self.delay_s or self.trickle or self._stopped):
                        writer.write(data)
                        await writer.drain()
                        continue
                    if arriving is None:  # from its first trouble on, this connection has a queue
                        arriving = asyncio.create_task(arrive())
                    under_way.more(len(data))
                    travelling.put_nowait((loop.time() + self.delay_s if self.delay_s else 0.0, data))
                    await under_way.below(_ON_ITS_WAY)
        finally:
            if arriving is not None:
                arriving.cancel()
                await asyncio.gather(arriving, return_exceptions=True)

    async def _write(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data and self.trickle:
                writer.write(data[: self.trickle])
                data = data[self.trickle :]
                await asyncio.sleep(_TRICKLE_S)
                await self._moving[way].wait()
            if data:
                writer.write(data)
                await writer.drain()


class _Amount:
    """How many bytes are on their way."""

    def __init__(self) -> None:
        self._bytes = 0
        self._fewer = asyncio.Event()

    def more(self, count: int) -> None:
        self._bytes += count

    def less(self, count: int) -> None:
        self._bytes -= count
        self._fewer.set()

    async def below(self, bound: int) -> None:
        while self._bytes > bound:
            self._fewer.clear()
            await self._fewer.wait()
