"""Reads calls from the log and gives their spans; of the calls in progress it remembers how far it has read."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from unpod.core import codec
from unpod.errors import ProtocolViolation
from unpod_consumers.projections.traces import CallTrace
from unpod_consumers.reading import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpod.core.subjects import Subjects
    from unpod.jetstream import JetStreamLog
    from unpod.ports import Message
    from unpod_consumers.projections.sampling import Sampling
    from unpod_consumers.projections.spans import Span

_REMEMBERED: Final = 10_000
"""How many calls in progress are remembered, a few kilobytes each; one beyond that is read again from its start."""
_ENDED: Final = 256
"""How many ended calls are remembered: their last turn may be completed a moment later."""


class _Reading:
    """A call up to a stream sequence."""

    __slots__ = ("seq", "trace")

    def __init__(self, trace: CallTrace) -> None:
        self.trace = trace
        self.seq = 0


class TraceReader:
    """Gives the spans of records, from the log; `sampling` says of which calls."""

    def __init__(
        self,
        log: JetStreamLog,
        subjects: Subjects,
        sampling: Sampling,
        *,
        content: bool = False,
        remembered: int = _REMEMBERED,
        ended: int = _ENDED,
    ) -> None:
        self._log = log
        self._subjects = subjects
        self._sampling = sampling
        self._content = content
        self._remembered = remembered
        self._kept_ended = ended
        self._readings: OrderedDict[str, _Reading] = OrderedDict()
        self._ended: deque[str] = deque()
        self.records = 0
        """How many records it has read."""

    def session(self, message: Message) -> str:
        """Return the session that a message belongs to.

        Raises:
            ProtocolViolation: it cannot be read.
        """
        return self._record(message).envelope.session

    async def spans(self, session: str, messages: Sequence[Message]) -> list[list[Span]]:
        """Return the spans that each of some records of one session gives; they are in stream order.

        Raises:
            LogUnavailable: no answer.
        """
        reading = self._readings.pop(session, None)
        if reading is None or reading.seq >= messages[0].seq:  # it was delivered before
            reading = self._begin(session, messages[0])
        found: dict[int, list[Span]] = {message.seq: [] for message in messages}
        if reading.trace.is_wanted(self._sampling):
            await self._read(session, reading, messages[-1].seq, found)
            self._keep(session, reading)
        return list(found.values())

    async def whole(self, message: Message) -> list[Span]:
        """Return all spans of the call to which a record belongs, as it stands in the log now; raises as above."""
        session = self.session(message)
        reading = self._begin(session, message)
        if not reading.trace.is_wanted(self._sampling):
            return []
        spans: dict[int, list[Span]] = {}
        await self._read(session, reading, message.seq, spans, to_the_end=True)
        return [*(span for found in spans.values() for span in found), *reading.trace.abandoned()]

    async def abandoned(self, session: str, after_s: float) -> bool | None:
        """Return whether a call has no end, and no new record for `after_s`; None where it has an end."""
        if await self._log.last(self._subjects.event_of(session, "call.ended")) is not None:
            return None
        newest = await self._log.last(self._subjects.session(session))
        return newest is None or time.time() - newest.time_ns / 1e9 > after_s

    async def _read(
        self, session: str, reading: _Reading, until: int, found: dict[int, list[Span]], *, to_the_end: bool = False
    ) -> None:
        """Read on up to a record, or beyond, and add the spans of each; what cannot be read gives none."""
        pattern = self._subjects.session(session)
        async with aclosing(self._log.read(pattern, start_seq=reading.seq + 1, until_seq=until)) as messages:
            async for message in messages:
                if message.seq > until and not to_the_end:
                    break
                self.records += 1
                reading.seq = message.seq
                try:
                    spans = reading.trace.take(self._record(message))
                except ProtocolViolation:
                    continue
                if to_the_end or message.seq in found:
                    found[message.seq] = spans

    def _begin(self, session: str, message: Message) -> _Reading:
        return _Reading(CallTrace(session, self._subjects.parse(message.subject).agent, content=self._content))

    def _keep(self, session: str, reading: _Reading) -> None:
        self._readings[session] = reading
        if len(self._readings) > self._remembered:
            self._readings.popitem(last=False)
        if reading.trace.facts.ended is not None:
            self._ended.append(session)
            if len(self._ended) > self._kept_ended:
                self._readings.pop(self._ended.popleft(), None)

    def _record(self, message: Message) -> codec.Record:
        return read(self._subjects, message)[0]
