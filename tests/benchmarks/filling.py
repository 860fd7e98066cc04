"""A stream filled as fast as the server stores: raw commands, with one record in a thousand acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from unpod.jetstream.connection.wire import encode_publish

_PART: Final = 1_000
_UNANSWERED: Final = 5
"""Parts on their way; the server drops what waits beyond 10,000 records."""
_INBOX: Final = "_INBOX.fill"

Publishable = tuple[str, bytes, bytes]


class Filler:
    """A bare connection to NATS that only publishes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._free = asyncio.Semaphore(_UNANSWERED)

    async def listen(self) -> None:
        """Take acknowledgements and pings until the connection is closed."""
        while line := await self._reader.readline():
            if line.startswith(b"MSG"):
                await self._reader.readexactly(int(line.split()[-1]) + 2)
                self._free.release()
            elif line.startswith(b"PING"):
                self._writer.write(b"PONG\r\n")

    async def publish(self, records: Iterable[Publishable]) -> None:
        """Store records; they are all stored when this returns."""
        rest = iter(records)
        while part := list(islice(rest, _PART)):
            *others, last = part
            commands = [encode_publish(subject, "", block, data) for subject, block, data in others]
            commands.append(encode_publish(last[0], _INBOX, last[1], last[2]))
            await self._free.acquire()
            self._writer.write(b"".join(commands))
            await self._writer.drain()
        for _ in range(_UNANSWERED):
            await self._free.acquire()
        for _ in range(_UNANSWERED):
            self._free.release()


@asynccontextmanager
async def filler(url: str) -> AsyncIterator[Filler]:
    """Connect to the server at `url`, which has user and password in it."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    hello = f'CONNECT {{"verbose":false,"headers":true,"user":"{at.username}","pass":"{at.password}"}}\r\n'
    writer.write(f"{hello}SUB {_INBOX} 1\r\n".encode())
    made = Filler(reader, writer)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        writer.close()
        await writer.wait_closed()
