"""Turns: the table says all, and a reply ends once."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from msgspec.structs import replace

from unpod.core.events import TurnMetrics
from unpod.core.turns import TRANSITIONS, PendingTurn, Phase, Trigger, Turn, Usage, completed, opened, outcome, step
from unpod.errors import ProtocolViolation

PENDING = PendingTurn(number=3, cause="c", text="hi", language="de", at=10.0)
TURN = opened(PENDING, 11.0, withheld=False)
PAIRS = list(product(get_args(Phase), get_args(Trigger)))


@pytest.mark.parametrize(("phase", "trigger"), PAIRS)
def test_every_pair_is_in_the_table_or_a_violation_of_ours(phase: Phase, trigger: Trigger) -> None:
    turn = replace(TURN, phase=phase)
    if (phase, trigger) in TRANSITIONS:
        assert step(turn, trigger) == TRANSITIONS[phase, trigger]
        return
    with pytest.raises(ProtocolViolation) as raised:
        step(turn, trigger)
    assert raised.value.whose == "local"


def test_each_phase_can_end_but_the_last_which_leads_nowhere() -> None:
    for phase in get_args(Phase):
        assert ((phase, "end") in TRANSITIONS) == (phase != "ended")
    assert not [pair for pair in TRANSITIONS if pair[0] == "ended"]
    assert {trigger for (_, trigger), target in TRANSITIONS.items() if target == "ended"} == {"end"}


def test_what_a_turn_knows_of_its_phase() -> None:
    by_phase = {phase: replace(TURN, phase=phase) for phase in get_args(Phase)}
    assert [phase for phase, turn in by_phase.items() if turn.replying] == ["asked", "speaking"]
    assert [phase for phase, turn in by_phase.items() if not turn.owes_end] == ["ended"]


def test_a_turn_takes_over_what_waited() -> None:
    assert (TURN.number, TURN.cause, TURN.user_text, TURN.language, TURN.opened_at) == (3, "c", "hi", "de", 11.0)
    assert TURN.phase == "opened"
    assert opened(replace(PENDING, withheld=True), 11.0, withheld=False).withheld
    assert opened(PENDING, 11.0, withheld=True).withheld


SPOKEN: Turn = replace(
    TURN,
    phase="ended",
    asked_at=12.0,
    first_delta_at=12.25,
    last_delta_at=13.0,
    ended_at=13.5,
    deltas=2,
    sent="hello you",
    end_reason="done",
)


def test_without_the_workers_figures_the_session_measures_the_model() -> None:
    fact = completed(SPOKEN, 20.0)
    assert (fact.llm_ttft_ms, fact.llm_total_ms, fact.llm_call_count) == (250.0, 1500.0, 1)
    assert not fact.worker_metrics
    assert (fact.ttfa_ms, fact.asr_ms, fact.tts_ttfb_ms, fact.from_node, fact.to_node) == (None,) * 5
    assert (fact.started_at, fact.ended_at) == (11.0, 13.5)


def test_the_workers_figures_win() -> None:
    figures = TurnMetrics(
        ttfa_ms=1, asr_ms=2, llm_ttft_ms=3, tts_ttfb_ms=4, llm_total_ms=5, llm_call_count=6, from_node="a", to_node="b"
    )
    fact = completed(replace(SPOKEN, metrics=figures), 20.0)
    assert (fact.ttfa_ms, fact.asr_ms, fact.llm_ttft_ms, fact.tts_ttfb_ms, fact.llm_total_ms) == (1, 2, 3, 4, 5)
    assert (fact.llm_call_count, fact.from_node, fact.to_node, fact.worker_metrics) == (6, "a", "b", True)


def test_a_figure_that_the_worker_leaves_out_is_the_sessions() -> None:
    fact = completed(replace(SPOKEN, metrics=TurnMetrics(asr_ms=2)), 20.0)
    assert (fact.asr_ms, fact.llm_ttft_ms, fact.llm_total_ms) == (2, 250.0, 1500.0)


def test_the_brains_own_count_of_its_calls_wins() -> None:
    usage = Usage(calls=2, tokens_in=10, tokens_out=5, cost=0.5, model="m", provider="p")
    fact = completed(replace(SPOKEN, usage=usage, metrics=TurnMetrics(llm_call_count=9)), 20.0)
    assert (fact.llm_call_count, fact.tokens_in, fact.tokens_out, fact.cost) == (2, 10, 5, 0.5)
    assert (fact.model, fact.provider) == ("m", "p")


def test_a_turn_that_nobody_answered_has_no_figures_of_a_model() -> None:
    fact = completed(replace(TURN, phase="ended", end_reason="unanswered", ended_at=11.5), 20.0)
    assert (fact.llm_ttft_ms, fact.llm_total_ms, fact.llm_call_count, fact.agent_text) == (None, None, 0, "")
    assert fact.outcome == "unanswered"


def test_the_whole_reply_was_heard_unless_somebody_cut_in() -> None:
    assert completed(SPOKEN, 20.0).heard_text == "hello you"
    cut = completed(replace(SPOKEN, interrupted=True, heard="hello"), 20.0)
    assert (cut.heard_text, cut.agent_text, cut.interrupted) == ("hello", "hello you", True)
    assert completed(replace(SPOKEN, interrupted=True, heard=None), 20.0).heard_text is None


def test_how_a_turn_went_is_how_its_reply_was_ended() -> None:
    assert outcome(SPOKEN) == "done"
    assert outcome(replace(SPOKEN, end_reason="failed")) == "failed"
    assert outcome(TURN) == "unanswered"


def test_a_reply_that_the_calls_end_cut_was_not_unanswered() -> None:
    cut = replace(
        TURN, phase="speaking", asked_at=12.0, first_delta_at=12.5, last_delta_at=13.0, sent="hello", deltas=1
    )
    assert completed(cut, 20.0).outcome == "ended"
    assert completed(cut, 20.0).ended_at == 20.0
