"""What comes in for a session: the bridge's records in order, live, with the gaps filled from the log.

The live tail is fast but not safe. Records carry an index without gaps, so what the tail missed shows at the next
record, or when the bridge says how far it has written (`expect`), and is read from the log. While the recording is
paused, a record with its texts comes on the live subject, before its withheld form is stored: the first with an index
counts.

The tail also shows records that the log has refused. So once another bridge takes the line, what the former one still
sends is not believed before it is found in the log. A record whose epoch no line record has given is never believed.

What came before that, and was acted on, may never be stored either: a node of NATS that stands still passes nothing on,
and the line changes hands meanwhile. So the newest records are kept for a while. The next bridge asks for them, and
stores what the log lacks, under the same indexes. Where it could not, the log has something else under that index: the
session has acted on a record that does not exist, and has to be folded again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

from unpod.core import codec
from unpod.core.codec import BRIDGE_CHANNELS, MALFORMED, Record
from unpod.core.envelope import to_headers
from unpod.core.events import LineTaken
from unpod.core.live import AGAIN, LIVE_SUBJECT, SEEN_ASKED, Again, SeenAnswer, SeenRecord
from unpod.core.positions import Positions
from unpod.core.replay.ordering import Tail, is_whole, merge
from unpod.errors import LogError, ProtocolViolation
from unpod.ports import Message, Subscription
from unpod.session.ownership import Ownership

logger = logging.getLogger("unpod.session")

GAP_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
EXPECTED_TRIES = 10
"""How often the log is searched for records that a bridge says it has written, until it says so again."""
AT_ONCE = 4
"""How many sessions of a process read at once what they have missed: a server that is late must not be asked by all."""
LINE_TRIES = 3
"""How often the log is read for a line record that the tail has shown, before it counts as refused."""

KEPT = 64
KEPT_S = 10.0
KEPT_BYTES = 512 * 1024
"""More would not fit into the one message that tells them (`SeenAnswer`)."""
"""So many of the bridge's newest records are kept, and none for longer: by then they are stored, or it is known."""


_turns_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _turns() -> asyncio.Semaphore:
    return _turns_by_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


