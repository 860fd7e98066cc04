"""Everything that a consumer reads from its environment, read once. A blank variable is an unset one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from unpod.core.subjects import DEFAULT_PREFIX, Subjects
from unpod.errors import ConfigurationError, UnsafeIdentifier
from unpod.jetstream import NatsOptions, nats_options
from unpod_consumers.telemetry import Protocol, protocol_of

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PORT: Final = "OTEL_EXPORTER_PROMETHEUS_PORT"
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """How a consumer runs; `otlp` is the protocol, None where no collector is named; port 0 is a free one."""

    nats: NatsOptions = field(repr=False)
    prefix: str = DEFAULT_PREFIX
    log_level: str = "INFO"
    otlp: Protocol | None = None
    otlp_interval_s: float = 60.0
    prometheus: bool = True
    serves_lag: bool = False
    """Whether traces and analytics serve their lag: where a port is named, for by default it is that of the metrics."""
    host: str = "localhost"
    port: int = 9464

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, *, nats_url: str | None = None) -> ConsumerConfig:
        """Return the configuration; an argument that is given wins over its variable.

        Raises:
            ConfigurationError: something is missing or cannot be used; the text names its variable.
        """
        full = os.environ if environment is None else environment
        found = {name: value.strip() for name, value in full.items() if value.strip()}
        prefix = found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX)
        try:
            Subjects(prefix)
        except UnsafeIdentifier as error:
            raise ConfigurationError(f"UNPOD_SUBJECT_PREFIX: {error}") from None
        exporters = _exporters(found)
        return cls(
            nats=_nats(found, (nats_url or "").strip()),
            prefix=prefix,
            log_level=found.get("UNPOD_LOG_LEVEL", "INFO").upper(),
            otlp=protocol_of(found, "METRICS") if "otlp" in exporters else None,
            otlp_interval_s=_number(found, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1_000,
            prometheus="prometheus" in exporters,
            serves_lag="prometheus" in exporters and _PORT in found,
            host=found.get("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost"),
            port=_port(found),
        )


def _exporters(found: Mapping[str, str]) -> frozenset[str]:
    """Return what `OTEL_METRICS_EXPORTER` names; else Prometheus, and OTLP where there is an endpoint to send to."""
    text = found.get("OTEL_METRICS_EXPORTER")
    if text is None:
        return frozenset({"prometheus", *(["otlp"] if any(name in found for name in _ENDPOINTS) else [])})
    names = frozenset(name.strip() for name in text.split(","))
    unknown = names - {"otlp", "prometheus", "none"}
    if unknown:
        raise ConfigurationError(
            f"OTEL_METRICS_EXPORTER is {text[:60]!r}: give otlp, prometheus, both with a comma, or none"
        )
    return names


def _number(found: Mapping[str, str], name: str, default: int) -> int:
    text = found.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise ConfigurationError(f"{name} is {text[:40]!r}: give milliseconds, a whole number over 0")
    return int(text)


def _port(found: Mapping[str, str]) -> int:
    text = found.get(_PORT, "9464")
    if not (text.isascii() and text.isdigit()) or int(text) > _MAX_PORT:
        raise ConfigurationError(f"OTEL_EXPORTER_PROMETHEUS_PORT is {text[:40]!r}: give a port, 0 for a free one")
    return int(text)


def _nats(found: Mapping[str, str], argument: str) -> NatsOptions:
    options = nats_options(found, argument)
    if options is None:
        raise ConfigurationError("UNPOD_NATS_URL is not set: export the URL of the NATS server that has the calls")
    variable = "--nats-url" if argument else options.variable
    return replace(options, name="unpod-consumer", variable=variable)
