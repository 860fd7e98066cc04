"""Sets of whole numbers, kept as intervals: numbers that come without gaps take no more room than the first one."""

from __future__ import annotations

from bisect import bisect_left

Intervals = list[int]
"""Ascending: the first and the last of each run."""


def add(intervals: Intervals, number: int) -> bool:
    """Add a number, in place; return False where it is there already."""
    at = bisect_left(intervals, number)
    if at % 2 or (at < len(intervals) and intervals[at] == number):
        return False
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
    """Whether a number is there."""
    at = bisect_left(intervals, number)
    return at % 2 == 1 or (at < len(intervals) and intervals[at] == number)
