"""The log's time, as one session goes by it.

A process anchors its clock to the log's once, and may be wrong after that: a machine that was suspended is behind by as
long. So each session compares it with the log's own timestamps: that of the record that made it the owner, and later
that of the session's newest record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unpod.ports import Clock, Timer

BEHIND_S: Final = 0.01
AHEAD_S: Final = 1.0
"""How much later than it was stored an owner may learn of its own record, while nothing is wrong."""


class SessionClock:
    """A process's clock (`ports.Clock`), put right by timestamps of one session's records; it never goes back.

    The one exception is `begin`, before anything has gone by it.
    """

    __slots__ = ("_ahead", "_clock", "_told_at")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._told_at = clock.now()

    def now(self) -> float:
        """Return the log's time in seconds since 1970."""
        return self._clock.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await self._clock.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once after `seconds`."""
        return self._clock.call_later(seconds, callback)

    def begin(self, stored_at: float) -> None:
        """Take the time at which the record was stored that made this process the owner, right before it was told."""
        ahead = stored_at - self._told_at
        if not -AHEAD_S <= ahead <= BEHIND_S:
            self._ahead = ahead

    def correct(self, stored_at: float) -> bool:
        """Take the time of a record that is stored already, and return whether this clock was behind it."""
        behind = stored_at - self.now()
        if behind <= BEHIND_S:
            return False
        self._ahead += behind
        return True
