"""What the benchmark of the consumers writes is what bridges and owners write: all three make something of it."""

from __future__ import annotations

from msgspec.structs import replace
from tests.benchmarks.consumers import projected, whole_call
from tests.unit.consumers.records import AGENT, SUBJECTS

from unpod.core import codec
from unpod_consumers.metrics import MetricsProjection
from unpod_consumers.projections.traces import spans_of_log


def test_each_record_counts() -> None:
    messages = [replace(one, seq=seq) for seq, one in enumerate(whole_call("s", 3), 1)]
    metrics = MetricsProjection(SUBJECTS)
    for one in messages:
        metrics.take(one)
    metrics.publish(0)
    assert metrics.shown is not None
    counts = {
        instrument.name: sum(sum(point.counts) or point.total // 10**9 for _, point in points)
        for instrument, points in metrics.shown.points
    }
    assert counts["unpod.calls"] == 1
    assert counts["unpod.turn.e2e_latency"] == counts["gen_ai.client.operation.duration"] == 3
    records = [codec.read(SUBJECTS, one.subject, one.headers, one.data, one.seq) for one in messages]
    names = [span.name for span in spans_of_log("s", AGENT, records)]
    assert names.count("turn") == names.count("text_to_speech") == names.count("chat m") == 3
    assert names.count("conversation") == 1


def test_all_three_are_measured() -> None:
    assert all(figures["projected_per_s"] > 0 for figures in projected(500).values())
