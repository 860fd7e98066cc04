"""What can be believed of the worker's figures: whether they can be, and which turn they belong to.

They may come after the turn they tell of was completed without them.

The protocol does not say what a `turn_id` counts. Final texts from 1, most likely; where anything that the worker has
sent contradicts that, its ids say nothing, and figures belong to the turn that is open when they come.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final, TypeGuard

from msgspec import Struct

from unpod.core.events import CallMetric, TurnMetrics

MOST_MS: Final = 3_600_000.0
"""No part of a turn takes an hour: a figure beyond that is a time of day, or a mistake."""
MOST: Final = 1_000_000.0
"""Of turns, of model calls in one of them, and of US dollars for a call."""


def _bounds(kind: type[Struct], *others: str) -> dict[str, float]:
    stages = {name: MOST_MS for name in kind.__struct_fields__ if name.endswith("_ms")}
    return {**stages, **dict.fromkeys(others, MOST)}


_BOUNDS: Final[dict[type[Struct], dict[str, float]]] = {
    CallMetric: _bounds(CallMetric, "turns", "cost_usd_so_far"),
    TurnMetrics: _bounds(TurnMetrics, "llm_call_count"),
}
_FIGURES: Final = {kind: attrgetter(*bounds) for kind, bounds in _BOUNDS.items()}


def impossible(body: Struct) -> list[str]:
    """Return the names of the worker's figures in a fact that cannot be: negative, or beyond all bounds."""
    figures = _FIGURES.get(type(body))
    if figures is None:
        return []
    for figure in figures(body):
        if figure is not None and not 0.0 <= figure <= MOST:  # `MOST` is the smallest of all bounds
            break
    else:
        return []
    bounds = _BOUNDS[type(body)].items()
    return [name for name, most in bounds if not (getattr(body, name) is None or 0.0 <= getattr(body, name) <= most)]


def is_stage_ms(figure: float | None) -> TypeGuard[float]:
    """Whether this is a time, in milliseconds, that a part of a turn can have taken."""
    return figure is not None and 0.0 <= figure <= MOST_MS


def contradicts(turn_id: object, texts: int) -> bool:
    """Whether a `turn_id` cannot be the number of one of the final texts so far; 0 can be, while there is none."""
    named = _number(turn_id)
    return named is not None and not min(1, texts) <= named <= texts


def names_earlier(turn_id: object, turn: int) -> bool:
    """Whether a `turn_id` that counts final texts is that of a turn before `turn`."""
    named = _number(turn_id)
    return named is not None and named < turn


def _number(turn_id: object) -> int | None:
    return turn_id if isinstance(turn_id, int) and not isinstance(turn_id, bool) else None
