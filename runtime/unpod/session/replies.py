"""The pieces of replies, kept until the bridge has handed them on: it asks for what it has missed.

Pieces are not stored. While NATS is away none gets through, so several replies may be waiting when it is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from unpod.core.events import ReplySpoken
from unpod.core.live import Again, Delta

MAX_CHARS: Final = 200_000
"""Of all replies together: ten of the longest."""


class Replies:
    """The pieces of one session's replies, by turn and part."""

    __slots__ = ("_chars", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], list[tuple[float, Delta]]] = {}
        self._chars = 0

    @property
    def chars(self) -> int:
        """How many characters are kept."""
        return self._chars

    def keep(self, delta: Delta, now: float = 0.0) -> None:
        """Keep a piece that was sent now; beyond the bound the oldest replies are let go of, never the one of this."""
        key = delta.turn, delta.part
        self._pieces.setdefault(key, []).append((now, delta))
        self._chars += len(delta.text)
        while self._chars > MAX_CHARS and (oldest := next(iter(self._pieces))) != key:
            self._drop(oldest)

    def again(self, asked: Again, now: float = 0.0) -> Iterator[Delta]:
        """Yield the pieces that the bridge asks for."""
        if asked.within_s > 0.0:
            for pieces in self._pieces.values():
                yield from (delta for at, delta in pieces if now - at < asked.within_s)
            return
        for _, delta in self._pieces.get((asked.turn, asked.part), ()):
            if delta.n >= asked.first:
                yield delta

    def spoken(self, receipt: ReplySpoken) -> None:
        """Let go of what the bridge will not ask for any more."""
        if receipt.ended:
            for key in [key for key in self._pieces if key <= (receipt.turn, receipt.part)]:
                self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        self._chars -= sum(len(delta.text) for _, delta in self._pieces.pop(key))
