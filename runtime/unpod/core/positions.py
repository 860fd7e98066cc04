"""Where the records of a session stand in the stream, so that it is read back without a search.

A search passes all that others have written meanwhile; a record whose sequence is known is fetched at once. An error
here loses nothing: a record that is not at its place is searched for, and one that is left out shows in the indexes of
the writers (`replay.ordering.is_whole`).

A writer learns its sequences in ascending order, so it keeps the differences, in two bytes each. The first, and one
whose difference does not fit, is written out in full behind a mark. `pack` puts the trails of several writers after
each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from msgspec import Struct

from unpod.errors import ProtocolViolation

MOST: Final = 65_536
"""How many bytes are kept of one writer, of 32,000 records or so; what comes later is searched for."""
_MARK: Final = 0xFFFF
_MARKED: Final = _MARK.to_bytes(2, "little")
_WHOLE: Final = 8
"""How many bytes a whole sequence takes."""
_LONGEST: Final = len(_MARKED) + _WHOLE


class Positions(Struct, frozen=True):
    """The sequences of a session's records, ascending and each once: all up to `through` that a replay needs.

    Records on `ctl` are not among them.
    """

    seqs: tuple[int, ...]
    through: int

    def since(self, start_seq: int) -> tuple[int, ...]:
        """Return the sequences from `start_seq` on, up to `through`."""
        return self.seqs[bisect_left(self.seqs, start_seq) : bisect_right(self.seqs, self.through)]


class Trail:
    """The sequences of one writer's records, as they become known; after `MOST` it is full, and takes no more."""

    __slots__ = ("_coded", "last")

    def __init__(self) -> None:
        self._coded = bytearray()
        self.last = 0
        """The newest that is kept."""

    @property
    def is_full(self) -> bool:
        """Whether those that follow are not kept."""
        return len(self._coded) > MOST - _LONGEST

    def add(self, seq: int) -> None:
        """Take the next; one that is no later than the last is passed over, and so is all once it is full."""
        step = seq - self.last
        if step <= 0 or self.is_full:
            return
        if step < _MARK and self.last:
            self._coded += step.to_bytes(2, "little")
        else:
            self._coded += _MARKED + seq.to_bytes(_WHOLE, "little")
        self.last = seq

    def reach(self, through: int) -> int:
        """Return up to which sequence nothing is left out here, if nothing was left out of `add` up to `through`."""
        return min(through, self.last) if self.is_full else through

    def __bytes__(self) -> bytes:
        return bytes(self._coded)


def pack(through: int, trails: Iterable[Trail], others: Iterable[int] = ()) -> bytes:
    """Return positions as a message carries them: those of some writers, all of whom are known up to `through`."""
    kept = tuple(trails)
    reach = min((trail.reach(through) for trail in kept), default=through)
    rest = Trail()
    for seq in sorted(others):
        rest.add(seq)
    return reach.to_bytes(_WHOLE, "little") + b"".join(bytes(trail) for trail in (*kept, rest))


def unpack(data: bytes) -> Positions:
    """Return the positions that a message carries.

    Raises:
        ProtocolViolation: they cannot be read.
    """
    if len(data) < _WHOLE or len(data) % 2:
        msg = "positions that are cut off"
        raise ProtocolViolation(msg)
    # In the order of bytes of this machine, which is little-endian wherever this runs; elsewhere they would be wrong,
    # and the log searched.
    words = memoryview(data).cast("H").tolist()
    found: list[int] = []
    at, seq = _WHOLE // 2, 0
    while at < len(words):
        try:
            end = words.index(_MARK, at)
        except ValueError:
            end = len(words)
        found.extend(accumulate(words[at:end], initial=seq))
        seq = int.from_bytes(data[2 * end + 2 : 2 * end + 2 + _WHOLE], "little")
        at = end + 1 + _WHOLE // 2
    found.append(seq)
    places = sorted(set(found))
    return Positions(tuple(places[bisect_right(places, 0) :]), int.from_bytes(data[:_WHOLE], "little"))
