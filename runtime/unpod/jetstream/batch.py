"""Reading back: batched direct get. A replica answers from its own store, so this costs no consumer and no leader."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from unpod.errors import LogUnavailable
from unpod.jetstream.wire import decode_headers, status_of
from unpod.ports import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from unpod.errors import LogError
    from unpod.jetstream.connection import Nats

_FIRST_BATCH: Final = 64  # small, so that the first record is there at once
_LARGEST_BATCH: Final = 1_024
_MAX_BYTES: Final = 1024 * 1024
_TAIL: Final = b"\r\nNats-Stream: "
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Seconds:
    """Parses the server's timestamps; the records of one read share their seconds, so the date is parsed once each."""

    __slots__ = ("_ns", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._ns = 0

    def parse(self, stamp: str) -> int:
        """Return nanoseconds since 1970 of an RFC 3339 time in UTC with up to nine digits of fraction."""
        text, _, fraction = stamp.removesuffix("Z").partition(".")
        if text != self._text:
            since = datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH
            self._text, self._ns = text, (since.days * 86_400 + since.seconds) * 1_000_000_000
        return self._ns + int(fraction.ljust(9, "0")) if fraction else self._ns


class StoredParser:
    """Turns the answers of a direct get into messages."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = _Seconds()

    def message(self, block: bytes, data: bytes) -> tuple[Message, int]:
        """Return the record, and how many more the server has for this read (-1 where it does not say).

        The server appends its own headers to the record's; only these are believed, and they are taken off.
        """
        cut = block.rindex(_TAIL)
        fields = block[cut + 2 : -4].decode("utf-8", "replace").split("\r\n")
        values = [field.partition(": ")[2] for field in fields]
        _, subject, seq, stamp = values[:4]
        headers = decode_headers(block[:cut] + b"\r\n\r\n")
        pending = int(values[4]) if len(values) > 4 else -1  # noqa: PLR2004 - a batch has two more
        return Message(subject, data, headers, int(seq), self._seconds.parse(stamp)), pending


class _Batch:
    """One request and the row of its answers."""

    __slots__ = ("_awaited", "_nats", "_parser", "_timeout_s", "_waiter", "end", "error", "pending", "records")

    def __init__(self, nats: Nats, parser: StoredParser, timeout_s: float) -> None:
        self._nats = nats
        self._parser = parser
        self._timeout_s = timeout_s
        self.records: list[Message] = []
        self.pending = -1
        self.end = False
        self.error: LogError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def ask(self, stream: str, request: dict[str, object]) -> None:
        """Send the request; raises LogUnavailable."""
        subject = f"$JS.API.DIRECT.GET.{stream}"
        self._awaited = self._nats.expect(subject, self._timeout_s, self._answer, self._lost)
        try:
            self._nats.send_block(subject, json.dumps(request).encode(), b"", self._awaited.reply)
        except BaseException:
            self._awaited.close()
            raise

    def _answer(self, block: bytes, data: bytes) -> None:
        status = status_of(block)
        if not status:
            status = self._take(block, data)
        if status:
            self._finish(status)
        self._wake()

    def _take(self, block: bytes, data: bytes) -> str:
        message, pending = self._parser.message(block, data)
        if self.pending == 0:  # appended since the server began to answer
            return "204"
        if self.pending > 0 and pending != self.pending - 1:
            return "gap"
        self.pending = pending
        self.records.append(message)
        self._awaited.extend(self._timeout_s)
        return ""

    def _finish(self, status: str) -> None:
        self._awaited.close()
        self.end = True
        if status == "404":
            self.pending = 0
        elif status != "204":
            self.error = LogUnavailable(f"the log cannot be read now ({status})")

    def _lost(self, reason: LogError) -> None:
        self.end, self.error = True, reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> list[Message]:
        """Return what has come, at least one record; [] at the batch's end."""
        while not self.records and not self.end:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        part, self.records = self.records, []
        return part

    def close(self) -> None:
        """Await nothing any more."""
        self._awaited.close()


async def read_batches(
    nats: Nats, stream: str, pattern: str, start_seq: int, *, timeout_s: float
) -> AsyncGenerator[list[Message], None]:
    """Yield what matches from `start_seq` up to the end as it is at the first answer, as it comes, in lists.

    Raises:
        LogUnavailable: no answer; what was yielded until then is complete, and a new read can go on behind it.
    """
    parser = StoredParser()
    size, left, seq = _FIRST_BATCH, -1, start_seq
    while left != 0:
        batch = _Batch(nats, parser, timeout_s)
        batch.ask(stream, {"seq": seq, "batch": size, "max_bytes": _MAX_BYTES, "next_by_subj": pattern})
        try:
            while left and (part := await batch.more()):
                if left < 0:
                    left = batch.pending + len(part)
                del part[left:]
                left -= len(part)
                seq = part[-1].seq + 1
                yield part
        finally:
            batch.close()
        if batch.error is not None:
            raise batch.error
        if batch.pending <= 0:
            return
        size = min(size * 4, _LARGEST_BATCH)
