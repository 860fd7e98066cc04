"""Speech on its way: what travels between owner and bridge and is not stored."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Delta(Struct, frozen=True, array_like=True):
    """The `n`-th piece (from 1) of a reply.

    `epoch` is the owner's; `after` is the owner index of the last command before it, which must be performed first.
    """

    epoch: int
    turn: int
    part: int
    n: int
    after: int
    text: str


class Doubt(Struct, frozen=True, array_like=True):
    """Which pieces a bridge that is gone may have handed over though no receipt says so.

    They begin with the `first`-th of a reply, and end with the last that was sent within `within_s` seconds after it;
    those of the last `still_s` seconds are not among them, since the bridge is known to have done nothing then. `line`
    is the epoch of the line that asks.
    """

    line: int
    turn: int
    part: int
    first: int
    within_s: float
    still_s: float = 0.0


class Again(Struct, frozen=True, array_like=True):
    """The bridge has missed pieces of a reply, from the `first`-th on, and asks the owner for them.

    Pieces in `doubt` are sent without their text. The first request of a line with a doubt is answered with all pieces
    from the first doubtful one on, those of later replies included.
    """

    epoch: int
    turn: int
    part: int
    first: int
    doubt: Doubt | None = None


class Spoken(Struct, frozen=True, array_like=True):
    """How far a bridge had come with speech when its line was lost, and with it the word of its last receipts.

    `closed` is the last turn whose reply it has ended; the others tell of the reply that was open, if there was one.
    """

    closed: int
    turn: int = 0
    part: int = 0
    deltas: int = 0
    chars: int = 0


class SeenAsked(Struct, frozen=True, array_like=True):
    """A bridge that takes a call over asks the owner what it has seen of the one before; `line` is its line's epoch.

    The log may have refused the end of that, since the line had changed hands before it came there.
    """

    line: int


class SeenRecord(Struct, frozen=True, array_like=True):
    """A record of the former bridge, as its owner has seen it on its way."""

    subject: str
    headers: dict[str, str]
    data: bytes


class SeenAnswer(Struct, frozen=True, array_like=True):
    """The newest of those records, in their order, whether they are stored or not."""

    records: tuple[SeenRecord, ...] = ()


DELTA = msgspec.json.Decoder(Delta)
AGAIN = msgspec.json.Decoder(Again)
SPOKEN = msgspec.json.Decoder(Spoken)
SEEN_ASKED = msgspec.json.Decoder(SeenAsked)
SEEN_ANSWER = msgspec.json.Decoder(SeenAnswer)

LIVE_SUBJECT = "Unpod-Subject"
"""The header of a full record on the live `text` subject: where its withheld form is stored."""
