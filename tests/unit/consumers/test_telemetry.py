from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.consumers.records import SUBJECTS, call_of

from unpod.core.traces import trace_id
from unpod.errors import ConfigurationError
from unpod_consumers.metrics import MetricsProjection
from unpod_consumers.projections.snapshot import Snapshot
from unpod_consumers.telemetry import MetricsSettings, TraceSettings


def snapshot_of(*sessions: str) -> Snapshot:
    projection = MetricsProjection(SUBJECTS)
    records = [one for session in sessions for side in call_of(session) for one in side]
    for seq, one in enumerate(records, 1):
        projection.take(replace(one, seq=seq))
    projection.publish(0)
    assert projection.shown is not None
    return projection.shown


def exemplars(snapshot: Snapshot) -> set[str]:
    return {one.trace for _, points in snapshot.points for _, point in points for one in point.samples.values()}


def test_nothing_said_is_all_of_it() -> None:
    settings = TraceSettings.from_env({})
    assert (settings.protocol, settings.content, settings.sampling.ratio) == ("http/protobuf", False, 1.0)
    assert (settings.batch, settings.events, settings.attribute_length) == (512, 128, None)
    snapshot = snapshot_of("s1")
    assert MetricsSettings.from_env({}).filtered(snapshot) is snapshot


def test_the_traces_own_variables_win() -> None:
    settings = TraceSettings.from_env(
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "True",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
            "OTEL_SPAN_EVENT_COUNT_LIMIT": "0",
        }
    )
    assert (settings.protocol, settings.content) == ("grpc", True)
    assert (settings.attribute_length, settings.batch, settings.events) == (20, 64, 0)


@pytest.mark.parametrize(
    ("sampler", "argument", "share"),
    [
        ("always_on", "", 1.0),
        ("always_off", "", 0.0),
        ("traceidratio", "0.25", 0.25),
        ("parentbased_traceidratio", "0.5", 0.5),
        ("parentbased_always_off", "", 0.0),
    ],
)
def test_a_sampler_lets_through_its_share_of_the_calls(sampler: str, argument: str, share: float) -> None:
    variables = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    sampling = TraceSettings.from_env(variables).sampling
    taken = [number for number in range(2_000) if sampling.takes(trace_id(f"s{number}"))]
    assert len(taken) / 2_000 == pytest.approx(share, abs=0.05)


def test_exemplars_lead_only_to_traces_that_are_sent() -> None:
    sessions = [f"s{number}" for number in range(40)]
    snapshot = snapshot_of(*sessions)
    half = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    settings = MetricsSettings.from_env(half)
    shown = exemplars(settings.filtered(snapshot))
    assert shown == {trace for trace in exemplars(snapshot) if settings.sampling.takes(trace)}
    every = MetricsSettings.from_env({**half, "OTEL_METRICS_EXEMPLAR_FILTER": "always_on"})
    assert every.filtered(snapshot) is snapshot
    none = MetricsSettings.from_env({"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"})
    assert not exemplars(none.filtered(snapshot))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
    ],
)
def test_what_metrics_cannot_do_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        MetricsSettings.from_env({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
    ],
)
def test_what_traces_cannot_do_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        TraceSettings.from_env({name: value})


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan", "half"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG"):
        TraceSettings.from_env({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share})
