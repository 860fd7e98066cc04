"""Whatever happens to a turn, its reply ends at most once, and nothing follows the end."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from unpod.core.turns import TRANSITIONS, PendingTurn, Trigger, opened, step
from unpod.errors import ProtocolViolation

triggers: st.SearchStrategy[list[Trigger]] = st.lists(st.sampled_from(get_args(Trigger)), max_size=12)


@given(triggers)
def test_a_reply_ends_once_and_nothing_follows(sequence: list[Trigger]) -> None:
    turn = opened(PendingTurn(1, "c", "hi", None, 0.0), 0.0, withheld=False)
    taken: list[Trigger] = []
    for trigger in sequence:
        try:
            turn = replace(turn, phase=step(turn, trigger))
        except ProtocolViolation as refusal:
            assert refusal.whose == "local"  # noqa: PT017 - both ways out are fine, and this is what one looks like
            assert (turn.phase, trigger) not in TRANSITIONS
        else:
            taken.append(trigger)
    assert taken.count("end") == (turn.phase == "ended")
    assert "end" not in taken[:-1]
    assert taken.count("ask") <= 1
    if "delta" in taken:
        assert taken[0] == "ask"


@given(triggers)
def test_a_turn_can_always_be_ended(sequence: list[Trigger]) -> None:
    turn = opened(PendingTurn(1, "c", "hi", None, 0.0), 0.0, withheld=False)
    for trigger in sequence:
        if (turn.phase, trigger) in TRANSITIONS:
            turn = replace(turn, phase=step(turn, trigger))
    assert turn.phase == "ended" or step(turn, "end") == "ended"
