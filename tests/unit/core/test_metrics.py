"""CallMetrics: nearest rank, averages of what was measured, and where each figure comes from."""

from __future__ import annotations

import pytest
from tests.unit.core.call_log import CallLog

from unpod.core import events as ev
from unpod.core.metrics import CallMetrics, Cost, MetricsState, Tokens, mean, on_call_metric, percentile, snapshot


@pytest.mark.parametrize(
    ("figures", "percent", "expected"),
    [
        ((), 95, 0.0),
        ((7.0,), 95, 7.0),
        ((7.0,), 0, 7.0),
        (tuple(float(n) for n in range(1, 21)), 95, 19.0),
        (tuple(float(n) for n in range(1, 101)), 95, 95.0),
        (tuple(float(n) for n in range(20, 0, -1)), 95, 19.0),
        ((1.0, 2.0, 3.0), 50, 2.0),
        ((1.0, 2.0, 3.0, 4.0), 50, 2.0),
        ((1.0, 2.0, 3.0), 100, 3.0),
    ],
)
def test_a_percentile_is_one_of_the_figures_by_nearest_rank(
    figures: tuple[float, ...], percent: int, expected: float
) -> None:
    assert percentile(figures, percent) == expected


def test_the_mean_of_nothing_is_nothing() -> None:
    assert mean(()) == 0.0
    assert mean((1.0, 2.0)) == 1.5


def test_a_call_without_a_turn_has_figures_of_zero() -> None:
    assert snapshot(MetricsState(), 3.0) == CallMetrics(duration_s=3.0)


def test_both_names_of_a_figure_are_the_same() -> None:
    figures = CallMetrics(turn_count=3, tokens=Tokens(10, 20), cost=Cost(voice=0.1, llm=0.2))
    assert figures.turns == figures.turn_count == 3
    assert (figures.tokens_in, figures.tokens_out) == (figures.tokens.input, figures.tokens.output) == (10, 20)
    assert figures.cost.total == pytest.approx(0.3)


def test_averages_go_over_the_turns_that_have_the_figure() -> None:
    log = CallLog()
    for figures in (ev.TurnMetrics(asr_ms=100, tts_ttfb_ms=10), ev.TurnMetrics(), ev.TurnMetrics(asr_ms=200)):
        log.bridge(ev.UserText(text="x"))
        log.bridge(figures)
    log.owner(ev.TurnCompleted(turn_id=1, llm_total_ms=300))
    log.owner(ev.TurnCompleted(turn_id=2))
    log.owner(ev.TurnCompleted(turn_id=3, llm_total_ms=500))
    found = snapshot(log.state.metrics, 1.0)
    assert (found.avg_stt_ms, found.avg_tts_ms, found.avg_llm_ms) == (150.0, 10.0, 400.0)
    assert (found.stt_p95_ms, found.tts_p95_ms, found.llm_p95_ms) == (200, 10, 500)
    assert found.turn_count == 3


def test_a_partial_text_is_no_turn() -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="x", is_final=False))
    assert snapshot(log.state.metrics, 1.0).turns == 0


def test_tokens_cost_and_model_are_of_the_brains_calls() -> None:
    log = CallLog()
    log.owner(ev.LLMCalled(turn_id=1, model="small", tokens_in=10, tokens_out=2, cost=0.25))
    log.owner(ev.LLMCalled(turn_id=1, model=None, tokens_in=5, tokens_out=1, cost=None))
    log.owner(ev.LLMCalled(turn_id=2, model="large", cost=0.5))
    found = snapshot(log.state.metrics, 1.0)
    assert (found.tokens_in, found.tokens_out, found.cost.llm, found.active_llm) == (15, 3, 0.75, "large")


def test_the_voice_share_is_the_workers_last_word() -> None:
    state = MetricsState()
    for cost in (0.1, 0.25, None):
        state = on_call_metric(state, ev.CallMetric(cost_usd_so_far=cost, turns=99))
    assert state.cost == Cost(voice=0.25)
    assert state.turns == 0


def test_the_figures_become_a_dict_with_all_names() -> None:
    figures = CallMetrics(turn_count=3, tokens=Tokens(10, 20), cost=Cost(voice=0.25, llm=0.5)).model_dump()
    assert (figures["turns"], figures["turn_count"], figures["duration_s"]) == (3, 3, 0.0)
    assert figures["cost"] == {"voice": 0.25, "llm": 0.5, "total": 0.75}
    assert figures["tokens"] == {"input": 10, "output": 20}
