"""What may be told of a defect: its kind and its place. Its text may hold what was said on a call."""

from __future__ import annotations


def whereabouts(error: BaseException) -> str:
    """Return what has failed, and where."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error).__name__ + (f" at {place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "")
