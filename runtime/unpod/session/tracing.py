"""Where in the call's trace code runs, for those who have OpenTelemetry's API: their own spans hang there.

The trace itself is sent by `unpod consume traces`, out of the log, so no span is begun here: the id of a turn's span is
known before there is one. Without the API this does nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from unpod.core.traces import root_span, trace_id, turn_span

try:
    from opentelemetry import context, trace
except ImportError:  # the runtime needs none of it
    _HAS_API = False
else:
    _HAS_API = True

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import NonRecordingSpan


@contextmanager
def in_turn(session_id: str, turn: int = 0) -> Iterator[None]:
    """Run the body, and the tasks that it begins, under the span of a turn; 0 is the call's own span."""
    if not _HAS_API:
        yield
        return
    token = context.attach(trace.set_span_in_context(_span(session_id, turn)))
    try:
        yield
    finally:
        context.detach(token)


@lru_cache(maxsize=1024)  # each turn's is asked for by its hooks and by its adapter
def _span(session_id: str, turn: int) -> NonRecordingSpan:
    span = turn_span(session_id, turn) if turn else root_span(session_id)
    parent = trace.SpanContext(
        trace_id=int(trace_id(session_id), 16),
        span_id=int(span, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.NonRecordingSpan(parent)
