"""Whether this process has stood still (stopped by a signal, starved, blocked), or was cut off from NATS.

Meanwhile another bridge may have taken its calls. So a line is looked after before anything more is written to it: once
this process has stood still for over a second, and at the first word of NATS after a lost connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STILL_S: Final = 1.0


class Steadiness:
    """Counts the stops. `look` is to be called several times a second by a timer, and before what must not be late."""

    __slots__ = ("_at", "_listeners", "_now", "_stops", "losses", "up")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()
        self._stops = 0
        self._listeners: dict[object, Callable[[], None]] = {}
        self.up = True
        """Whether there is a connection to NATS."""
        self.losses = 0
        """How often the connection to NATS was lost: what is heard after that may be meant for another bridge."""

    def connected(self, up: bool) -> None:  # noqa: FBT001 - a listener of the connection
        """The connection to NATS was lost, or is back."""
        self.up = up
        self.losses += not up
        for listener in tuple(self._listeners.values()):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when the connection to NATS is lost, or is back; return what ends that."""
        key = object()
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    def look(self) -> int:
        """Return how often this process has stood still."""
        now = self._now()
        if now - self._at > STILL_S:
            self._stops += 1
        self._at = now
        return self._stops
