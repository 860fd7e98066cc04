"""From records in any order to the one order that counts.

A call has two writers, the bridge and the owner, each with an index of its own without gaps. `merge` gives the order
that every reader agrees on: an owner's record comes after all that its writer had seen of the bridge, and before the
bridge's next. `Tail` puts one writer's live records in order and says what is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.envelope import Envelope
from unpod.core.events import OwnerChanged
from unpod.core.subjects import Channel


def merge(records: Iterable[Record]) -> list[Record]:
    """Return the records of one session in merged order, each once, without what a takeover has made void.

    Placements (`line`, `own`) come first; they have no index and change nothing but who holds the call. A stored record
    whose epoch no placement has given was written by somebody else, and does not count.
    """
    records = list(records)
    placements = sorted((record for record in records if record.channel in ("line", "own")), key=lambda at: at.seq)
    lines = {record.seq for record in placements if record.channel == "line"}
    owners = {record.seq for record in placements if record.channel == "own"}
    bridge: dict[int, Record] = {}
    owner: dict[int, Record] = {}
    for record in records:
        if record.channel in BRIDGE_CHANNELS and _genuine(record, lines):
            bridge.setdefault(record.envelope.index, record)
        elif record.channel in OWNER_CHANNELS and _genuine(record, owners):
            former = owner.get(record.envelope.index)
            if former is None or former.envelope.epoch < record.envelope.epoch:
                owner[record.envelope.index] = record
    changes = [record.body for record in bridge.values() if isinstance(record.body, OwnerChanged)]
    kept = [record for record in owner.values() if not _void(record.envelope, changes)]
    ordered = [*bridge.values(), *kept]
    ordered.sort(key=_place)
    return [*placements, *ordered]


def is_whole(records: Collection[Record], epoch: int, until_seq: int) -> bool:
    """Whether `records` are the whole past of the owner with this epoch, whose starting point is at `until_seq`.

    Each writer numbers its records without a gap, so what is missing shows, also of a log with records out of order.
    """
    lines = {record.seq for record in records if record.channel == "line"}
    owners = {record.seq for record in records if record.channel == "own"}
    start = next((record for record in records if record.seq == until_seq), None)
    if start is None or epoch not in owners or not isinstance(start.body, OwnerChanged) or start.body.epoch != epoch:
        return False
    bridge = _indexes(records, BRIDGE_CHANNELS, lines, start.envelope.index)
    owner = _indexes(records, OWNER_CHANNELS, owners, start.body.last_owner_index)
    return bridge == start.envelope.index and owner == start.body.last_owner_index


def _indexes(records: Iterable[Record], channels: Collection[Channel], given: Collection[int], last: int) -> int:
    """Return how many indexes up to `last` one writer's records have, of those under epochs that were given."""
    found = {
        record.envelope.index for record in records if record.channel in channels and record.envelope.epoch in given
    }
    return sum(index <= last for index in found)


def _genuine(record: Record, given: Collection[int]) -> bool:
    """Whether a record's epoch is one that was given; of what is live that cannot be said."""
    return not record.seq or not given or record.envelope.epoch in given


def _place(record: Record) -> tuple[int, int, int]:
    envelope = record.envelope
    if record.channel in BRIDGE_CHANNELS:
        return envelope.index, 0, 0
    return envelope.seen, 1, envelope.index


def _void(envelope: Envelope, changes: Iterable[OwnerChanged]) -> bool:
    """Whether a takeover starts before this record of an older epoch."""
    return any(envelope.epoch < change.epoch and envelope.index > change.last_owner_index for change in changes)


class Gap(Struct, frozen=True):
    """Indexes `first` to `last` of a writer are missing while later ones are here."""

    first: int
    last: int


class Tail:
    """One writer's records, as they arrive live, put in order.

    Not a fold but a small buffer in front of one: `push` returns what is next in line, holds back what came too early
    and drops what was there before. `gap` says what to fetch.
    """

    __slots__ = ("early", "index")

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.early: dict[int, Record] = {}
        """What came too early, by index."""

    def push(self, record: Record) -> list[Record]:
        """Return the records that are next in line now, in order."""
        if record.envelope.index <= self.index:
            return []
        # The tail shows what a bridge without the line has sent, too: the newer epoch counts, then what came first.
        former = self.early.get(record.envelope.index)
        if former is None or former.envelope.epoch < record.envelope.epoch:
            self.early[record.envelope.index] = record
        ready: list[Record] = []
        while (following := self.early.pop(self.index + 1, None)) is not None:
            self.index += 1
            ready.append(following)
        return ready

    @property
    def gap(self) -> Gap | None:
        """What is missing before the earliest record that waits, or None."""
        return Gap(self.index + 1, min(self.early) - 1) if self.early else None
