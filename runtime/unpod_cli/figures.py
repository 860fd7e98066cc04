"""A call's metrics and a runner's stats, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from unpod.core.codec import Record
from unpod.core.metrics import CallMetrics, snapshot
from unpod.core.state import fold
from unpod.runner.stats import RunnerStats
from unpod_cli.layout import Columns, facts


def call_metrics(records: Sequence[Record], now: float) -> CallMetrics:
    """Return a call's metrics, folded from its log in merged order; `now` counts where the call goes on."""
    state = fold(records)
    return snapshot(state.metrics, state.duration_s(now))


def metrics_lines(metrics: CallMetrics) -> Columns:
    """Return a call's metrics as people read them."""
    return facts(
        ("turns", f"{metrics.turns}"),
        ("duration", f"{metrics.duration_s:.1f} s"),
        ("speech to text", _latency(metrics.avg_stt_ms, metrics.stt_p95_ms)),
        ("brain", _latency(metrics.avg_llm_ms, metrics.llm_p95_ms)),
        ("text to speech", _latency(metrics.avg_tts_ms, metrics.tts_p95_ms)),
        ("tokens", f"{metrics.tokens_in} in, {metrics.tokens_out} out{_model(metrics)}"),
        (
            "cost",
            f"${metrics.cost.total:.4f}: voice ${metrics.cost.voice:.4f}, model ${metrics.cost.llm:.4f}",
        ),
    )


def stats_lines(stats: RunnerStats) -> Columns:
    """Return a runner's stats as people read them."""
    return facts(
        ("in flight", f"{stats.in_flight} of {stats.capacity}, {stats.queued} queued"),
        ("last hour", f"{stats.completed_last_hour} completed, {stats.failed_last_hour} failed"),
        ("mean duration", f"{stats.mean_call_duration_s:.1f} s"),
    )


def metrics_json(metrics: CallMetrics) -> object:
    """Return a call's metrics for programs."""
    fields: dict[str, object] = msgspec.to_builtins(metrics)
    return {**fields, "cost": {"voice": metrics.cost.voice, "llm": metrics.cost.llm, "total": metrics.cost.total}}


def stats_json(stats: RunnerStats) -> object:
    """Return a runner's stats for programs."""
    return asdict(stats)


def _latency(average_ms: float, p95_ms: int) -> str:
    return f"{average_ms:.0f} ms on average, p95 {p95_ms} ms" if average_ms else "not measured yet"


def _model(metrics: CallMetrics) -> str:
    return f" ({metrics.active_llm})" if metrics.active_llm else ""
