from __future__ import annotations

import pytest

from unpod.errors import ConfigurationError
from unpod_consumers.config import ConsumerConfig

NATS = {"UNPOD_NATS_URL": "nats://localhost:4222"}


def test_without_a_collector_there_is_the_endpoint_for_prometheus() -> None:
    config = ConsumerConfig.from_env(NATS)
    assert (config.otlp, config.prometheus, config.port) == (None, True, 9464)


def test_an_endpoint_turns_otlp_on() -> None:
    assert ConsumerConfig.from_env({**NATS, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}).otlp == "http/protobuf"
    settings = {**NATS, "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    config = ConsumerConfig.from_env(settings)
    assert (config.otlp, config.prometheus) == ("grpc", False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_METRICS_EXPORTER", "zipkin"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "99999"),
        ("UNPOD_SUBJECT_PREFIX", "a b"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ConsumerConfig.from_env({**NATS, name: value})


def test_a_wrong_protocol_is_named() -> None:
    settings = {**NATS, "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        ConsumerConfig.from_env(settings)


def test_without_nats_the_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_NATS_URL"):
        ConsumerConfig.from_env({})
