"""One timer that can be set anew at any time, as timers that follow from a state are.

Most are set to a later time again and again, and never fire. So the timer of the event loop that runs is kept: when it
fires too early, it is set anew.
"""

from __future__ import annotations

from collections.abc import Callable

from unpod.ports import Clock, Timer


class Deadline:
    """Calls back once when the clock has come to the time that it is set to."""

    __slots__ = ("_at", "_callback", "_clock", "_closed", "_timer", "_timer_at")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._timer: Timer | None = None
        self._at: float | None = None
        self._timer_at = 0.0
        self._closed = False

    @property
    def is_set(self) -> bool:
        """Whether it will call back."""
        return self._at is not None

    def set(self, at: float | None) -> None:
        """Call back at `at`, in the clock's time, or never where it is None; a former time no longer counts."""
        if at == self._at or self._closed:
            return
        self._at = at
        if self._timer is not None and (at is None or at < self._timer_at):
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._begin(at)

    def close(self) -> None:
        """Never call back again, whatever it is set to."""
        self.set(None)
        self._closed = True

    def release(self) -> None:
        """Call nobody back any more."""
        self.set(None)
        self._callback = _ignore

    def _begin(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._clock.call_later(max(0.0, at - self._clock.now()), self._ring)

    def _ring(self) -> None:
        rang, self._timer = self._timer_at, None
        if self._at is not None and self._at > rang:
            self._begin(self._at)
        else:
            self._at = None
            self._callback()


def _ignore() -> None: ...