class Inbox:
    """One session's incoming side. What it is given is called on the event loop and must not raise.

    `on_rewritten`: the log has something else where a record stood that was handed to `on_record`.
    """

    def __init__(
        self,
        ownership: Ownership,
        *,
        on_record: Callable[[Record], None],
        on_again: Callable[[Again], None],
        on_rewritten: Callable[[], None] = lambda: None,
        retry_s: float = GAP_RETRY_S,
        longest_retry_s: float = LONGEST_RETRY_S,
    ) -> None:
        self._retry_s = retry_s
        self._longest_retry_s = longest_retry_s
        self._log = ownership.log
        self._bus = ownership.bus
        self._subjects = ownership.subjects
        self._call = ownership.subjects.call(ownership.agent_id, ownership.session_id)
        self._owners = self._call.cmd, self._call.runs.removesuffix(">")
        self._session_id = ownership.session_id
        self._epoch = ownership.epoch
        self._on_record = on_record
        self._on_again = on_again
        self._on_rewritten = on_rewritten
        self._recent: dict[int, Record] = {}
        self._kept_bytes = 0
        self._private: set[int] = set()
        self._tail: Tail | None = None
        self._early: list[Record] = []
        self._line_epoch = 0
        self._line_seq = 0
        self._given: set[int] = set()
        self._doubtful = -1
        self._doubts = 0
        self._expected = 0
        self._promised = 0
        self._read_to = 0
        self.owned_at = 0.0
        """When the record was stored that made this process the owner, 0.0 where that was not read."""
        self._filling: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        self.bridge = ""
        """Which bridge holds the call's line, as far as is known."""

    @property
    def index(self) -> int:
        """The index of the bridge's newest record that has come in, in order."""
        return 0 if self._tail is None else self._tail.index

    async def open(self, until_seq: int, positions: Positions | None = None) -> list[Record]:
        """Subscribe, then return the log up to `until_seq` at least, in merged order; later records go to `on_record`.

        It is read by its `positions`, where they are given; if that shows that one is missing, it is searched.

        Raises:
            LogError: the log cannot be read.
        """
        if not self._subscriptions:  # else it is tried again
            handlers = {self._call.all: self._on_message, self._call.live: self._on_live}
            self._subscriptions += await self._bus.subscribe_all(handlers)
        records = merge(await self._history(until_seq, positions))
        bridge = [record.envelope for record in records if record.channel in BRIDGE_CHANNELS]
        self._tail = Tail(bridge[-1].index if bridge else 0)
        self._line_epoch = max((envelope.epoch for envelope in bridge), default=0)
        early, self._early = self._early, []
        for record in early:
            self._deliver(record)
        return records

    async def _history(self, until_seq: int, positions: Positions | None) -> list[Record]:
        if positions is not None:
            records = await self._read(until_seq, positions)
            if is_whole(records, self._epoch, until_seq):
                logger.debug("session %s: %d records are read from their places", self._session_id, len(records))
                return records
            logger.info("session %s: some records are not at their positions; the log is searched", self._session_id)
            self._read_to = 0
        return await self._read(until_seq)

    async def close(self) -> None:
        """Unsubscribe."""
        if self._filling is not None:
            self._filling.cancel()
        for subscription in self._subscriptions:
            await subscription.close()

    def release(self) -> None:
        """Tell nobody anything any more."""
        self._on_record = self._on_again = _ignore

    def expect(self, index: int) -> None:
        """Take the bridge's word that it has written up to `index`, and fetch what of that has not come in."""
        self._expected = max(self._expected, index)
        self._fill_gaps()

    def promised(self, index: int) -> None:
        """Take the bridge's regular word of how far it has written: what it said the last time must be here by now.

        What it says now may be on its way still: under load, looking for that in the log would be most of the load.
        """
        due, self._promised = self._promised, index
        if due > self.index:
            self.expect(due)

    async def check(self) -> None:
        """Fetch what the tail has missed, if anything; to be called when the connection was lost and is back."""
        if self._tail is None or self._filling is not None:
            return
        try:
            await self._catch_up()
        except LogError as error:  # the next reconnect, or the bridge's next word, brings another try
            logger.debug("the log cannot be read: %s", type(error).__name__)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if message.subject.startswith(self._owners):  # most of it is what we have written ourselves
            return
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
        if message.subject == self._call.seen:
            self._say_seen(message)
            return
        subject = message.headers.get(LIVE_SUBJECT)
        if message.subject == self._call.text and subject:
            record = self._decode(subject, message.headers, message.data)
            if record is not None:
                self._private.add(record.envelope.index)
                self._deliver(record)

    def _say_seen(self, message: Message) -> None:
        """Tell the next bridge which records of the former one have come in; from now on no more of them are taken."""
        try:
            line = SEEN_ASKED.decode(message.data).line
        except MALFORMED:
            logger.warning("a bridge's malformed question for the records that have come in is passed over")
            return
        if self._tail is None or not message.reply:
            return
        records = [record for record in self._recent.values() if record.envelope.epoch < line]
        self._line_epoch = max(self._line_epoch, line)
        seen = tuple(SeenRecord(self._subject(each), dict(to_headers(each.envelope)), each.data) for each in records)
        try:
            self._bus.send(message.reply, codec.encode(SeenAnswer(seen)))
        except LogError as error:
            logger.debug("the next bridge could not be told which records have come in: %s", type(error).__name__)

    def _subject(self, record: Record) -> str:
        channel, _, tag = record.envelope.type.partition(".")
        return self._call.ack if channel == "ack" else self._call.evt(tag)

    def _deliver(self, record: Record) -> None:
        if record.channel == "line":
            self._on_line(record)
        epoch = record.envelope.epoch
        # What the log has was stored in time, if its line was given; what comes live has to be of the newest one.
        void = bool(self._given) and epoch not in self._given if record.seq else epoch < self._line_epoch
        if record.channel not in BRIDGE_CHANNELS or void:
            return
        if self._tail is None:
            self._early.append(record)
            return
        tail, envelope = self._tail, record.envelope
        known = self._recent.get(envelope.index)
        if known is not None and known.envelope.epoch < envelope.epoch and known.body != record.body:
            # A later bridge has another record under an index that was taken already: stored, or on its way.
            if record.seq:
                self._on_rewritten()
            else:
                self._doubts = max(self._doubts, 1)
                self._fill_gaps()
            return
        if not record.seq and (epoch <= self._doubtful or (self._given and epoch not in self._given)):
            if envelope.index > tail.index:
                self.expect(envelope.index)
            return
        for ready in tail.push(record):
            self._line_epoch = max(self._line_epoch, ready.envelope.epoch)
            self._keep(ready)
            self._on_record(ready)
        if self._lacks():
            self._fill_gaps()

    def _keep(self, record: Record) -> None:
        """Keep a record that may never be stored; not one whose text must not be."""
        recent, envelope = self._recent, record.envelope
        if envelope.index in self._private:
            self._private.discard(envelope.index)
        elif not record.seq:
            former = recent.pop(envelope.index, None)
            recent[envelope.index] = record
            self._kept_bytes += len(record.data) - (0 if former is None else len(former.data))
            while recent and (
                len(recent) > KEPT
                or self._kept_bytes > KEPT_BYTES
                or next(iter(recent.values())).envelope.time < envelope.time - KEPT_S
            ):
                self._kept_bytes -= len(recent.pop(next(iter(recent))).data)

    def _on_line(self, record: Record) -> None:
        """Another bridge takes the line, or has tried to."""
        if isinstance(record.body, LineTaken) and not record.seq and self._tail is not None:
            self._doubtful, self._doubts = self._line_seq, LINE_TRIES
            self._fill_gaps()

    # --- what was missed ----------------------------------------------------------------------------------------------

    def _fill_gaps(self) -> None:
        if self._filling is None:
            self._filling = asyncio.get_running_loop().create_task(self._fill(), name="unpod-gap")

    def _lacks(self) -> bool:
        tail = self._tail
        return tail is not None and (bool(tail.early) or self._expected > tail.index or self._doubts > 0)

    async def _fill(self) -> None:
        """Read what is missing until nothing is; what was only promised, for a while."""
        pause_s, tries = self._retry_s, 0
        try:
            while self._lacks():
                try:
                    async with _turns():
                        if self._lacks():  # else it has come by itself meanwhile
                            await self._catch_up()
                except LogError as error:
                    logger.info("the log cannot be read (%s): trying again", type(error).__name__)
                tries += 1
                if tries >= EXPECTED_TRIES:
                    self._expected = 0
                if self._lacks():
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, self._longest_retry_s)
        finally:
            self._filling = None

    async def _catch_up(self) -> None:
        before = self.index
        records = await self._read(0)  # only a part of the log: not to be merged, which has to know of every line
        if self._doubts:
            self._settle_doubts()
        for record in records:
            self._deliver(record)
        if self.index > before:
            logger.info("the live tail missed records %d to %d: read from the log", before + 1, self.index)

    def _settle_doubts(self) -> None:
        if self._line_seq > self._doubtful:  # it is so: the former bridge stays in doubt
            self._doubts = 0
        else:
            self._doubts -= 1
            if not self._doubts:
                self._doubtful = -1

    async def _read(self, until_seq: int, positions: Positions | None = None) -> list[Record]:
        """Return what the log has and was not read before; a read that fails has read nothing."""
        records: list[Record] = []
        start_seq = self._read_to + 1
        read_to = self._read_to
        log, pattern = self._log, self._call.all
        async for message in log.read(pattern, start_seq=start_seq, until_seq=until_seq, positions=positions):
            read_to = message.seq
            record = self._decode(message.subject, message.headers, message.data, message.seq)
            if record is not None:
                records.append(record)
                if message.seq == self._epoch:
                    self.owned_at = message.time_ns / 1e9
                if isinstance(record.body, LineTaken):
                    self.bridge, self._line_seq = record.body.bridge, message.seq
                    self._given.add(message.seq)
        self._read_to = read_to
        return records

    def _decode(self, subject: str, headers: Mapping[str, str], data: bytes, seq: int = 0) -> Record | None:
        try:
            return codec.read(self._subjects, subject, headers, data, seq)
        except ProtocolViolation as error:
            logger.warning("a record is passed over: %s", error)
            return codec.salvage(self._subjects, subject, headers, data, seq)


def _ignore(_: Record | Again) -> None: ...
