"""What the exporters show: all points as of one checkpoint, and what is derived from them."""

from __future__ import annotations

from copy import deepcopy

from msgspec import Struct

from unpod_consumers.projections import instruments
from unpod_consumers.projections.instruments import DERIVED, LAG, Instrument
from unpod_consumers.projections.metrics import MetricsTotals, active
from unpod_consumers.projections.series import NANO, Attributes, SeriesPoint


class Snapshot(Struct, frozen=True):
    """Points by instrument; `since_ns` is when counting began, `at_ns` the log's newest time."""

    points: tuple[tuple[Instrument, tuple[tuple[Attributes, SeriesPoint], ...]], ...]
    since_ns: int
    at_ns: int


def snapshot(state: MetricsTotals, lag: int) -> Snapshot:
    """Return a copy of the state's points, in an order that is always the same."""
    points = {name: dict(found) for name, found in state.series.points.items()}
    points[instruments.ACTIVE.name] = {
        (("gen_ai.agent.id", agent),): SeriesPoint(count * NANO) for agent, count in active(state).items()
    }
    rows = tuple((one, tuple(sorted(deepcopy(points.get(one.name, {})).items()))) for one in DERIVED)
    lagging = (LAG, (((("consumer", "metrics"),), SeriesPoint(lag * NANO)),))
    return Snapshot((*rows, lagging), round(state.since * NANO), round(state.time * NANO))
