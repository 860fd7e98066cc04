from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider

from unpod.management import tracing


def test_the_running_span_is_told_as_w3c_has_it() -> None:
    provider = TracerProvider()
    with provider.get_tracer("mine").start_as_current_span("ask") as span:
        context = span.get_span_context()
        assert (
            tracing.current_traceparent()
            == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        )
    provider.shutdown()
    assert tracing.current_traceparent() == ""


def test_without_the_api_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_HAS_API", False)
    assert tracing.current_traceparent() == ""
