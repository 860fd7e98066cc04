"""Where an owner's newest records stand in the log, until the bridge has asked for it."""

from __future__ import annotations

from typing import Final

MOST: Final = 1_024
"""How many are kept; the oldest are forgotten if no bridge asks (one of an older release never does)."""

AT_ONCE: Final = 64
"""How many are said in one answer, which has those of hundreds of sessions."""


class StoredPositions:
    """Takes sequences in the order of their records; all but `stored` is for the event loop of the session."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # One tuple, since another thread reads it: index and list must belong together. The list may grow meanwhile.
        self._kept: tuple[int, list[int]] | None = None

    def begin(self, index: int) -> None:
        """The owner's records begin behind an index."""
        self._kept = index, []

    def add(self, seq: int) -> None:
        """The next record stands at a sequence."""
        if self._kept is None:
            return
        index, seqs = self._kept
        if len(seqs) >= MOST:
            self._kept = index + len(seqs), [seq]
        else:
            seqs.append(seq)

    def stored(self, after: int) -> tuple[int, list[int]] | None:
        """Return where the next records behind an index stand, `AT_ONCE` at most, and behind which index they come.

        That is a later one than was asked for where those between are not known any more. None before `begin`, and
        where the index is one that nothing has been heard of yet.
        """
        kept = self._kept
        if kept is None:
            return None
        index, seqs = kept
        skip = max(0, after - index)
        return None if skip > len(seqs) else (index + skip, seqs[skip : skip + AT_ONCE])

    def forget(self, until: int) -> None:
        """The bridge knows where the records up to an index stand."""
        if self._kept is not None and until > self._kept[0]:
            index, seqs = self._kept
            until = min(until, index + len(seqs))  # a bridge that has searched the log may know more than we do
            self._kept = until, seqs[until - index :]
