"""Aggregated points that come out the same in whatever order their values were added.

Sums are integers of a billionth of the unit, since adding floats depends on the order; of the exemplars of a bucket
the newest stays.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec
from msgspec import Struct

from unpod_consumers.projections.instruments import Instrument

NANO: Final = 1_000_000_000

Attributes = tuple[tuple[str, str], ...]
"""Labels, sorted by name."""


class Sample(Struct, frozen=True, order=True, array_like=True):
    """An exemplar: when (seconds since 1970), where in which trace, and the value."""

    time: float
    trace: str
    span: str
    value: float


class Value(Struct, frozen=True):
    """One value for one instrument, and the place in a trace where it was measured."""

    instrument: Instrument
    value: float
    attributes: Attributes
    sample: Sample


class SeriesPoint(Struct, array_like=True):
    """What has been added up under one set of attributes; `counts` and `samples` go by bucket, the last is +Inf."""

    total: int = 0
    low: float | None = None
    high: float | None = None
    counts: list[int] = msgspec.field(default_factory=list)
    samples: dict[int, Sample] = msgspec.field(default_factory=dict)


class Series(Struct):
    """All points, by instrument and attributes."""

    points: dict[str, dict[Attributes, SeriesPoint]] = msgspec.field(default_factory=dict)

    def add(self, value: Value) -> None:
        """Add one value."""
        instrument = value.instrument
        point = self.points.setdefault(instrument.name, {}).setdefault(value.attributes, SeriesPoint())
        point.total += round(value.value * NANO)
        if instrument.kind != "histogram":
            return
        if not point.counts:
            point.counts = [0] * (len(instrument.buckets) + 1)
        point.low = value.value if point.low is None else min(point.low, value.value)
        point.high = value.value if point.high is None else max(point.high, value.value)
        bucket = bisect_left(instrument.buckets, value.value)
        point.counts[bucket] += 1
        point.samples[bucket] = max(value.sample, point.samples.get(bucket, value.sample))
