"""Where an owner's newest records stand in the log, until the bridge has asked for it."""

from __future__ import annotations

from typing import Final

MOST: Final = 1_024
"""Of more, which no bridge has asked after (one of an older release never does), the older are forgotten."""

AT_ONCE: Final = 64
"""How many are said in one answer, which has those of hundreds of sessions."""


class StoredPositions:
    """Takes sequences in the order of their records; all but `stored` is for the event loop of the session."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # Another thread reads this pair: both are there at once, and of the list, what was in it at that moment.
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
            until = min(until, index + len(seqs))  # who has searched the log may know of more than we have heard of
            self._kept = until, seqs[until - index :]
