"""What a span is before anybody sends it."""

from __future__ import annotations

from msgspec import Struct

Attribute = str | int | float | bool


class Moment(Struct, frozen=True):
    """Something that happened within a span; `time` in seconds since 1970."""

    name: str
    time: float
    attributes: dict[str, Attribute] = {}


class Span(Struct, frozen=True):
    """One span; ids in hex, times in seconds since 1970. `error` is a kind of error ("" for none), never a text.

    `links` are traceparents: of who dispatched the call, or who gave a command.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    attributes: dict[str, Attribute] = {}
    events: tuple[Moment, ...] = ()
    links: tuple[str, ...] = ()
    error: str = ""
