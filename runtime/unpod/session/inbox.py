"""What comes in for a session: the bridge's records in order, live, with the gaps filled from the log.

The live tail is fast but not safe. Records carry an index without gaps, so what the tail missed shows at the next
record, and is read from the log. While the recording is paused, a record with its texts comes on the live subject,
before its withheld form is stored: the first with an index counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from unpod.core import codec
from unpod.core.codec import BRIDGE_CHANNELS, MALFORMED, Record
from unpod.core.live import AGAIN, LIVE_SUBJECT, Again
from unpod.core.replay import Tail, merge
from unpod.core.subjects import CallSubjects, Subjects
from unpod.errors import LogUnavailable, ProtocolViolation
from unpod.ports import Bus, EventLog, Message, Subscription

logger = logging.getLogger("unpod.session")

GAP_RETRY_S = 0.1


class Inbox:
    """One session's incoming side. `on_record` and `on_again` are called on the event loop and must not raise."""

    def __init__(
        self,
        log: EventLog,
        bus: Bus,
        subjects: Subjects,
        call: CallSubjects,
        *,
        on_record: Callable[[Record], None],
        on_again: Callable[[Again], None],
    ) -> None:
        self._log = log
        self._bus = bus
        self._subjects = subjects
        self._call = call
        self._on_record = on_record
        self._on_again = on_again
        self._tail: Tail | None = None
        self._early: list[Record] = []
        self._line_epoch = 0
        self._filling: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []

    async def open(self, until_seq: int) -> list[Record]:
        """Subscribe, then return the log up to `until_seq` at least, in merged order; later records go to `on_record`.

        Raises:
            LogError: the log cannot be read.
        """
        self._subscriptions.append(await self._bus.subscribe(self._call.all, self._on_message))
        self._subscriptions.append(await self._bus.subscribe(self._call.live, self._on_live))
        records = merge(await self._read(until_seq))
        bridge = [record for record in records if record.channel in BRIDGE_CHANNELS]
        self._tail = Tail(bridge[-1].envelope.index if bridge else 0)
        early, self._early = self._early, []
        for record in early:
            self._deliver(record)
        return records

    async def close(self) -> None:
        """Unsubscribe."""
        if self._filling is not None:
            self._filling.cancel()
        for subscription in self._subscriptions:
            await subscription.close()

    async def _read(self, until_seq: int) -> list[Record]:
        records: list[Record] = []
        async for message in self._log.read(self._call.all, until_seq=until_seq):
            record = self._decode(message.subject, message.headers, message.data, message.seq)
            if record is not None:
                records.append(record)
        return records

    def _decode(self, subject: str, headers: Mapping[str, str], data: bytes, seq: int = 0) -> Record | None:
        try:
            return codec.read(self._subjects, subject, headers, data, seq)
        except ProtocolViolation as error:
            logger.warning("a record is passed over: %s", error)
            return None

    def _on_message(self, message: Message) -> None:
        record = self._decode(message.subject, message.headers, message.data)
        if record is not None:
            self._deliver(record)

    def _on_live(self, message: Message) -> None:
        if message.subject == self._call.again:
            try:
                self._on_again(AGAIN.decode(message.data))
            except MALFORMED:
                logger.warning("a malformed request for pieces of a reply is passed over")
            return
        subject = message.headers.get(LIVE_SUBJECT)
        if message.subject == self._call.text and subject:
            record = self._decode(subject, message.headers, message.data)
            if record is not None:
                self._deliver(record)

    def _deliver(self, record: Record) -> None:
        if record.channel not in BRIDGE_CHANNELS or record.envelope.epoch < self._line_epoch:
            return
        if self._tail is None:
            self._early.append(record)
            return
        for ready in self._tail.push(record):
            self._line_epoch = max(self._line_epoch, ready.envelope.epoch)
            self._on_record(ready)
        if self._tail.gap is not None and self._filling is None:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        """Read what the tail missed, until nothing is missing."""
        tail = self._tail
        try:
            while tail is not None and tail.gap is not None:
                logger.info("the live tail missed records %d to %d: reading them", tail.gap.first, tail.gap.last)
                try:
                    for record in merge(await self._read(0)):
                        self._deliver(record)
                except LogUnavailable:
                    logger.warning("the log cannot be read: trying again")
                if tail.gap is not None:
                    await asyncio.sleep(GAP_RETRY_S)
        finally:
            self._filling = None
