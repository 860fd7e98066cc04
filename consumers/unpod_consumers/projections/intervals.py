"""Sets of whole numbers, kept as intervals: numbers that come without gaps take no more room than the first one."""

from __future__ import annotations

from bisect import bisect_left

Intervals = list[int]
"""Ascending: the first and the last of each run."""


def add(intervals: Intervals, number: int) -> bool:
    """Add a number, in place; return False where it is there already."""
    if has(intervals, number):
        return False
    at = bisect_left(intervals, number)
    before = at > 0 and intervals[at - 1] == number - 1
    behind = at < len(intervals) and intervals[at] == number + 1
    if before and behind:
        del intervals[at - 1 : at + 1]
    elif before:
        intervals[at - 1] = number
    elif behind:
        intervals[at] = number
    else:
        intervals[at:at] = [number, number]
    return True


def has(intervals: Intervals, number: int) -> bool:
    """Return whether a number is among them."""
    at = bisect_left(intervals, number)
    return bool(at % 2) or (at < len(intervals) and intervals[at] == number)
