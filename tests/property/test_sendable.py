"""What names many ids goes in parts that a server takes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unpod.core.dispatch_messages import IDS_CHARS, sendable


@given(st.lists(st.integers(1, 100_000)), st.integers(1, 20))
def test_all_come_in_order_and_no_part_is_larger_than_it_must_be(lengths: list[int], most: int) -> None:
    ids = ["x" * length for length in lengths]
    parts = [list(part) for part in sendable(ids, str, most=most)]
    assert [each for part in parts for each in part] == ids
    assert all(len(part) <= most and (sum(map(len, part)) <= IDS_CHARS or len(part) == 1) for part in parts)
    for part, following in pairwise(parts):
        assert len(part) == most or sum(map(len, part)) + len(following[0]) > IDS_CHARS
