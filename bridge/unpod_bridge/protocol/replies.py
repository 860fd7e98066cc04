"""The replies of one call on their way to the worker: in order, each ended once, and a count of what was handed over.

A reply is known by its turn. Its pieces are numbered, and may come late, twice, or not at all: what is next goes out,
what came early waits, what is missing is asked for. An owner that takes a reply over goes on with a higher part of it,
whose pieces are numbered from 1; to the worker it is one reply. A piece without a text is one that another bridge may
have handed over: it is counted, and not said again. The gate: once a reply's end has been sent, nothing of that reply
or of an earlier one is sent any more. Pure.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from unpod.core.commands import EndReply
from unpod.core.events import ReplySpoken
from unpod.core.live import Again, Delta, Spoken
from unpod_bridge.wire import call_frames

Key = tuple[int, int]
"""A turn, and the part of its reply."""

_FRAME_CHARS: Final = 64 * 1024
"""Joined pieces leave in frames of at most this many characters."""
_KEPT_CHARS: Final = 100_000
"""How much of the last reply's spoken text is kept, from its end: a single record must tell it to a new owner."""
_KEPT_EARLIER: Final = 20_000
"""The same for each reply before it."""
_KEPT_REPLIES: Final = 3
"""For how many replies the spoken text is kept: a turn may be over before its row is in the log."""
_OVERHEAD: Final = 64
"""What a piece that waits costs beside its text, in bytes."""


class Open(Struct):
    """The reply that is being spoken: `taken` pieces of its part have left the queue, `deltas` are on the socket.

    `chars` and `text` are what is on the socket of all its parts, of a text beyond every measure only its end;
    `private`: some of that is not to be kept, `untold`: another bridge has put something there, or may have, and its
    text is not known here.
    """

    key: Key
    taken: int = 0
    deltas: int = 0
    chars: int = 0
    reported: int = 0
    cut: bool = False
    private: bool = False
    untold: bool = False
    text: list[str] = []

    @property
    def known(self) -> str:
        """What is known of the text."""
        return "".join(self.text)

    def forget(self, kept: int) -> None:
        """Know no more of the text than its end."""
        self.text = [self.known[-kept:]]


