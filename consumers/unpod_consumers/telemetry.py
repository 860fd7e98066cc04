"""What OpenTelemetry's variables ask of the telemetry, beside where it goes: honoured, or refused in clear words.

The exporters of the SDK read where to send, with which headers, certificates, compression and time-outs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from unpod.errors import ConfigurationError
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.projections.series import Attributes, SeriesPoint

if TYPE_CHECKING:
    from unpod_consumers.projections.snapshot import Snapshot

Protocol = Literal["grpc", "http/protobuf"]

CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_DISABLED: Final = "OTEL_SDK_DISABLED"
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_RATIO: Final = "OTEL_TRACES_SAMPLER_ARG"
_FILTER: Final = "OTEL_METRICS_EXEMPLAR_FILTER"
_BATCH: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_EVENTS: Final = "OTEL_SPAN_EVENT_COUNT_LIMIT"
_SPAN_LENGTH: Final = "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"
_LENGTH: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"

_ONLY: Final = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": (
        "cumulative",
        "a restart, or an export that did not arrive, would lose what was counted",
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "explicit_bucket_histogram",
        "dashboards and alerts rely on the buckets",
    ),
}

ExemplarFilter = Literal["always_on", "always_off", "trace_based"]


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """How the metrics are shown."""

    exemplars: ExemplarFilter = "trace_based"
    sampling: Sampling = Sampling()  # noqa: RUF009 - it never changes

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> MetricsSettings:
        """Return the settings.

        Raises:
            ConfigurationError: a variable asks for what cannot be done; the text names it.
        """
        found = _found(environment)
        for name, (only, why) in _ONLY.items():
            if found.get(name, only).lower() != only:
                raise ConfigurationError(f"{name} is {found[name][:40]!r}: unset it, only {only} is possible; {why}")
        text = found.get(_FILTER, "trace_based").lower()
        for known in ("always_on", "always_off", "trace_based"):
            if text == known:
                return cls(known, _sampling(found))
        raise ConfigurationError(f"{_FILTER} is {text[:40]!r}: give always_on, always_off or trace_based")

    def filtered(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot without the exemplars that are not wanted, or whose trace is not sent."""
        if self.exemplars == "always_on" or (self.exemplars == "trace_based" and self.sampling.ratio >= 1):
            return snapshot
        rows = tuple((one, tuple(self._without(points))) for one, points in snapshot.points)
        return replace(snapshot, points=rows)

    def _without(self, points: Sequence[tuple[Attributes, SeriesPoint]]) -> Iterator[tuple[Attributes, SeriesPoint]]:
        wanted = self.exemplars == "trace_based"
        for attributes, point in points:
            kept = {at: one for at, one in point.samples.items() if wanted and self.sampling.takes(one.trace)}
            yield attributes, replace(point, samples=kept)


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """How the traces are sent; `attribute_length` is in characters, None for no limit."""

    protocol: Protocol = "http/protobuf"
    content: bool = False
    sampling: Sampling = Sampling()  # noqa: RUF009 - it never changes
    batch: int = 512
    events: int = 128
    attribute_length: int | None = None

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> TraceSettings:
        """Return the settings.

        Raises:
            ConfigurationError: a variable asks for what cannot be done; the text names it.
        """
        found = _found(environment)
        exporter = found.get("OTEL_TRACES_EXPORTER", "otlp")
        if exporter != "otlp":
            raise ConfigurationError(
                f"OTEL_TRACES_EXPORTER is {exporter[:40]!r}: this process sends traces by otlp and does nothing else; "
                "unset it, or do not start this"
            )
        length = next((name for name in (_SPAN_LENGTH, _LENGTH) if name in found), None)
        return cls(
            protocol=protocol_of(found, "TRACES"),
            content=wants_content(found),
            sampling=_sampling(found),
            batch=_whole(found, _BATCH, 512, least=1),
            events=_whole(found, _EVENTS, 128),
            attribute_length=None if length is None else _whole(found, length, 0),
        )


def wants_content(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether what was said may go out."""
    return _found(environment).get(CAPTURE, "").lower() in {"true", "1"}


def protocol_of(found: Mapping[str, str], signal: Literal["TRACES", "METRICS"]) -> Protocol:
    """Return how a signal is sent; http/protobuf where nothing is said.

    Raises:
        ConfigurationError: it is neither grpc nor http/protobuf.
    """
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name = next((name for name in names if found.get(name, "").strip()), names[-1])
    text = found.get(name, "").strip() or "http/protobuf"
    if text == "grpc":
        return "grpc"
    if text == "http/protobuf":
        return "http/protobuf"
    raise ConfigurationError(f"{name} is {text[:40]!r}: give grpc or http/protobuf")


def _found(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Return what is set; a process that would do nothing is refused."""
    full = os.environ if environment is None else environment
    found = {name: value.strip() for name, value in full.items() if value.strip()}
    if found.get(_DISABLED, "").lower() == "true":
        raise ConfigurationError(
            f"{_DISABLED} is true, and telemetry is all that this process does: unset it here, or do not start this"
        )
    return found


def _sampling(found: Mapping[str, str]) -> Sampling:
    sampler = found.get(_SAMPLER, "parentbased_always_on").lower()
    match sampler.removeprefix("parentbased_"):  # a call is the root of its trace
        case "always_on":
            return Sampling(1.0)
        case "always_off":
            return Sampling(0.0)
        case "traceidratio":
            return Sampling(_share(found))
        case _:
            raise ConfigurationError(
                f"{_SAMPLER} is {sampler[:40]!r}: give always_on, always_off, traceidratio (with {_RATIO}), "
                "or one of them with parentbased_ before it"
            )


def _share(found: Mapping[str, str]) -> float:
    text = found.get(_RATIO, "1.0")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"{_RATIO} is {text[:40]!r}: give the share of the calls, from 0.0 to 1.0")
    return share


def _whole(found: Mapping[str, str], name: str, default: int, *, least: int = 0) -> int:
    text = found.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigurationError(f"{name} is {text[:40]!r}: give a whole number, {least} or more")
    return int(text)
