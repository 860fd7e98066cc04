"""The replies of one call on their way to the worker: in order, each ended once, and a count of what was handed over.

A reply is known by (turn, part). Its pieces are numbered, and may come late, twice, or not at all: what is next goes
out, what came early waits, what is missing is asked for. The gate: once a reply's end has been sent, nothing of that
reply or of an earlier one is sent any more. Pure.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from unpod.core.commands import EndReply
from unpod.core.events import ReplySpoken
from unpod.core.live import Again, Delta
from unpod_bridge import frames

Key = tuple[int, int]
_FRAME_CHARS: Final = 64 * 1024
"""Joined pieces leave in frames of about this many characters."""


class Open(Struct):
    """The reply that is being spoken. `taken` pieces are next to the socket, `deltas` with `chars` are on it."""

    key: Key
    taken: int = 0
    deltas: int = 0
    chars: int = 0
    reported: int = 0


class Speech:
    """Turns the pieces of replies into frames. What it returns has to be written at once."""

    def __init__(self, max_held: int, *, closed: Key = (0, 0)) -> None:
        self._max_held = max_held
        self._held: dict[tuple[Key, int], Delta] = {}
        self._held_size = 0
        self._joined: list[str] = []
        self._open: Open | None = None
        self._closed = closed
        self._cut = False

    @property
    def open_turn(self) -> int | None:
        """The turn whose reply is open, or None."""
        return None if self._open is None else self._open.key[0]

    @property
    def joined(self) -> bool:
        """Whether `flush` has something to send."""
        return bool(self._joined)

    def spoke(self, turn: int) -> bool:
        """Whether anything of a turn's reply, or its end, was handed over."""
        return self._closed[0] >= turn or (self._open is not None and self._open.key[0] >= turn)

    def offer(self, delta: Delta) -> bool:
        """Keep a piece until its turn has come; return False where it is of no use any more, or over the bound."""
        key, size = (delta.turn, delta.part), len(delta.text) + 64
        current = self._open
        if key <= self._closed or self._held_size + size > self._max_held:
            return False
        if current is not None and (key < current.key or (key == current.key and (self._cut or delta.n <= current.taken))):
            return False
        if (key, delta.n) in self._held:
            return False
        self._held[key, delta.n] = delta
        self._held_size += size
        return True

    def advance(self, performed: int) -> list[bytes]:
        """Take what is next, given the index of the owner's last performed command; the first of a reply leaves alone.

        What follows is joined until `flush`.
        """
        written: list[bytes] = []
        while (delta := self._next()) is not None and delta.after <= performed:
            self._take(delta)
            current = self._open
            if current is None or current.key != (delta.turn, delta.part):
                written += self.end((delta.turn, delta.part), before=True)
                current = self._open = Open((delta.turn, delta.part), taken=delta.n - 1)
            current.taken = delta.n
            if delta.text:
                self._joined.append(delta.text)
            if current.chars == 0 and self._joined:
                written += self.flush()
        return written

    def flush(self) -> list[bytes]:
        """Return the frames of what was joined."""
        current = self._open
        if current is None:
            return []
        current.deltas = current.taken
        if not self._joined:
            return []
        text = self._joined[0] if len(self._joined) == 1 else "".join(self._joined)
        self._joined = []
        current.chars += len(text)
        return [frames.text_delta(text[at : at + _FRAME_CHARS]) for at in range(0, len(text), _FRAME_CHARS)]

    def lacks(self, end: EndReply) -> bool:
        """Whether pieces of the reply that `end` closes have not been taken, and the caller would hear them."""
        key = (end.turn, end.part)
        if key <= self._closed or end.reason in ("interrupted", "ended"):
            return False
        current = self._open
        if current is None or current.key != key:
            return end.deltas > 0
        return not self._cut and current.taken < end.deltas

    def end(self, key: Key, *, before: bool = False) -> list[bytes]:
        """Return the end of a reply, if it is still to be sent; with `before`, of whatever is open before `key`."""
        if before and (self._open is None or self._open.key >= key):
            return []
        key = self._open.key if before and self._open is not None else key
        if key <= self._closed:
            return []
        if self._open is None or self._open.key != key:
            self._open = Open(key)
        written = [*self.flush(), frames.TEXT_END]
        self._closed = key
        self._cut = False
        self._drop(key)
        return written

    def closed_receipt(self, key: Key) -> ReplySpoken:
        """Return what was handed over of the reply that has just been ended, and close it."""
        current, self._open = self._open or Open(key), None
        return _receipt(current, ended=True)

    def receipt(self) -> ReplySpoken | None:
        """Return what was handed over of the open reply, if that is news."""
        current = self._open
        if current is None or current.deltas == current.reported:
            return None
        current.reported = current.deltas
        return _receipt(current, ended=False)

    def cut(self) -> None:
        """The caller has cut in: what comes of the open reply, except its end, is not wanted any more."""
        if self._open is not None:
            self._cut = True
            self._joined = []
            self._open.taken = self._open.deltas
            self._drop(self._open.key)

    def missing(self, epoch: int, performed: int, ending: EndReply | None) -> Again | None:
        """Return what to ask the owner for, or None where nothing is known to be missing."""
        if ending is not None and self.lacks(ending):
            key, first = (ending.turn, ending.part), self._taken((ending.turn, ending.part)) + 1
        else:
            waiting = [place for place, delta in self._held.items() if delta.after <= performed]
            if not waiting:
                return None
            key = min(waiting)[0]
            first = self._taken(key) + 1
        if (key, first) in self._held:
            return None
        return Again(epoch, key[0], key[1], first)

    def skip(self, key: Key) -> None:
        """Give up the missing pieces before the next one that is here."""
        numbers = [number for held, number in self._held if held == key]
        if not numbers:
            return
        if self._open is None or self._open.key != key:
            self._open = Open(key)
        self._open.taken = min(numbers) - 1

    def _taken(self, key: Key) -> int:
        return self._open.taken if self._open is not None and self._open.key == key else 0

    def _next(self) -> Delta | None:
        if not self._held:
            return None
        if self._open is not None:
            following = self._held.get((self._open.key, self._open.taken + 1))
            if following is not None:
                return following
        place = min(self._held)
        return self._held[place] if place[1] == 1 else None

    def _take(self, delta: Delta) -> None:
        del self._held[(delta.turn, delta.part), delta.n]
        self._held_size -= len(delta.text) + 64

    def _drop(self, through: Key) -> None:
        for place in [place for place in self._held if place[0] <= through]:
            self._take(self._held[place])


def _receipt(reply: Open, *, ended: bool) -> ReplySpoken:
    return ReplySpoken(turn=reply.key[0], part=reply.key[1], deltas=reply.deltas, chars=reply.chars, ended=ended)
