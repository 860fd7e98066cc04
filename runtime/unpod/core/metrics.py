"""CallMetrics, folded from the log: the same during and after the call, and in any process that reads it.

Percentiles are by nearest rank; averages go over the turns that have the figure. The model's figure of a turn is the
time of the whole answer (`llm_total_ms`): the worker's where it sends one, else as the session measured it. The voice
share of the cost is what the worker says (`cost_usd_so_far`), the model's share the sum over the adapter's calls.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct
from msgspec.structs import asdict, replace

from unpod.core.events import CallMetric, LLMCalled, TurnCompleted, TurnMetrics


class Cost(Struct, frozen=True):
    """US dollars."""

    voice: float = 0.0
    llm: float = 0.0

    @property
    def total(self) -> float:
        """Voice and model together."""
        return self.voice + self.llm


class Tokens(Struct, frozen=True):
    """Tokens that the adapter's models have read and written."""

    input: int = 0
    output: int = 0


class CallMetrics(Struct, frozen=True):
    """A snapshot of one call. `duration_s` in seconds, `_ms` in milliseconds; 0 where nothing was measured yet."""

    turn_count: int = 0
    duration_s: float = 0.0
    stt_p95_ms: int = 0
    llm_p95_ms: int = 0
    tts_p95_ms: int = 0
    avg_stt_ms: float = 0.0
    avg_llm_ms: float = 0.0
    avg_tts_ms: float = 0.0
    cost: Cost = Cost()
    tokens: Tokens = Tokens()
    active_llm: str = ""

    @property
    def turns(self) -> int:
        """Dialog turns so far."""
        return self.turn_count

    @property
    def tokens_in(self) -> int:
        """Input tokens so far."""
        return self.tokens.input

    @property
    def tokens_out(self) -> int:
        """Output tokens so far."""
        return self.tokens.output

    def model_dump(self) -> dict[str, object]:
        """Return the figures as a dict, with all names that the pydantic model of the Unpod SDK has."""
        cost = {**asdict(self.cost), "total": self.cost.total}
        return {**asdict(self), "turns": self.turns, "cost": cost, "tokens": asdict(self.tokens)}


class MetricsState(Struct, frozen=True):
    """What the fold keeps of a call's figures; latencies in ms, one entry for each turn that has the figure."""

    turns: int = 0
    stt: tuple[float, ...] = ()
    llm: tuple[float, ...] = ()
    tts: tuple[float, ...] = ()
    cost: Cost = Cost()
    tokens: Tokens = Tokens()
    model: str = ""


def on_turn(state: MetricsState) -> MetricsState:
    """Count a turn of the dialog."""
    return replace(state, turns=state.turns + 1)


def on_turn_metrics(state: MetricsState, event: TurnMetrics) -> MetricsState:
    """Add the worker's figures of speech recognition and synthesis."""
    return replace(state, stt=_and(state.stt, event.asr_ms), tts=_and(state.tts, event.tts_ttfb_ms))


def on_turn_completed(state: MetricsState, event: TurnCompleted) -> MetricsState:
    """Add the turn's figure of the model."""
    return replace(state, llm=_and(state.llm, event.llm_total_ms))


def on_llm_call(state: MetricsState, event: LLMCalled) -> MetricsState:
    """Add the tokens and the cost of a model call."""
    tokens = Tokens(state.tokens.input + event.tokens_in, state.tokens.output + event.tokens_out)
    cost = replace(state.cost, llm=state.cost.llm + (event.cost or 0.0))
    return replace(state, tokens=tokens, cost=cost, model=event.model or state.model)


def on_call_metric(state: MetricsState, event: CallMetric) -> MetricsState:
    """Take over the worker's account of the voice cost."""
    if event.cost_usd_so_far is None:
        return state
    return replace(state, cost=replace(state.cost, voice=event.cost_usd_so_far))


def snapshot(state: MetricsState, duration_s: float) -> CallMetrics:
    """Return the figures as users read them."""
    return CallMetrics(
        turn_count=state.turns,
        duration_s=duration_s,
        stt_p95_ms=round(percentile(state.stt, 95)),
        llm_p95_ms=round(percentile(state.llm, 95)),
        tts_p95_ms=round(percentile(state.tts, 95)),
        avg_stt_ms=mean(state.stt),
        avg_llm_ms=mean(state.llm),
        avg_tts_ms=mean(state.tts),
        cost=state.cost,
        tokens=state.tokens,
        active_llm=state.model,
    )


def percentile(figures: tuple[float, ...], percent: int) -> float:
    """Return the nearest-rank percentile, 0.0 of nothing."""
    if not figures:
        return 0.0
    rank = max(1, ceil(percent / 100 * len(figures)))
    return sorted(figures)[rank - 1]


def mean(figures: tuple[float, ...]) -> float:
    """Return the mean, 0.0 of nothing."""
    return sum(figures) / len(figures) if figures else 0.0


def _and(figures: tuple[float, ...], figure: float | None) -> tuple[float, ...]:
    return figures if figure is None else (*figures, figure)
