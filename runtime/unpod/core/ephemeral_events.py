"""What happens to a session too often to be stored: it is folded where it happens, and nothing stored depends on it."""

from __future__ import annotations

from msgspec import Struct

from unpod.core.turns import Turn


class AdapterAsked(Struct, frozen=True):
    """The text of a turn went to the adapter."""

    turn: int
    at: float


class TurnOpened(Struct, frozen=True):
    """The first waiting text has its turn."""

    at: float


class DeltaSent(Struct, frozen=True):
    """A piece of the reply left."""

    turn: int
    text: str
    at: float


class TurnResumed(Struct, frozen=True):
    """A takeover goes on with the first waiting text, whose turn a former owner had opened."""

    turn: Turn


class ToolsRun(Struct, frozen=True):
    """A tool that ends by its own time-out has begun (`more` is 1), or is over (-1)."""

    turn: int
    more: int
    at: float


class AdapterStands(Struct, frozen=True):
    """Where in its dialog the adapter began a turn, and has come to, by what it says of itself."""

    turn: int
    from_node: str | None
    to_node: str | None


LocalEvent = AdapterAsked | AdapterStands | TurnOpened | TurnResumed | DeltaSent | ToolsRun
