"""Metrics over OTLP. Everything is cumulative: what one export could not deliver is in the next."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from unpod_consumers.projections.series import NANO, Attributes, Sample, SeriesPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unpod_consumers.projections.instruments import Instrument
    from unpod_consumers.projections.snapshot import Snapshot
    from unpod_consumers.telemetry import Protocol

_LOG: Final = logging.getLogger("unpod.consumers")
_SCOPE: Final = InstrumentationScope("unpod")


def open_exporter(protocol: Protocol) -> MetricExporter:
    """Return the SDK's exporter, set up by the standard `OTEL_EXPORTER_OTLP_*` variables."""
    return GrpcExporter() if protocol == "grpc" else HttpExporter()


class OtlpPusher:
    """Sends the newest snapshot every `interval_s`, in a thread: a slow collector holds up nothing but itself."""

    def __init__(self, exporter: MetricExporter, snapshot: Callable[[], Snapshot | None], interval_s: float) -> None:
        self._exporter = exporter
        self._snapshot = snapshot
        self._interval_s = interval_s
        self._resource = Resource.create()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, and once more then, unless the collector takes nothing."""
        stopping = asyncio.create_task(stop.wait())
        taken = True
        try:
            while not stopping.done():
                await asyncio.wait([stopping], timeout=self._interval_s)
                if taken or not stopping.done():
                    taken = await asyncio.to_thread(self._send)
        finally:
            stopping.cancel()
            await asyncio.to_thread(self._exporter.shutdown)

    def _send(self) -> bool:
        """Return whether the collector has what is known by now."""
        snapshot = self._snapshot()
        if snapshot is None:
            return True
        try:
            result = self._exporter.export(to_otlp(snapshot, self._resource))
        except Exception as error:  # noqa: BLE001 - whatever a collector's answer does to its client, the next may go through
            _LOG.warning("the metrics could not be sent: %s", type(error).__name__)
            return False
        if result is not MetricExportResult.SUCCESS:
            _LOG.warning("the collector did not take the metrics; they are in the next export")
        return result is MetricExportResult.SUCCESS


def to_otlp(snapshot: Snapshot, resource: Resource) -> MetricsData:
    """Return a snapshot as the SDK's data."""
    metrics = [
        Metric(one.name, one.description, one.unit, _data(one, points, snapshot))
        for one, points in snapshot.points
        if points
    ]
    scope = ScopeMetrics(_SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(
    instrument: Instrument, points: Sequence[tuple[Attributes, SeriesPoint]], snapshot: Snapshot
) -> Sum | Gauge | Histogram:
    if instrument.kind == "histogram":
        bars = [_histogram(instrument, attributes, point, snapshot) for attributes, point in points]
        return Histogram(bars, AggregationTemporality.CUMULATIVE)
    numbers = [
        NumberDataPoint(dict(attributes), snapshot.since_ns, snapshot.at_ns, point.total // NANO)
        for attributes, point in points
    ]
    if instrument.kind == "gauge":
        return Gauge(numbers)
    return Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)


def _histogram(
    instrument: Instrument, attributes: Attributes, point: SeriesPoint, snapshot: Snapshot
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(attributes),
        start_time_unix_nano=snapshot.since_ns,
        time_unix_nano=snapshot.at_ns,
        count=sum(point.counts),
        sum=point.total / NANO,
        bucket_counts=list(point.counts),
        explicit_bounds=list(instrument.buckets),
        min=point.low or 0.0,
        max=point.high or 0.0,
        exemplars=[_exemplar(sample) for sample in point.samples.values()],
    )


def _exemplar(sample: Sample) -> Exemplar:
    return Exemplar({}, sample.value, round(sample.time * NANO), int(sample.span, 16), int(sample.trace, 16))
