"""How fast one session may write: a burst at once, and after that no more than a steady stream. Pure."""

from __future__ import annotations

from typing import Final

BURST: Final = 2 * 1024 * 1024
"""What may be written at once, in bytes: a few thousand short records."""
PER_S: Final = 64 * 1024
"""What may be written each second after that, in bytes: several times of what a call needs that talks all the time."""


class Pace:
    """A leaking bucket over the bytes that a session has written."""

    __slots__ = ("_at", "_level", "_written")

    def __init__(self) -> None:
        self._level = 0.0
        self._written = 0
        self._at = 0.0

    def wait_s(self, written: int, now: float) -> float:
        """Return how many seconds to wait before more is written; `written` is all so far, in bytes."""
        self._level = max(0.0, self._level - (now - self._at) * PER_S) + (written - self._written)
        self._written, self._at = written, now
        return max(0.0, self._level - BURST) / PER_S