class Replies:
    """Turns the pieces of replies into frames, which have to be written at once, in order."""

    __slots__ = (
        "_held_size", "_max_held", "closed", "finished", "held", "joined", "open", "private", "replies", "strange",
    )  # fmt: skip

    def __init__(self, max_held: int) -> None:
        self._max_held = max_held
        self.held: dict[Key, dict[int, Delta]] = {}
        """The pieces that wait for something."""
        self._held_size = 0
        self.joined: list[str] = []
        """What `flush` has to send."""
        self.open: Open | None = None
        """The reply that is being spoken."""
        self.closed = 0
        """The last turn whose reply has been ended."""
        self.strange = 0
        """The last turn of whose reply another bridge may have handed over what nobody knows; 0 for none.

        The owner knows, so once it was heard this is 0.
        """
        self.private = False
        """Whether what is handed over now is not to be kept."""
        self.replies: list[Open] = []
        """The replies that were spoken last, in order, the open one, too."""
        self.finished: list[ReplySpoken] = []
        """The last receipts of replies that have been ended; whoever stores them clears this."""

    @property
    def unsure_until(self) -> int:
        """The last turn of whose reply another bridge may have handed over what nobody knows, 0 for none."""
        if self.strange > self.closed:
            return self.strange
        return self.open.key[0] if self.open is not None and self.open.untold else 0

    def spoke(self, turn: int) -> bool:
        """Whether anything of a turn's reply, or its end, was handed over."""
        return self.closed >= turn or (self.open is not None and self.open.key[0] >= turn)

    def go_on(self, reply: ReplySpoken | None, *, closed: int, cut: bool, strange: int) -> None:
        """Go on where another bridge has stopped, `reply` being its last receipt of the reply that is open.

        Of the turns up to `strange` it may have handed over more.
        """
        self.closed, self.strange = closed, strange
        if reply is not None:
            self.open = Open(
                (reply.turn, reply.part), reply.deltas, reply.deltas, reply.chars, reply.deltas, cut, untold=True
            )
            self.replies = [self.open]

    @property
    def spoken(self) -> Spoken:
        """How far it has come."""
        current = self.open
        if current is None:
            return Spoken(self.closed)
        return Spoken(self.closed, *current.key, current.deltas, current.chars)

    def went_on(self, spoken: Spoken) -> None:
        """The former bridge says itself how far it has come, beyond what its receipts tell: that is not said again."""
        while self.closed < spoken.closed:
            self.had_end(self.open.key if self.open is not None else (self.closed + 1, 0))
        if spoken.turn <= self.closed:
            return
        current = self._opened((spoken.turn, spoken.part))
        if spoken.deltas > current.taken:
            current.taken = current.deltas = spoken.deltas
            current.chars, current.untold = spoken.chars, True
            for delta in [each for n, each in self.held.get(current.key, {}).items() if n <= current.taken]:
                self._take(current.key, delta)

    @property
    def due(self) -> tuple[int, int, int]:
        """Turn, part and number of the piece that is next, as far as is known."""
        return (self.closed + 1, 0, 1) if self.open is None else (*self.open.key, self.open.taken + 1)

    def began(self, turn: int) -> bool:
        """Whether something of a turn's reply that is open was handed over here."""
        current = self.open
        return current is not None and current.key[0] == turn and bool(current.text or self.joined)

    # ---------------------------------------------------------------------------------------------------------- pieces

    def offer(self, delta: Delta) -> bool:
        """Keep a piece until its turn has come; return False where it is of no use any more, or over the bound."""
        key, size = (delta.turn, delta.part), len(delta.text) + _OVERHEAD
        if delta.turn <= self.closed or delta.n < 1 or self._held_size + size > self._max_held:
            return False
        if self.open is not None and not _wanted(self.open, key, delta.n):
            return False
        pieces = self.held.setdefault(key, {})
        if delta.n in pieces:
            return False
        pieces[delta.n] = delta
        self._held_size += size
        return True

    def advance(self, performed: int) -> list[bytes]:
        """Take what is next, given the index of the owner's last performed command; the first of a reply leaves alone.

        What follows is joined until `flush`.
        """
        written: list[bytes] = []
        while self.held and (delta := self._next(key := min(self.held))) is not None and delta.after <= performed:
            self._take(key, delta)
            if self.open is None or self.open.key != key:
                written += self._overtake(delta.turn)
            current = self._opened(key)
            current.taken = delta.n
            self.strange = 0
            if delta.text:
                self.joined.append(delta.text)
            else:
                current.untold = True
            if current.chars == 0:
                written += self.flush()
        return written

    def flush(self) -> list[bytes]:
        """Return the frames of what was joined."""
        current = self.open
        if current is None:
            return []
        current.deltas = current.taken
        if not self.joined:
            return []
        text = self.joined[0] if len(self.joined) == 1 else "".join(self.joined)
        self.joined = []
        current.chars += len(text)
        current.text.append(text)
        if current.chars > _KEPT_CHARS:
            current.forget(_KEPT_CHARS)
        current.private = current.private or self.private
        return [call_frames.text_delta(text[at : at + _FRAME_CHARS]) for at in range(0, len(text), _FRAME_CHARS)]

    def cut(self) -> None:
        """The caller has cut in: what else comes of the open reply, except its end, is not wanted."""
        current = self.open
        if current is not None:
            current.cut = True
            self._unjoin(current)
            self._drop(current.key[0])

    def leave(self, kept: frozenset[int]) -> None:
        """The owner is gone: forget what it has sent and is not handed over, but of the turns whose replies it ended.

        What comes next of the open reply is a new owner's.
        """
        if self.open is not None and self.open.key[0] not in kept:
            self._unjoin(self.open)
        for key in [key for key in self.held if key[0] not in kept]:
            self._forget(key)

    # ------------------------------------------------------------------------------------------------------------ ends

    def lacks(self, end: EndReply) -> bool:
        """Whether pieces of the reply that `end` closes are missing, and the caller would hear them."""
        if end.turn <= self.closed or end.reason in ("interrupted", "ended"):
            return False
        current = self.open
        if current is not None and current.key[0] == end.turn and current.cut:
            return False
        return self._taken((end.turn, end.part)) < end.deltas

    def can_end(self, end: EndReply) -> bool:
        """Whether all pieces of the reply that `end` closes are here, handed over or waiting, or are not wanted."""
        key = (end.turn, end.part)
        held, first = self.held.get(key, ()), self._taken(key) + 1
        return not self.lacks(end) or all(number in held for number in range(first, end.deltas + 1))

    def end(self, key: Key) -> list[bytes]:
        """Return the end of a reply and what was joined before it; nothing if it has been sent."""
        if key[0] <= self.closed:
            return []
        written = [*self._overtake(key[0])]
        current = self._opened(key)
        written += [*self.flush(), call_frames.TEXT_END]
        self.finished.append(_receipt(current, ended=True))
        self.closed, self.open = key[0], None
        self._drop(key[0])
        return written

    def had_end(self, key: Key) -> list[bytes]:
        """Account for the end of a reply that another bridge has sent; there is nothing left to send."""
        if key[0] > self.closed:
            current = self._opened(key)
            self._unjoin(current)
            self.finished.append(_receipt(current, ended=True))
            self.closed, self.open = key[0], None
            self._drop(key[0])
        return []

    def receipt(self) -> ReplySpoken | None:
        """Return what was handed over of the open reply, if that is news."""
        current = self.open
        if current is None or current.deltas == current.reported:
            return None
        current.reported = current.deltas
        return _receipt(current, ended=False)

    # ------------------------------------------------------------------------------------------------------------ gaps

    def missing(self, epoch: int, performed: int, ending: EndReply | None) -> Again | None:
        """Return what to ask the owner for, or None where nothing that is due is known to be missing."""
        if ending is not None and self.lacks(ending):
            key = (ending.turn, ending.part)
        elif self.held:
            key = min(self.held)
            if next(iter(self.held[key].values())).after > performed:
                return None
        else:
            return None
        first = self._taken(key) + 1
        return None if first in self.held.get(key, ()) else Again(epoch, key[0], key[1], first)

    def skip(self, key: Key) -> None:
        """Give up the missing pieces before the next one that is here."""
        pieces = self.held.get(key)
        if pieces:
            current = self._opened(key)
            current.taken, current.untold = min(pieces) - 1, current.untold or key[0] <= self.strange

    # --------------------------------------------------------------------------------------------------------- private

    def _opened(self, key: Key) -> Open:
        current = self.open
        if current is None or current.key[0] != key[0]:
            if self.replies:
                self.replies[-1].forget(_KEPT_EARLIER)
            current = self.open = Open(key, untold=key[1] > 0)
            self.replies = [*self.replies[1 - _KEPT_REPLIES :], current]
        elif current.key != key:
            current.key, current.taken, current.deltas, current.reported = key, 0, 0, 0
        return current

    def _overtake(self, turn: int) -> list[bytes]:
        """End what is open before `turn`: the worker's gate must not stay shut for a reply that nobody will end."""
        current = self.open
        return [] if current is None or current.key[0] >= turn else self.end(current.key)

    def _taken(self, key: Key) -> int:
        return self.open.taken if self.open is not None and self.open.key == key else 0

    def _next(self, key: Key) -> Delta | None:
        return self.held[key].get(self._taken(key) + 1)

    def _take(self, key: Key, delta: Delta) -> None:
        pieces = self.held[key]
        del pieces[delta.n]
        if not pieces:
            del self.held[key]
        self._held_size -= len(delta.text) + _OVERHEAD

    def _unjoin(self, current: Open) -> None:
        current.taken = current.deltas
        self.joined = []

    def _drop(self, through: int) -> None:
        for key in [key for key in self.held if key[0] <= through]:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._held_size -= sum(len(delta.text) + _OVERHEAD for delta in self.held.pop(key).values())


def _wanted(current: Open, key: Key, number: int) -> bool:
    if key[0] != current.key[0]:
        return key > current.key
    return not current.cut and (key > current.key or (key == current.key and number > current.taken))


def _receipt(reply: Open, *, ended: bool) -> ReplySpoken:
    return ReplySpoken(turn=reply.key[0], part=reply.key[1], deltas=reply.deltas, chars=reply.chars, ended=ended)
