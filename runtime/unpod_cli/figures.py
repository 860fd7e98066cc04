"""A call's metrics and a runner's stats, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from unpod.core.codec import Record
from unpod.core.metrics import CallMetrics, snapshot
from unpod.core.state import SessionState, fold
from unpod.runner.stats import RunnerStats
from unpod_cli.layout import Columns, facts


def call_metrics(records: Sequence[Record]) -> CallMetrics:
    """Return a call's metrics, folded from its log in merged order; a call that goes on is measured to its last record."""
    state: SessionState = fold(records)
    now = max((record.envelope.time for record in records), default=0.0)
    return snapshot(state.metrics, state.duration_s(now))


def metrics_lines(metrics: CallMetrics) -> Columns:
    """Return a call's metrics as people read them."""
    return facts(
        ("turns", f"{metrics.turns}"),
        ("duration", f"{metrics.duration_s:.1f} s"),
        ("speech to text", f"{metrics.avg_stt_ms:.0f} ms on average, p95 {metrics.stt_p95_ms} ms"),
        ("brain", f"{metrics.avg_llm_ms:.0f} ms on average, p95 {metrics.llm_p95_ms} ms"),
        ("text to speech", f"{metrics.avg_tts_ms:.0f} ms on average, p95 {metrics.tts_p95_ms} ms"),
        ("tokens", f"{metrics.tokens_in} in, {metrics.tokens_out} out{_model(metrics)}"),
        (
            "cost",
            f"${metrics.cost.total:.4f}: voice ${metrics.cost.voice:.4f}, brain ${metrics.cost.llm:.4f}",
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


def _model(metrics: CallMetrics) -> str:
    return f" ({metrics.active_llm})" if metrics.active_llm else ""

