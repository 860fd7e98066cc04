"""The pieces of replies, kept until the bridge has handed them on: it asks for what it has missed.

Pieces are not stored. While NATS is away none gets through, so several replies may be waiting when it is back.

A bridge that takes a call over asks for what the former one has not confirmed. What that may have handed over all the
same is not said twice: it keeps its number, and its text is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from unpod.core.events import ReplySpoken
from unpod.core.live import Again, Delta, Doubt

MAX_CHARS: Final = 200_000
"""Of all replies together: ten of the longest."""


class ResendBuffer:
    """The pieces of one session's replies, by turn and part."""

    __slots__ = ("_chars", "_line", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], list[tuple[float, Delta]]] = {}
        self._chars = 0
        self._line = 0

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
        doubt = asked.doubt
        if doubt is not None and doubt.line > self._line:
            self._line = doubt.line
            yield from self._settle(doubt, now)
            return
        for _, delta in self._pieces.get((asked.turn, asked.part), ()):
            if delta.n >= asked.first:
                yield delta

    def _settle(self, doubt: Doubt, now: float) -> Iterator[Delta]:
        """Forget the texts that are in doubt, and yield all pieces from there on."""
        certain, until = (doubt.turn, doubt.part, doubt.first), None
        for key, pieces in self._pieces.items():
            for position, (at, delta) in enumerate(pieces):
                if (*key, delta.n) < certain:
                    continue
                until = min(at + doubt.within_s, now - doubt.still_s) if until is None else until
                if at <= until:
                    self._chars -= len(delta.text)
                    delta = replace(delta, text="")  # noqa: PLW2901 - it is the same piece
                    pieces[position] = at, delta
                yield delta

    def spoken(self, receipt: ReplySpoken) -> None:
        """Let go of what the bridge will not ask for any more."""
        if receipt.ended:
            for key in [key for key in self._pieces if key <= (receipt.turn, receipt.part)]:
                self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        self._chars -= sum(len(delta.text) for _, delta in self._pieces.pop(key))
