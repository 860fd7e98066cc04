"""Up to which record all hooks have returned: what an owner says with each record, and its successor goes by.

There are two sequences, the bridge's records and the owner's own, and a number for each. Until `run()` has been called,
and the past has been gone through, nothing is settled.
"""

from __future__ import annotations

from collections import Counter

from unpod.core.replay.history import Point


class Watermark:
    """Counts the handlers at work on each record."""

    __slots__ = ("_inputs", "_own", "_said", "_said_own", "_started")

    def __init__(self) -> None:
        self._inputs: Counter[int] = Counter()
        self._own: Counter[int] = Counter()
        self._said = self._said_own = 0
        self._started = False

    def start(self) -> None:
        """The present has begun."""
        self._started = True

    def begin(self, point: Point) -> None:
        """A handler of a record is due."""
        (self._own if point.own else self._inputs)[point.index] += 1

    def returned(self, point: Point) -> None:
        """A handler of a record has returned."""
        handlers = self._own if point.own else self._inputs
        handlers[point.index] -= 1
        if handlers[point.index] <= 0:
            del handlers[point.index]

    def has_news(self, seen: int, written: int) -> bool:
        """Whether `say` would say more than it has."""
        if not self._started:
            return False
        return _upto(self._inputs, seen) > self._said or _upto(self._own, written) > self._said_own

    def say(self, seen: int, written: int) -> tuple[int, int]:
        """Return up to which of the bridge's records and of our own all is settled.

        `seen` is the newest of the bridge that was taken, `written` our own newest.
        """
        if self._started:
            self._said = max(self._said, _upto(self._inputs, seen))
            self._said_own = max(self._said_own, _upto(self._own, written))
        return self._said, self._said_own


def _upto(handlers: Counter[int], newest: int) -> int:
    return min(min(handlers) - 1, newest) if handlers else newest
