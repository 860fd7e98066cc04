"""A developer's own spans hang where they belong in the trace that the log gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from unpod.core.traces import root_span, trace_id, turn_span
from unpod.session import tracing
from unpod.testing import simulate_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unpod import CallContext


class Brain:
    """An adapter with a span of its own around each answer."""

    def __init__(self, tracer: otel.Tracer) -> None:
        self._tracer = tracer

    async def stream(self, text: str, **_: object) -> AsyncIterator[str]:
        with self._tracer.start_as_current_span(f"answer {text}"):
            yield f"you said {text}"

    async def turn(self, text: str) -> str:
        return text

    def assist(self, text: str) -> None:
        pass


async def test_spans_of_hooks_brain_and_entrypoint_have_their_parents() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("mine")

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = Brain(tracer)

        @session.on("user_turn")
        async def heard(text: str) -> None:
            with tracer.start_as_current_span(f"hook {text}"):
                pass

        @session.on("turn_complete")
        async def done(**fields: object) -> None:
            with tracer.start_as_current_span(f"done {fields['turn_id']}"):
                pass

        with tracer.start_as_current_span("before"):
            pass
        await session.run()

    async with simulate_call(handle, session_id="s1") as call:
        await call.user("a")
        await call.user("b")
        await call.advance(1)
        await call.hang_up()
    provider.shutdown()
    parents = {span.name: span.parent for span in exporter.get_finished_spans()}
    wanted = {"before": root_span("s1")}
    wanted |= {
        f"{what} {text}": turn_span("s1", turn) for turn, text in ((1, "a"), (2, "b")) for what in ("hook", "answer")
    }
    wanted |= {f"done {turn}": turn_span("s1", turn) for turn in (1, 2)}
    found = {name: f"{parent.span_id:016x}" for name, parent in parents.items() if parent is not None}
    assert found == wanted
    assert {f"{parent.trace_id:032x}" for parent in parents.values() if parent is not None} == {trace_id("s1")}


def test_outside_there_is_no_trace() -> None:
    with tracing.in_turn("s1", 1):
        assert otel.get_current_span().get_span_context().is_valid
    assert not otel.get_current_span().get_span_context().is_valid


def test_without_the_api_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_HAS_API", False)
    with tracing.in_turn("s1", 1):
        assert not otel.get_current_span().get_span_context().is_valid
