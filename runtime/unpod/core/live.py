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


class Again(Struct, frozen=True, array_like=True):
    """The bridge has missed pieces of a reply, from the `first`-th on, and asks the owner for them.

    With `within_s`, it asks for the pieces of all replies that were first sent within the last so many seconds: a
    bridge that takes a call over from one that has heard nothing for so long.
    """

    epoch: int
    turn: int
    part: int
    first: int
    within_s: float = 0.0


DELTA = msgspec.json.Decoder(Delta)
AGAIN = msgspec.json.Decoder(Again)

LIVE_SUBJECT = "Unpod-Subject"
"""The header of a full record on the live `text` subject: where its withheld form is stored."""
