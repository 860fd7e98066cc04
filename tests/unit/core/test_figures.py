"""Which turn figures belong to."""

from __future__ import annotations

import pytest

from unpod.core.figures import contradicts, names_earlier


@pytest.mark.parametrize(
    ("turn_id", "texts", "contradicting"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (0, 1, True), (2, 3, False), (4, 3, True), (-1, 0, True)],
)
def test_an_id_that_is_no_number_of_a_text_contradicts(turn_id: int, texts: int, contradicting: bool) -> None:  # noqa: FBT001
    assert contradicts(turn_id, texts) is contradicting


@pytest.mark.parametrize("turn_id", [None, "1", "turn-7", 1.0, True])
def test_what_is_no_number_says_nothing(turn_id: object) -> None:
    assert not contradicts(turn_id, 0)
    assert not names_earlier(turn_id, 9)


def test_an_id_names_a_turn() -> None:
    assert [names_earlier(turn_id, 2) for turn_id in (1, 2, 3)] == [True, False, False]
