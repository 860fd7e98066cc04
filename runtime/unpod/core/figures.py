"""What can be believed of the worker's figures: whether they can be, and which turn they belong to.

They may come after the turn they tell of was completed without them.

The protocol does not say what a `turn_id` counts. Final texts from 1, most likely; where anything that the worker has
sent contradicts that, its ids say nothing, and figures belong to the turn that is open when they come.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from unpod.core.events import CallMetric, TurnMetrics

MOST_MS: Final = 3_600_000.0
"""No part of a turn takes an hour: a figure beyond that is a time of day, or a mistake."""
MOST: Final = 1_000_000.0
"""Of turns, of model calls in one of them, and of US dollars for a call."""


def _bounds(kind: type[Struct], *others: str) -> tuple[tuple[str, float], ...]:
    stages = tuple((name, MOST_MS) for name in kind.__struct_fields__ if name.endswith("_ms"))
    return (*stages, *((name, MOST) for name in others))


_BOUNDS: Final[dict[type[Struct], tuple[tuple[str, float], ...]]] = {
    CallMetric: _bounds(CallMetric, "turns", "cost_usd_so_far"),
    TurnMetrics: _bounds(TurnMetrics, "llm_call_count"),
}


def impossible(body: Struct) -> list[str]:
    """Return the names of the worker's figures in a fact that cannot be: negative, or beyond all bounds."""
    found: list[str] = []
    for name, most in _BOUNDS.get(type(body), ()):
        figure: float | None = getattr(body, name)
        if figure is not None and not 0.0 <= figure <= most:
            found.append(name)
    return found


def is_stage_ms(figure: float | None) -> bool:
    """Whether a part of a turn can have taken so many milliseconds; None is no figure, and neither is what is none."""
    return figure is not None and 0.0 <= figure <= MOST_MS


def contradicts(turn_id: object, texts: int) -> bool:
    """Whether a `turn_id`, sent after so many final texts, is no number of one of them; before the first, 0 is none."""
    named = _number(turn_id)
    return named is not None and not min(1, texts) <= named <= texts


def names_earlier(turn_id: object, turn: int) -> bool:
    """Whether a `turn_id` that counts final texts is that of a turn before `turn`."""
    named = _number(turn_id)
    return named is not None and named < turn


def _number(turn_id: object) -> int | None:
    return turn_id if isinstance(turn_id, int) and not isinstance(turn_id, bool) else None
