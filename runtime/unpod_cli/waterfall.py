"""One call's trace as a waterfall: the spans that `unpod consume traces` sends, each a line, where it was in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from unpod.core.codec import Record
from unpod_cli.layout import Cell, Columns
from unpod_consumers.projections.spans import Span
from unpod_consumers.projections.traces import spans_of_log

_WIDTH: Final = 36
_INSTANT_S: Final = 0.001
_COLOURS: Final = {"conversation": "bold", "turn": "cyan", "takeover": "magenta"}
_STAGES: Final = {"speech_to_text": "green", "text_to_speech": "blue"}


def spans_of(session: str, agent: str, records: Sequence[Record]) -> list[Span]:
    """Return a call's spans, each before those under it, siblings by their start."""
    spans = spans_of_log(session, agent, records)
    under: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        under.setdefault(span.parent_id, []).append(span)
    return list(_down(under, ""))


def waterfall(spans: Sequence[Span]) -> Columns:
    """Return the spans of `spans_of` as lines: name, length, and a bar against the whole call."""
    depth: dict[str, int] = {}
    rows: list[list[Cell]] = []
    begin = min((span.start for span in spans), default=0.0)
    length = max((span.end for span in spans), default=begin) - begin
    for span in spans:
        depth[span.span_id] = depth.get(span.parent_id, -1) + 1
        style = "red" if span.error else _COLOURS.get(span.name, _STAGES.get(span.name, ""))
        name = Text("  " * depth[span.span_id] + span.name, style=style)
        seconds = span.end - span.start
        rows.append([name, f"{seconds:.3f} s" if seconds >= _INSTANT_S else "", Text(_bar(span, begin, length), style)])
    return Columns(rows, right=(1,), head=("span", "took", "when"))


def _down(under: dict[str, list[Span]], parent: str) -> Iterator[Span]:
    for span in under.get(parent, ()):
        yield span
        yield from _down(under, span.span_id)


def _bar(span: Span, begin: float, length: float) -> str:
    """Return blanks up to the span's start, then as much bar as it is long, at least one mark."""
    scale = _WIDTH / length if length > 0 else 0.0
    at = min(int((span.start - begin) * scale), _WIDTH - 1)
    wide = max(1, min(round((span.end - span.start) * scale), _WIDTH - at))
    return " " * at + ("█" * wide if span.end - span.start >= _INSTANT_S else "◆")
