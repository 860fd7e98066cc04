"""What can be believed of figures, and which turn they belong to."""

from __future__ import annotations

import pytest

from unpod.core import events as ev
from unpod.core.turn_ids import MOST_MS, contradicts, impossible, is_stage_ms, names_earlier


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


@pytest.mark.parametrize(
    ("figure", "can_be"),
    [
        (0.0, True),
        (MOST_MS, True),
        (None, False),
        (-1.0, False),
        (1.7e12, False),
        (1e308, False),
        (float("nan"), False),
    ],
)
def test_no_part_of_a_turn_takes_an_hour(figure: float | None, can_be: bool) -> None:  # noqa: FBT001
    assert is_stage_ms(figure) is can_be
    assert (impossible(ev.TurnMetrics(asr_ms=figure)) == []) is (can_be or figure is None)


def test_a_fact_without_figures_has_none_that_cannot_be() -> None:
    assert impossible(ev.UserText(text="hi")) == []
