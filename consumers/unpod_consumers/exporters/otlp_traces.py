"""Spans over OTLP, by the SDK's exporters and the standard `OTEL_EXPORTER_OTLP_*` variables."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from unpod_consumers.telemetry import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpod_consumers.projections.spans import Attribute, Moment, Span

_LOG: Final = logging.getLogger("unpod.consumers")
_SCOPE: Final = InstrumentationScope("unpod")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
_NANO: Final = 1_000_000_000
_DEFAULTS: Final = TraceSettings()


class SpanSender:
    """Sends spans; every method blocks, so it is for a thread."""

    def __init__(self, exporter: SpanExporter, settings: TraceSettings) -> None:
        self._exporter = exporter
        self._settings = settings
        self._resource = Resource.create()
        self._closed = False

    def send(self, spans: Sequence[Span]) -> bool:
        """Return whether the collector took them all, in requests of a bounded size."""
        size = self._settings.batch
        return all(self._send(spans[at : at + size]) for at in range(0, len(spans), size))

    def _send(self, spans: Sequence[Span]) -> bool:
        if self._closed:
            return False
        try:
            result = self._exporter.export([to_otel(span, self._resource, self._settings) for span in spans])
        except Exception as error:  # noqa: BLE001 - whatever a collector's answer does to its client, they are sent again
            _LOG.warning("the spans could not be sent: %s", type(error).__name__)
            return False
        return result is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give up what is on its way, which is sent by whoever goes on; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()


def open_sender(settings: TraceSettings) -> SpanSender:
    """Return a sender, set up by the standard variables."""
    return SpanSender(GrpcExporter() if settings.protocol == "grpc" else HttpExporter(), settings)


def to_otel(span: Span, resource: Resource, settings: TraceSettings = _DEFAULTS) -> ReadableSpan:
    """Return a span as the SDK has it, within the limits of `settings`."""
    length = settings.attribute_length
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes={name: _cut(value, length) for name, value in span.attributes.items()},
        events=[_event(moment, length) for moment in span.events[: settings.events]],
        links=[link for link in map(_link, span.links) if link is not None],
        kind=SpanKind.CONSUMER if "messaging.system" in span.attributes else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=round(span.start * _NANO),
        end_time=round(span.end * _NANO),
        instrumentation_scope=_SCOPE,
    )


def _context(trace: str, span: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace, 16), int(span, 16), is_remote=is_remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _event(moment: Moment, length: int | None) -> Event:
    attributes = {name: _cut(value, length) for name, value in moment.attributes.items()}
    return Event(moment.name, attributes=attributes, timestamp=round(moment.time * _NANO))


def _cut(value: Attribute, length: int | None) -> Attribute:
    return value[:length] if isinstance(value, str) else value


def _link(traceparent: str) -> Link | None:
    """Return a link to whoever sent a traceparent; what is none comes from outside and is left out."""
    match = _TRACEPARENT.match(traceparent)
    if match is None:
        return None
    context = _context(match[1], match[2], is_remote=True)
    return Link(context) if context.is_valid else None
