from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unpod_consumers.projections.intervals import Intervals, add


@given(st.lists(st.integers(0, 30)))
def test_they_hold_what_was_added_and_say_what_is_new(numbers: list[int]) -> None:
    intervals: Intervals = []
    known: set[int] = set()
    for number in numbers:
        assert add(intervals, number) is (number not in known)
        known.add(number)
    pairs = list(zip(intervals[::2], intervals[1::2], strict=True))
    assert {number for first, last in pairs for number in range(first, last + 1)} == known
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(pairs))


def test_without_gaps_they_do_not_grow() -> None:
    intervals: Intervals = []
    for number in [*range(0, 1_000, 2), *range(1, 1_000, 2)]:
        add(intervals, number)
    assert intervals == [0, 999]
