"""The loop of a consumer: pull, project, keep, publish, then ack. What cannot be taken is parked and blocks nothing.

The checkpoint holds the state together with the stream sequence up to which it was folded, so a record counts once
whatever is killed where. It is stored every few seconds, not for each record. Only what is in a stored checkpoint is
published: no figure ever goes back. The place of the consumer on the server is derived from the checkpoint, never the
other way round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Protocol

from unpod.errors import LogUnavailable, ProtocolViolation
from unpod.jetstream.streams.api import ApiError
from unpod_consumers.checkpoint import load_patiently, note

if TYPE_CHECKING:
    from unpod.jetstream import Delivery, PullConsumer
    from unpod.ports import Message
    from unpod_consumers.checkpoint import Checkpoint

_LOG: Final = logging.getLogger("unpod.consumers")
_BATCH: Final = 1_000
_WAIT_S: Final = 1.0
_SAVE_EVERY_S: Final = 1.0
_SAVE_AFTER: Final = 50_000
"""How many records are taken at most before the next save: well under what the server leaves unacknowledged."""
_LAST_SAVE_S: Final = 5.0
_SHORTEST_S: Final = 0.05
_AGAIN_S: Final = 0.5


class Projection(Protocol):
    """What a consumer makes of the records; it is fed in stream order."""

    @property
    def position(self) -> int:
        """The stream sequence up to which records have been taken, 0 for none."""

    @property
    def has_room(self) -> bool:
        """Whether records may be taken now; while it is false, `publish` is called until it is not."""

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

    def publish(self, lag: int) -> bool:
        """Show what is known by now, all of which is stored; `lag` is how many records wait.

        Returns whether that has changed the state, so that it must be stored again.
        """


class Loop:
    """Runs a projection over the stream.

    `consumer_at` gives its pull consumer, to begin at a stream sequence, with acknowledgements that cover all before.
    What was taken is saved after `save_every_s` at the latest: that much is taken again after a kill.
    """

    def __init__(
        self,
        projection: Projection,
        checkpoint: Checkpoint,
        consumer_at: Callable[[int], PullConsumer],
        *,
        save_every_s: float = _SAVE_EVERY_S,
    ) -> None:
        self._projection = projection
        self._checkpoint = checkpoint
        self._consumer_at = consumer_at
        self._place = 0
        self._pending = 0
        self._unsaved = False
        """Whether records were taken that are in no checkpoint."""
        self._newest: Delivery | None = None
        """The newest of them that this consumer has delivered."""
        self._saved_at = 0.0
        self._save_every_s = save_every_s
        self._taken = 0
        """How many records since."""

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; what NATS cannot answer now is asked again.

        Raises:
            Superseded: another process of this consumer has gone on.
        """
        data = await load_patiently(self._checkpoint)
        if data is not None:
            self._projection.load(data)
        while not stop.is_set():
            async with AsyncExitStack() as stack:
                consumer = self._consumer_at(self._projection.position + 1)
                stack.push_async_callback(consumer.close)
                try:
                    await self._open(consumer)
                    while not stop.is_set() and await self._round(consumer):
                        pass
                except (LogUnavailable, ApiError) as error:
                    _LOG.warning("the log cannot be read now: %s", error)
                    await asyncio.sleep(_AGAIN_S)
        if self._unsaved:
            with suppress(TimeoutError):  # what is not saved is taken again
                async with asyncio.timeout(_LAST_SAVE_S):
                    await self._save(None)

    async def _open(self, consumer: PullConsumer) -> None:
        await consumer.open(afresh=True)
        self._place, self._newest = 0, None
        if not self._unsaved:
            self._publish(await consumer.waiting() or 0)

    async def _round(self, consumer: PullConsumer) -> bool:
        """Take what has come; return False where something was lost on the way, so that it is read again."""
        if not self._projection.has_room:
            await self._wait_for_room(consumer)
            return True
        due_in = self._saved_at + self._save_every_s - _now() if self._unsaved else _WAIT_S
        batch = await consumer.fetch(_BATCH, min(max(due_in, _SHORTEST_S), _WAIT_S))
        whole = 0
        for delivery in batch:
            if delivery.place != self._place + 1:
                break
            self._place = delivery.place
            await self._take(delivery)
            whole += 1
        self._taken += whole
        if whole:
            self._newest, self._unsaved, self._pending = batch[whole - 1], True, batch[whole - 1].pending
        if not self._unsaved:
            self._publish(await consumer.waiting() or 0)
        elif _now() >= self._saved_at + self._save_every_s or self._taken >= _SAVE_AFTER:
            await self._save(consumer)
        return whole == len(batch)

    async def _save(self, consumer: PullConsumer | None) -> None:
        await self._checkpoint.save(self._projection.dump())
        self._saved_at, self._unsaved, self._taken = _now(), False, 0
        self._publish(self._pending)
        if consumer is not None and self._newest is not None:
            consumer.acknowledge(self._newest)

    def _publish(self, lag: int) -> None:
        self._unsaved = self._projection.publish(lag)

    async def _wait_for_room(self, consumer: PullConsumer) -> None:
        if self._unsaved:
            await self._save(consumer)
        else:
            self._publish(await consumer.waiting() or 0)
        await asyncio.sleep(_AGAIN_S)

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
        await note(self._checkpoint, message, reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
