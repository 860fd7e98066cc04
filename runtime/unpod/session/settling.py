"""Up to which input all handlers have returned: what an owner says with each record, and its successor goes by."""

from __future__ import annotations

from collections import Counter


class Settling:
    """Counts the handlers at work on each input of the bridge (its index)."""

    __slots__ = ("_open", "said")

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self.said = 0
        """What the newest record says."""

    def begin(self, index: int) -> None:
        """A handler of an input is due."""
        self._open[index] += 1

    def returned(self, index: int) -> None:
        """A handler of an input has returned."""
        self._open[index] -= 1
        if self._open[index] <= 0:
            del self._open[index]

    def upto(self, seen: int) -> int:
        """Return the index up to which everything is settled, `seen` being the newest that was taken."""
        return min(min(self._open, default=seen + 1) - 1, seen)

    def say(self, seen: int) -> int:
        """Return the same, now said."""
        self.said = max(self.said, self.upto(seen))
        return self.said
