"""Bytes from the socket to the parser without a stream, a Future and a task switch between them.

nats-py does the handshake on asyncio's streams; after it, a `ReadProtocol` takes the place of their protocol. Writing,
flow control and the end of the connection stay theirs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nats.errors import UnexpectedEOF

from unpod.event_loop import batch

if TYPE_CHECKING:
    from collections.abc import Callable


class ReadProtocol(asyncio.Protocol):
    """What one connection receives: `feed` takes the bytes, `control` returns the lines that are no messages."""

    def __init__(self, feed: Callable[[bytes], list[bytes]]) -> None:
        self._feed: Callable[[bytes], list[bytes]] | None = feed
        self._batch = batch()
        self._streams: asyncio.Protocol | None = None
        self._lines: list[bytes] = []
        self._error: Exception | None = None
        self._awaited: asyncio.Future[None] | None = None

    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Receive from here on, and first of all what the stream has received already."""
        transport = writer.transport
        streams = transport.get_protocol()
        if not isinstance(streams, asyncio.Protocol):
            raise TypeError(f"a transport with a {type(streams).__name__} is none of asyncio's streams")
        self._streams = streams
        transport.set_protocol(self)
        ended = reader.at_eof()
        reader.feed_eof()  # so that what is read now is there, and nothing is waited for
        if before := await reader.read():
            self.data_received(before)
        if ended or transport.is_closing():
            self._end(UnexpectedEOF())

    def stop(self) -> None:
        """Hand nothing on any more."""
        self._feed = None

    async def control(self) -> list[bytes]:
        """Return what has come, at least one line.

        Raises:
            UnexpectedEOF: the connection is over.
            Exception: what `feed` raised; nothing is received any more.
        """
        while not self._lines:
            if self._error is not None:
                raise self._error
            self._awaited = asyncio.get_running_loop().create_future()
            await self._awaited
        lines, self._lines = self._lines, []
        return lines

    # ---------------------------------------------------------------------------------------------------- the protocol

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._feed is None:
            return
        try:
            lines = self._batch.read(self._feed, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, `control` raises it
            self._end(error)
            return
        if lines:
            self._lines += lines
            self._wake()

    def eof_received(self) -> bool | None:
        """The server has closed its side."""
        self._end(UnexpectedEOF())
        return self._streams.eof_received() if self._streams is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(exc or UnexpectedEOF())
        if self._streams is not None:
            self._streams.connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full."""
        if self._streams is not None:
            self._streams.pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._streams is not None:
            self._streams.resume_writing()

    def _end(self, error: Exception) -> None:
        self._feed = None
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)
