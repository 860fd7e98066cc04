"""Reading back: batched direct get. A replica answers from its own store, so this costs no consumer and no leader."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from unpod.core.headers import HeaderText
from unpod.errors import LogUnavailable
from unpod.jetstream.connection.wire import NO_HEADERS, status_of
from unpod.ports import Message

if TYPE_CHECKING:
    from unpod.errors import LogError
    from unpod.jetstream.connection.connection import Nats
    from unpod.jetstream.connection.request_mux import Awaited

_FIRST_BATCH: Final = 8  # the server sends a batch as a whole: a small one is there at once
_LARGEST_BATCH: Final = 4_096  # each request costs the server a count of what is left, so few large ones are faster
_MAX_BYTES: Final = 2 * 1024 * 1024
_TAIL: Final = "\r\nNats-Stream: "
_AT_SUBJECT: Final = len("Nats-Subject: ")
_AT_SEQ: Final = len("Nats-Sequence: ")
_AT_STAMP: Final = len("Nats-Time-Stamp: ")
_AT_PENDING: Final = len("Nats-Num-Pending: ")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Minutes:
    """Parses the server's timestamps; the records of one read share minutes, so a date is parsed once for each."""

    __slots__ = ("_s", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._s = 0

    def parse(self, stamp: str) -> int:
        """Return nanoseconds since 1970 of an RFC 3339 time in UTC with up to nine digits of fraction."""
        text, fraction = stamp[:16], stamp[20:-1]
        if text != self._text:
            since = datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH
            self._text, self._s = text, since.days * 86_400 + since.seconds
        whole = (self._s + int(stamp[17:19])) * 1_000_000_000
        if len(fraction) == 9:  # noqa: PLR2004 - the server leaves zeros at the end away
            return whole + int(fraction)
        return whole + int(fraction.ljust(9, "0"))


class StoredParser:
    """Turns the answers of a direct get into messages."""

    __slots__ = ("_minutes",)

    def __init__(self) -> None:
        self._minutes = _Minutes()

    def message(self, block: bytes, data: bytes) -> tuple[Message, int]:
        """Return the record, and how many more the server has for this read (-1 where it does not say).

        The server appends its own headers to the record's; only these are believed, and they are taken off.
        """
        text = block.decode("utf-8", "replace")
        cut = text.rindex(_TAIL)
        headers = HeaderText(text[10:cut]) if cut > 10 else NO_HEADERS  # noqa: PLR2004 - "NATS/1.0\r\n"
        _, subject, seq, stamp, *rest = text[cut + 2 : -4].split("\r\n")
        pending = int(rest[0][_AT_PENDING:]) if rest else -1
        time_ns = self._minutes.parse(stamp[_AT_STAMP:])
        return Message(subject[_AT_SUBJECT:], data, headers, int(seq[_AT_SEQ:]), time_ns), pending


class Reading:
    """What every read has that is asked for in parts: what has come and was not taken yet, and who waits for it."""

    def __init__(self, nats: Nats, stream: str, timeout_s: float) -> None:
        self._nats = nats
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._timeout_s = timeout_s
        self._parser = StoredParser()
        self._awaited: Awaited | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._records: list[Message] = []

    def close(self) -> None:
        """Await nothing any more."""
        if self._awaited is not None:
            self._awaited.close()
            self._awaited = None

    async def _wait(self) -> None:
        """Return once there is something new."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class BatchRead(Reading):
    """One read: asks for batch after batch, the next one while the last is being consumed; holds two at most."""

    def __init__(
        self,
        nats: Nats,
        stream: str,
        pattern: str,
        start_seq: int,
        *,
        timeout_s: float,
        first_batch: int = _FIRST_BATCH,
    ) -> None:
        super().__init__(nats, stream, timeout_s)
        self._pattern = pattern
        self._size = first_batch
        self._seq = start_seq
        self._left = -1
        """How many records are still to come, as of the first answer; -1 before it."""
        self._in_batch = -1
        """What the server said to have behind the last record; -1 at a batch's start."""
        self._error: LogError | None = None

    def begin(self) -> None:
        """Ask for the first batch now rather than in `more`, which asks again if that cannot be sent."""
        if self._awaited is None:
            with suppress(LogUnavailable):
                self._ask()

    @property
    def reach(self) -> int:
        """The stream sequence from which a read that follows may begin."""
        return 0

    async def more(self) -> list[Message]:
        """Return what has come since, at least one record; [] at the end as it was at the first answer.

        Raises:
            LogUnavailable: no answer; everything before is complete, and a new read can go on behind it.
        """
        while not self._records:
            if self._left == 0:
                return []
            if self._error is not None:
                raise self._error
            if self._awaited is None:
                self._ask()
            await self._wait()
        part, self._records = self._records, []
        if self._awaited is not None:
            self._awaited.extend(self._timeout_s)
        return part

    def _ask(self) -> None:
        body = {"seq": self._seq, "batch": self._size, "max_bytes": _MAX_BYTES, "next_by_subj": self._pattern}
        self._size = _LARGEST_BATCH
        self._in_batch = -1
        # An inbox of its own for each: what a lost connection leaves of one batch cannot get into the next.
        awaited = self._nats.replies.expect(self._subject, self._timeout_s, self._answer, self._lost)
        try:
            self._nats.send_block(self._subject, json.dumps(body).encode(), b"", awaited.reply)
        except BaseException:
            awaited.close()
            raise
        self._awaited = awaited

    def _answer(self, block: bytes, data: bytes) -> None:
        if block.startswith(b"NATS/1.0 "):
            self._end_of_batch(status_of(block))
        else:
            message, pending = self._parser.message(block, data)
            if self._in_batch >= 0 and pending != self._in_batch - 1:
                self._end_of_batch("a record is missing")
            else:
                self._in_batch = pending
                self._left = pending if self._left < 0 else self._left - 1
                self._seq = message.seq + 1
                self._records.append(message)
                if self._left == 0:
                    self.close()
        self._wake()

    def _end_of_batch(self, status: str) -> None:
        self.close()
        if status == "404" or (status == "204" and self._in_batch <= 0):
            self._left = 0
        elif status != "204":
            self._error = LogUnavailable(f"the log cannot be read now ({status})")
        elif len(self._records) <= self._size:
            try:
                self._ask()
            except LogUnavailable as error:
                self._error = error

    def _lost(self, reason: LogError) -> None:
        self._awaited = None
        self._error = reason
        self._wake()
