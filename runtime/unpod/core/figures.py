"""Which turn the worker's figures belong to: they may come after the turn they tell of was completed without them.

The protocol does not say what a `turn_id` counts. Final texts from 1, most likely; where anything that the worker has
sent contradicts that, its ids say nothing, and figures belong to the turn that is open when they come.
"""

from __future__ import annotations


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
