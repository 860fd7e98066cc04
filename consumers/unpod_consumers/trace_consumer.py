"""The replicas of the traces consumer: pull, read, send, then acknowledge. They share the work and remember nothing.

What the collector does not take stays unacknowledged and comes again, to anyone, with the same ids. While it is away
there is at most one batch in a process; the rest waits in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from unpod.errors import LogError, LogUnavailable, ProtocolViolation
from unpod.jetstream.api import ApiError
from unpod_consumers.checkpoint import Checkpoint, note

if TYPE_CHECKING:
    from unpod.jetstream import Delivery, PullConsumer
    from unpod_consumers.exporters.otlp_traces import SpanSender
    from unpod_consumers.projections.spans import Span
    from unpod_consumers.trace_reader import TraceReader

ABANDONED_AFTER_S: Final = 900.0

_LOG: Final = logging.getLogger("unpod.consumers")
_BATCH: Final = 256
_WAIT_S: Final = 1.0
_AGAIN_S: Final = 0.5
_TRIES: Final = 5
_DELIVERIES: Final = 20

_Ready: TypeAlias = "tuple[Delivery, list[Span]]"
"""A record and the spans that it gives."""


class TraceConsumer:
    """One replica; `hold_s` is well under the time after which what is not acknowledged comes again."""

    def __init__(
        self, consumer: PullConsumer, reader: TraceReader, sender: SpanSender, parked: Checkpoint, *, hold_s: float
    ) -> None:
        self._consumer = consumer
        self._reader = reader
        self._sender = sender
        self._parked = parked
        self._hold_s = hold_s
        self.sent = 0
        """Spans that the collector has taken."""

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; what NATS or the collector cannot take now is tried again."""
        opened = False
        while not stop.is_set():
            try:
                if not opened:
                    await self._consumer.open()
                    opened = True
                await self._round(stop)
            except (LogUnavailable, ApiError) as error:
                _LOG.warning("the log cannot be read now: %s", error)
                opened = False
                await asyncio.sleep(_AGAIN_S)

    async def lag(self) -> int:
        """Return how many records wait or are being worked on."""
        return await self._consumer.waiting() or 0

    async def _round(self, stop: asyncio.Event) -> None:
        batch = await self._consumer.fetch(_BATCH, _WAIT_S)
        ready = await self._project(batch)
        left = {delivery.place: delivery for delivery, _ in ready}
        holding = asyncio.create_task(self._hold(left))
        try:
            await self._deliver(ready, left, stop)
        finally:
            holding.cancel()
            await asyncio.wait({holding})

    async def _hold(self, left: dict[int, Delivery]) -> None:
        """Keep what is not acknowledged yet from being delivered again, however long the collector takes."""
        while True:
            await asyncio.sleep(self._hold_s)
            for delivery in left.values():
                self._consumer.hold(delivery)

    # -------------------------------------------------------------------------------------------------------- project

    async def _project(self, batch: Sequence[Delivery]) -> list[_Ready]:
        """Return what each record gives, those of one session in order; what can give nothing, ever, is parked."""
        sessions: dict[str, list[Delivery]] = {}
        ready: list[_Ready] = []
        for delivery in sorted(batch, key=lambda delivery: delivery.message.seq):
            try:
                sessions.setdefault(self._reader.session(delivery.message), []).append(delivery)
            except ProtocolViolation as error:
                await note(self._parked, delivery.message, str(error))
                ready.append((delivery, []))
        for found in await asyncio.gather(*(self._read(*each) for each in sessions.items())):
            ready += found
        return ready

    async def _read(self, session: str, deliveries: list[Delivery]) -> list[_Ready]:
        try:
            spans = await self._spans(session, deliveries)
        except LogError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one call does to the projection, the others go on
            for delivery in deliveries:
                await note(self._parked, delivery.message, type(error).__name__)
            return [(delivery, []) for delivery in deliveries]
        return [(delivery, found) for delivery, found in zip(deliveries, spans, strict=True) if found is not None]

    async def _spans(self, session: str, deliveries: list[Delivery]) -> Sequence[list[Span] | None]:
        """Return what to send of each record of a session, None to look at it again later."""
        return await self._reader.spans(session, [delivery.message for delivery in deliveries])

    # -------------------------------------------------------------------------------------------------------- deliver

    async def _deliver(self, ready: Sequence[_Ready], left: dict[int, Delivery], stop: asyncio.Event) -> None:
        """Send and acknowledge; what the collector does not take after a few tries is delivered again later."""
        sent = self.sent
        for attempt in range(_TRIES):
            ready = await self._try(ready, left, stop)
            if not ready or stop.is_set():
                return
            seconds = _AGAIN_S * 2**attempt
            _LOG.warning("the collector does not take the spans of %d records; again in %g s", len(ready), seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)
        # While nothing goes through it is the collector, not what it is sent.
        for delivery, _ in ready if self.sent > sent else ():
            if delivery.times >= _DELIVERIES:
                await note(self._parked, delivery.message, "the collector refuses its spans")
                self._done(delivery, left)

    async def _try(self, ready: Sequence[_Ready], left: dict[int, Delivery], stop: asyncio.Event) -> Sequence[_Ready]:
        """Send all in one, else each on its own, so that one that is refused holds up no other; return what is left."""
        if await self._send([span for _, spans in ready for span in spans]):
            for delivery, _ in ready:
                self._done(delivery, left)
            return []
        if len(ready) == 1:
            return ready
        refused: list[_Ready] = []
        sent = self.sent
        for at, (delivery, spans) in enumerate(ready):
            if await self._send(spans):
                self._done(delivery, left)
                continue
            refused.append((delivery, spans))
            # Two in a row, and none that went through: it takes nothing at all.
            if stop.is_set() or (len(refused) > 1 and self.sent == sent):
                return [*refused, *ready[at + 1 :]]
        return refused

    async def _send(self, spans: list[Span]) -> bool:
        taken = await asyncio.to_thread(self._sender.send, spans)
        self.sent += len(spans) if taken else 0
        return taken

    def _done(self, delivery: Delivery, left: dict[int, Delivery]) -> None:
        self._consumer.acknowledge(delivery)
        left.pop(delivery.place, None)


class Watch(TraceConsumer):
    """Looks at each call until it has ended; one whose log falls silent without an end gets its root here."""

    def __init__(
        self,
        consumer: PullConsumer,
        reader: TraceReader,
        sender: SpanSender,
        parked: Checkpoint,
        *,
        hold_s: float,
        after_s: float = ABANDONED_AFTER_S,
    ) -> None:
        super().__init__(consumer, reader, sender, parked, hold_s=hold_s)
        self._after_s = after_s

    async def _spans(self, session: str, deliveries: list[Delivery]) -> Sequence[list[Span] | None]:
        """Return all that is known of an abandoned call; an unacknowledged record is looked at again."""
        abandoned = await self._reader.abandoned(session, self._after_s)
        if abandoned is None:
            return [[] for _ in deliveries]
        if not abandoned:
            return [None for _ in deliveries]
        whole = await self._reader.whole(deliveries[0].message)
        return [whole, *([] for _ in deliveries[1:])]
