"""The trace in which a command from outside is given, for those who have OpenTelemetry's API."""

from __future__ import annotations

try:
    from opentelemetry import trace
except ImportError:  # the client needs none of it
    _HAS_API = False
else:
    _HAS_API = True


def current_traceparent() -> str:
    """Return the W3C traceparent of the running code's span, "" where there is none."""
    if not _HAS_API:
        return ""
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else ""
