"""Whether this process has stood still: stopped by a signal, starved, or blocked by something that never waits.

While it stands, another bridge may take its calls. So what has stood still for over a second looks whether a line is
still its own before it writes anything more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STILL_S: Final = 1.0


class Steadiness:
    """Counts the stops. `look` is to be called several times a second by a timer, and before what must not be late."""

    __slots__ = ("_at", "_now", "_stops")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()
        self._stops = 0

    def look(self) -> int:
        """Return how often this process has stood still."""
        now = self._now()
        if now - self._at > STILL_S:
            self._stops += 1
        self._at = now
        return self._stops
