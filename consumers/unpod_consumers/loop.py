"""The loop of a consumer: pull, project, keep, publish, then ack. What cannot be taken is parked and blocks nothing.

The checkpoint holds the state together with the stream sequence up to which it was folded, so a record counts once
whatever is killed where. Only what is in a stored checkpoint is published: no figure ever goes back. The place of the
consumer on the server is derived from the checkpoint, never the other way round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from unpod.errors import LogError, LogUnavailable, ProtocolViolation
from unpod.jetstream.api import ApiError

if TYPE_CHECKING:
    from unpod.jetstream import Delivery, PullConsumer
    from unpod.ports import Message
    from unpod_consumers.checkpoint import Checkpoint

_LOG: Final = logging.getLogger("unpod.consumers")
_BATCH: Final = 1_000
_WAIT_S: Final = 1.0
_AGAIN_S: Final = 0.5


class Projection(Protocol):
    """What a consumer makes of the records; it is fed in stream order."""

    position: int
    """The stream sequence up to which records have been taken, 0 for none."""

    def take(self, message: Message) -> None:
        """Fold one record.

        Raises:
            ProtocolViolation: it cannot be taken; nothing has changed.
        """

    def park(self, message: Message, reason: str) -> None:
        """Count a record that cannot be taken; `reason` is one word."""

    def dump(self) -> bytes:
        """Return the state, `position` included."""

    def load(self, data: bytes) -> None:
        """Go on from what `dump` returned."""

    def publish(self, lag: int) -> None:
        """Show what is known by now; `lag` is how many records wait."""


class Loop:
    """Runs a projection over the stream. `consumer_at` gives its pull consumer, to begin at a stream sequence."""

    def __init__(
        self, projection: Projection, checkpoint: Checkpoint, consumer_at: Callable[[int], PullConsumer]
    ) -> None:
        self._projection = projection
        self._checkpoint = checkpoint
        self._consumer_at = consumer_at
        self._place = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; what NATS cannot answer now is asked again.

        Raises:
            Superseded: another process of this consumer has gone on.
        """
        await self._restore()
        consumer: PullConsumer | None = None
        while not stop.is_set():
            try:
                if consumer is None:
                    consumer = await self._open()
                if not await self._round(consumer):
                    consumer = None
            except (LogUnavailable, ApiError) as error:
                _LOG.warning("the log cannot be read now: %s", error)
                consumer = None
                await asyncio.sleep(_AGAIN_S)

    async def _restore(self) -> None:
        while True:
            try:
                data = await self._checkpoint.load()
            except LogUnavailable as error:
                _LOG.warning("the checkpoint cannot be read now: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            if data is not None:
                self._projection.load(data)
            return

    async def _open(self) -> PullConsumer:
        consumer = self._consumer_at(self._projection.position + 1)
        await consumer.open(afresh=True)
        self._place = 0
        self._projection.publish(await consumer.waiting() or 0)
        return consumer

    async def _round(self, consumer: PullConsumer) -> bool:
        """Take what has come; return False where something was lost on the way, so that it is read again."""
        batch = await consumer.fetch(_BATCH, _WAIT_S)
        whole = 0
        for delivery in batch:
            if delivery.place != self._place + 1:
                break
            self._place = delivery.place
            await self._take(delivery)
            whole += 1
        if whole:
            await self._checkpoint.save(self._projection.dump())
            self._projection.publish(batch[whole - 1].pending)
            for delivery in batch[:whole]:
                consumer.acknowledge(delivery)
        else:
            self._projection.publish(await consumer.waiting() or 0)
        return whole == len(batch)

    async def _take(self, delivery: Delivery) -> None:
        message = delivery.message
        try:
            self._projection.take(message)
        except ProtocolViolation as error:
            await self._park(message, "malformed", str(error))
        except Exception as error:  # noqa: BLE001 - whatever one record does to the projection, the others go on
            await self._park(message, "failed", type(error).__name__)

    async def _park(self, message: Message, word: str, reason: str) -> None:
        self._projection.park(message, word)
        try:
            await self._checkpoint.park(message, reason)
        except LogError as error:
            _LOG.warning("what was parked at %d could not be noted: %s", message.seq, error)
