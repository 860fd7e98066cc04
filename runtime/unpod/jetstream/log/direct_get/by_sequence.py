"""Reading back by sequence: direct get of records whose places are known, many on their way at once.

The server finds each without a search. There is one inbox for all of a read, and no Future per record; replicas may
answer in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unpod.errors import LogUnavailable
from unpod.jetstream.connection.wire import encode_publishes
from unpod.jetstream.log.direct_get.by_subject import BatchRead, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpod.core.positions import Positions
    from unpod.errors import LogError
    from unpod.jetstream.connection.connection import Nats
    from unpod.ports import Message

_WINDOW: Final = 512
"""How many records are asked for or wait to be taken, at most."""
_REFILL: Final = _WINDOW // 2
_FIRST: Final = 8
"""How many are asked for first.

The server answers the requests of one read of its socket together, so a small first request is answered soonest.
"""
_FEW: Final = 32
"""Up to so many are asked for at once, together with what stands behind them: one write and one answer in all."""
_TAIL_BATCH: Final = 512
"""What was written behind the known places is a second's worth: it comes in one batch."""


class PointRead(Reading):
    """One read of records by their sequences, ascending, of which each must stand on a subject like `pattern`."""

    def __init__(self, nats: Nats, stream: str, pattern: str, seqs: Sequence[int], *, timeout_s: float) -> None:
        super().__init__(nats, stream, timeout_s)
        self._is_ours = matcher(pattern)
        self._seqs = seqs
        self._asked = 0
        self._answered = 0
        self._ready = 0
        self._early: dict[int, Message] = {}
        self.problem = ""
        """Why the read has ended before its end, or ""; what it has returned is whole up to there."""

    @property
    def asked_all(self) -> bool:
        """Whether all are on their way."""
        return self._asked == len(self._seqs)

    def begin(self) -> None:
        """Ask for the first ones, which `more` would do otherwise."""
        if not self._asked:
            self._ask()

    async def more(self) -> list[Message]:
        """Return what has come since, at least one record; [] at the end, also where there is a `problem`."""
        while not self._records:
            if self.problem or self._ready == len(self._seqs):
                return []
            self._ask()
            if not self.problem:
                await self._wait()
        part, self._records = self._records, []
        if self._asked > _FIRST:
            self._ask()
        return part

    def _ask(self) -> None:
        """Ask for the next ones, if enough of those before have been answered and taken."""
        first, on_the_way = self._asked, self._asked - self._answered
        window = _WINDOW if first or len(self._seqs) <= _FEW else _FIRST
        room = window - on_the_way - len(self._records)
        if self.problem or first == len(self._seqs) or (room < _REFILL and first):
            return
        wanted = self._seqs[first : first + room]
        if self._awaited is None:
            self._awaited = self._nats.replies.expect(self._subject, self._timeout_s, self._answer, self._lost)
        self._awaited.extend(self._timeout_s)
        try:
            requests = [b'{"seq":%d}' % seq for seq in wanted]
            self._nats.send_commands(encode_publishes(self._subject, self._awaited.reply, requests))
        except LogUnavailable as error:
            self._fail(str(error))
        else:
            self._asked += len(wanted)

    def _answer(self, block: bytes, data: bytes) -> None:
        self._answered += 1
        if block.startswith(b"NATS/1.0 "):
            self._fail("a record is not there")
            return
        message = self._parser.message(block, data)[0]
        if not self._is_ours(message.subject):
            self._fail("a record is of another session")
            return
        if message.seq != self._seqs[self._ready]:
            self._early[message.seq] = message
            return
        self._records.append(message)
        self._ready += 1
        if self._early:
            self._take_early()
        if self._waiter is not None:
            self._wake()
        elif self._asked > _FIRST and self._asked - self._answered < _REFILL:
            self._ask()

    def _take_early(self) -> None:
        while self._ready < len(self._seqs):
            message = self._early.pop(self._seqs[self._ready], None)
            if message is None:
                return
            self._records.append(message)
            self._ready += 1

    def _lost(self, reason: LogError) -> None:
        self._awaited = None
        if self._asked > self._answered:
            self._fail(str(reason))

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.close()
        self._wake()


class KnownRead:
    """One read of records whose places are known, and of what has been written behind them, which is searched for."""

    def __init__(
        self, nats: Nats, stream: str, pattern: str, positions: Positions, start_seq: int, *, timeout_s: float
    ) -> None:
        known = positions.since(start_seq)
        behind = max(start_seq, positions.through + 1)
        self._points = PointRead(nats, stream, pattern, known, timeout_s=timeout_s)
        self._tail = BatchRead(nats, stream, pattern, behind, timeout_s=timeout_s, first_batch=_TAIL_BATCH)
        self._behind = behind
        self.reach = 0
        """The stream sequence from which a read that follows may begin."""

    async def more(self) -> list[Message]:
        """Return what has come since, at least one record; [] at the end as it was when this began.

        Raises:
            LogUnavailable: no answer, or a place is wrong; everything before is complete.
        """
        if not self.reach:
            self._points.begin()
            if self._points.asked_all:
                self._tail.begin()  # behind the others: the server answers in the order in which it is asked
            if part := await self._points.more():
                return part
            if self._points.problem:
                raise LogUnavailable(self._points.problem)
            self.reach = self._behind
        return await self._tail.more()

    def close(self) -> None:
        """Await nothing any more."""
        self._points.close()
        self._tail.close()


def matcher(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a subject matches a pattern with `*` and `>`."""
    head = pattern[:-1]
    if pattern.endswith(".>") and "*" not in head:
        return lambda subject: subject.startswith(head)  # one session's: no expression has to be compiled
    parts = ["[^.]+" if part == "*" else ".+" if part == ">" else re.escape(part) for part in pattern.split(".")]
    return re.compile(r"\.".join(parts)).fullmatch
