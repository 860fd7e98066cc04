"""How far this bridge has heard of the stream. Pure."""

from __future__ import annotations


class Horizon:
    """The newest sequence of the stream that a bridge has heard of: what is sent from now on stands behind it."""

    __slots__ = ("seq",)

    def __init__(self) -> None:
        self.seq = 0
