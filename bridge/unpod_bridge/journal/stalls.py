"""Whether this process has stood still (stopped by a signal, starved, blocked), or was cut off from NATS.

Meanwhile another bridge may have taken its calls. So a line is looked after before anything more is written to it: once
this process has stood still for over a second, and at the first word of NATS after a lost connection. After a stop the
lines of quiet calls are looked after, too, some at a time: they may have been lost as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

STILL_S: Final = 1.0
AT_ONCE: Final = 100
"""How many lines are looked after at once after a stop: one that was too busy must not be busier for it."""


class StallDetector:
    """Counts the stops. `check` is to be called several times a second, and `look` before what must not be late."""

    __slots__ = ("_at", "_due", "_listeners", "_now", "_stops", "_told", "losses", "up")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()
        self._stops = self._told = 0
        self._listeners: dict[object, tuple[Callable[[], None], Callable[[], None]]] = {}
        self._due: deque[object] = deque()
        self.up = True
        """Whether there is a connection to NATS."""
        self.losses = 0
        """How often the connection to NATS was lost: what is heard after that may be meant for another bridge."""

    def connected(self, up: bool) -> None:  # noqa: FBT001 - a listener of the connection
        """The connection to NATS was lost, or is back."""
        self.up = up
        self.losses += not up
        for on_connection, _ in tuple(self._listeners.values()):
            on_connection()

    def listen(self, on_connection: Callable[[], None], on_stop: Callable[[], None]) -> Callable[[], None]:
        """Call the one when the connection to NATS is lost, or is back, the other after a stop; return what ends it."""
        key = object()
        self._listeners[key] = on_connection, on_stop
        return lambda: self._listeners.pop(key, None) and None

    def check(self) -> None:
        """Tell those who listen of a stop, some with each call."""
        if self.look() != self._told:
            self._told = self._stops
            self._due = deque(self._listeners)
        for _ in range(min(AT_ONCE, len(self._due))):
            listener = self._listeners.get(self._due.popleft())
            if listener is not None:
                listener[1]()

    def look(self) -> int:
        """Return how often this process has stood still."""
        now = self._now()
        if now - self._at > STILL_S:
            self._stops += 1
        self._at = now
        return self._stops
