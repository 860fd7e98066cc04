"""Pieces of a reply that follow each other closely leave as one: each costs two passes through NATS and a frame.

The first of a reply leaves alone and at once, and so does one that comes after a pause. What follows it within a turn
or two of the event loop waits until the adapter has paused for as long, or `MAX_ROUNDS` turns at most. No clock: what
is joined depends on the order of events alone, so a test sees the same on any machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

QUIET_ROUNDS: Final = 2
"""So many turns of the event loop without a piece are a pause; an adapter that only yields to others takes one."""
MAX_ROUNDS: Final = 10
MAX_CHARS: Final = 1_000
"""What waits is not longer than that and one piece: a flood meets the bound on replies piece by piece."""


class Coalescing:
    """The text of one reply on its way; `send` is called with what leaves."""

    __slots__ = ("_fresh", "_loop", "_pieces", "_quiet", "_rounds", "_send", "_size", "_turn")

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._pieces: list[str] = []
        self._size = 0
        self._turn: asyncio.Handle | None = None
        self._fresh = False
        self._quiet = 0
        self._rounds = 0

    def add(self, text: str) -> None:
        """Send a piece, at once or with those that follow."""
        if self._turn is None:
            self._begin()
            self._send(text)
            return
        self._pieces.append(text)
        self._size += len(text)
        self._fresh = True
        if self._size >= MAX_CHARS:
            self._leave()

    def flush(self) -> None:
        """Send what waits, and let what comes next leave at once."""
        self._stop()
        if self._pieces:
            self._leave()

    def drop(self) -> None:
        """Forget what waits."""
        self._stop()
        self._pieces.clear()
        self._size = 0

    def _leave(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._send(text)

    def _begin(self) -> None:
        self._fresh, self._quiet, self._rounds = False, 0, 0
        self._turn = self._loop.call_soon(self._next_turn)

    def _stop(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _next_turn(self) -> None:
        self._rounds += 1
        self._quiet = 0 if self._fresh else self._quiet + 1
        self._fresh = False
        if self._quiet < QUIET_ROUNDS and self._rounds < MAX_ROUNDS:
            self._turn = self._loop.call_soon(self._next_turn)
        elif self._pieces:
            self._begin()
            self._leave()
        else:
            self._turn = None
