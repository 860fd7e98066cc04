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
from unpod.jetstream.streams.api import ApiError
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
_TRIES: Final = 3
_REFUSED: Final = 10_000

_Ready: TypeAlias = "tuple[Delivery, list[Span]]"
"""A record and the spans that it gives."""


class TraceConsumer:
    """One replica; `hold_s` is well under the time after which what is not acknowledged comes again.

    What was not taken is tried after `again_s`, at last comes again after `later_s`, and is parked with its
    `most_deliveries`th delivery where others were taken meanwhile.
    """

    def __init__(
        self,
        consumer: PullConsumer,
        reader: TraceReader,
        sender: SpanSender,
        parked: Checkpoint,
        *,
        hold_s: float,
        again_s: float = 0.5,
        later_s: float = 5.0,
        most_deliveries: int = 20,
    ) -> None:
        self._consumer = consumer
        self._reader = reader
        self._sender = sender
        self._parked = parked
        self._hold_s = hold_s
        self._again_s = again_s
        self._later_s = later_s
        self._most_deliveries = most_deliveries
        self._refused: dict[int, int] = {}
        """How many spans had been taken when a record, by its sequence, was refused first."""
        self.sent = 0
        """Spans that the collector has taken."""

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; what NATS or the collector cannot take now is tried again."""
        try:
            while not stop.is_set():
                try:
                    await self._consumer.open()
                    while not stop.is_set():
                        await self._round(stop)
                except (LogUnavailable, ApiError) as error:
                    _LOG.warning("the log cannot be read now: %s", error)
                    await asyncio.sleep(self._again_s)
        finally:
            await self._consumer.close()

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
        """Send and acknowledge; what the collector does not take after a few tries comes again a little later."""
        tries = _TRIES if any(delivery.times == 1 for delivery, _ in ready) else 1
        for attempt in range(tries):
            ready = await self._try(ready, left, stop)
            if not ready or stop.is_set():
                return
            _LOG.warning("the collector does not take the spans of %d records; they are sent again", len(ready))
            if attempt + 1 < tries:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._again_s * 2**attempt)
        for delivery, _ in ready:
            await self._give_up(delivery, left)

    async def _give_up(self, delivery: Delivery, left: dict[int, Delivery]) -> None:
        """Put a record off, or park it if it was refused for long while others were taken."""
        sent = self._refused.get(delivery.message.seq, self.sent)
        if delivery.times >= self._most_deliveries and self.sent > sent:
            await note(self._parked, delivery.message, "the collector refuses its spans")
            self._done(delivery, left)
        else:
            left.pop(delivery.place, None)
            self._consumer.postpone(delivery, self._later_s)

    async def _try(self, ready: Sequence[_Ready], left: dict[int, Delivery], stop: asyncio.Event) -> Sequence[_Ready]:
        """Send all in one, else each on its own, so that one that is refused holds up no other.

        Return what is left, what was refused behind what was not tried.
        """
        if await self._send([span for _, spans in ready for span in spans]):
            for delivery, _ in ready:
                self._done(delivery, left)
            return []
        refused: list[_Ready] = []
        sent = self.sent
        ready = sorted(ready, key=lambda one: one[0].message.seq in self._refused)
        for at, (delivery, spans) in enumerate(ready):
            if len(ready) > 1 and await self._send(spans):
                self._done(delivery, left)
                continue
            refused.append((delivery, spans))
            self._note_refused(delivery)
            # Two were refused in a row and none was taken: the collector takes nothing at all.
            if stop.is_set() or (len(refused) > 1 and self.sent == sent):
                return [*ready[at + 1 :], *refused]
        return refused

    def _note_refused(self, delivery: Delivery) -> None:
        self._refused.setdefault(delivery.message.seq, self.sent)
        if len(self._refused) > _REFUSED:
            del self._refused[next(iter(self._refused))]

    async def _send(self, spans: list[Span]) -> bool:
        taken = await asyncio.to_thread(self._sender.send, spans)
        self.sent += len(spans) if taken else 0
        return taken

    def _done(self, delivery: Delivery, left: dict[int, Delivery]) -> None:
        self._consumer.acknowledge(delivery)
        left.pop(delivery.place, None)
        self._refused.pop(delivery.message.seq, None)


class AbandonedCallConsumer(TraceConsumer):
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
