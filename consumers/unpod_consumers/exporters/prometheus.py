"""The Prometheus endpoint: text, or OpenMetrics with exemplars for whoever asks for it."""

from __future__ import annotations

from contextlib import contextmanager
from math import isinf
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from unpod.errors import ConfigurationError
from unpod_consumers.projections.series import NANO, Attributes, SeriesPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unpod_consumers.projections.instruments import Instrument
    from unpod_consumers.projections.snapshot import Snapshot

_UNITS: Final = {"s": "seconds"}

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class SnapshotCollector(Collector):
    """Shows the newest snapshot to a registry."""

    def __init__(self, snapshot: Callable[[], Snapshot | None]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        """Yield the families of the snapshot, those without points left out."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        for instrument, points in snapshot.points:
            if points:
                yield _family(instrument, points)


@contextmanager
def serving(snapshot: Callable[[], Snapshot | None], host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` from a thread for the length of a `with` block; give the port.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=_registry(snapshot))
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror}): set OTEL_EXPORTER_PROMETHEUS_HOST and _PORT"
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_text(snapshot: Snapshot) -> str:
    """Return a snapshot in the text format."""
    return generate_latest(_registry(lambda: snapshot)).decode()


def _registry(snapshot: Callable[[], Snapshot | None]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot))
    return registry


def _family(instrument: Instrument, points: Sequence[tuple[Attributes, SeriesPoint]]) -> Family:
    labels = sorted({key for attributes, _ in points for key, _ in attributes})
    # OpenTelemetry's rules for Prometheus: dots become underscores, and the unit is the name's end.
    unit = _UNITS.get(instrument.unit, "")
    name = "_".join(part for part in (instrument.name.replace(".", "_"), unit) if part)
    names = [label.replace(".", "_") for label in labels]
    if instrument.kind == "histogram":
        bars = HistogramMetricFamily(name, instrument.description, labels=names)
        for attributes, point in points:
            bars.add_metric(_labels(labels, attributes), _buckets(instrument, point), point.total / NANO)
        return bars
    numbers = (
        CounterMetricFamily(name, instrument.description, labels=names)
        if instrument.kind == "counter"
        else GaugeMetricFamily(name, instrument.description, labels=names)
    )
    for attributes, point in points:
        numbers.add_metric(_labels(labels, attributes), point.total / NANO)
    return numbers


def _labels(names: Sequence[str], attributes: Attributes) -> list[str]:
    found = dict(attributes)
    return [found.get(name, "") for name in names]


def _buckets(instrument: Instrument, point: SeriesPoint) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Return the buckets as Prometheus counts them, each with what is below it."""
    bounds = [*instrument.buckets, float("inf")]
    below = 0
    rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for place, bound in enumerate(bounds):
        below += point.counts[place]
        sample = point.samples.get(place)
        edge = "+Inf" if isinf(bound) else repr(bound)
        if sample is None:
            rows.append((edge, float(below)))
        else:
            exemplar = Exemplar({"trace_id": sample.trace, "span_id": sample.span}, sample.value, sample.time)
            rows.append((edge, float(below), exemplar))
    return rows
