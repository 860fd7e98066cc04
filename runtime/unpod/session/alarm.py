"""One timer that can be set anew at any time, as timers that follow from a state are."""

from __future__ import annotations

from collections.abc import Callable

from unpod.ports import Clock, Timer


class Alarm:
    """Calls back once when the clock has come to the time that it is set to."""

    __slots__ = ("_at", "_callback", "_clock", "_timer")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._timer: Timer | None = None
        self._at: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether it will call back."""
        return self._timer is not None

    def set(self, at: float | None) -> None:
        """Call back at `at`, in the clock's time, or never where it is None; nothing else is called back for."""
        if at == self._at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = None if at is None else self._clock.call_later(max(0.0, at - self._clock.now()), self._ring)

    def _ring(self) -> None:
        self._timer = self._at = None
        self._callback()
