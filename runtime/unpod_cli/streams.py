"""`unpod streams init|check`: the streams of a fleet, created where they are missing, compared where they are there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.text import Text

from unpod.core.subjects import DEFAULT_PREFIX
from unpod.errors import ConfigurationError
from unpod.jetstream import (
    Difference,
    Nats,
    NatsOptions,
    StreamSpec,
    checkpoints,
    connect,
    differences,
    ensure,
    nats_options,
    parse_size,
    readable_size,
    stream_settings,
)
from unpod.jetstream.streams.topology import info
from unpod_cli import loop
from unpod_cli.console import make_console
from unpod_cli.failure import FAILED
from unpod_cli.layout import Cell, Columns

_NAME: Final = "unpod streams"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says; None where it says nothing."""

    nats_url: str | None
    replicas: str | None
    size: str | None
    create: bool


@dataclass(frozen=True, slots=True)
class StreamsReport:
    """What has been found: the configuration of each stream that is there, and who has been made just now."""

    streams: Mapping[str, Mapping[str, Any]]
    created: frozenset[str]
    differences: list[Difference]


def environment() -> dict[str, str]:
    """Return the variables that are set to something."""
    return {name: value.strip() for name, value in os.environ.items() if value.strip()}


def connection(nats_url: str | None, found: Mapping[str, str]) -> NatsOptions:
    """Return how to connect to the fleet.

    Raises:
        ConfigurationError: nobody has said where.
    """
    options = nats_options(found, (nats_url or "").strip())
    if options is None:
        raise ConfigurationError("UNPOD_NATS_URL is not set: set it, or give --nats-url nats://host:4222")
    return replace(options, name=_NAME)


def run_streams(request: Request, *, as_json: bool) -> int:
    """Do what is asked, say what there is; return 1 where something differs."""
    report = loop.run(lambda: _streams(request))
    if as_json:
        print(json.dumps(_as_json(report), indent=2))
    else:
        _show(report)
    return FAILED if report.differences else 0


async def _streams(request: Request) -> StreamsReport:
    found = environment()
    settings = stream_settings(found)
    if request.size is not None:
        settings = replace(settings, max_bytes=parse_size(request.size, "--size"))
    if request.replicas is not None:
        settings = replace(settings, replicas=int(request.replicas))
    wanted = settings.topology(found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX))
    specs: tuple[StreamSpec, ...] = (wanted.calls, wanted.jobs)
    kept = checkpoints(wanted.calls)
    async with connect(connection(request.nats_url, found)) as nats:
        # Calls do without the consumers' bucket, so a fleet that has none yet is whole.
        if request.create or await info(nats, kept.name) is not None:
            specs = (*specs, kept)
        before = await _there(nats, specs)
        if request.create:
            await ensure(nats, *specs)
        there = await _there(nats, specs)
        return StreamsReport(there, frozenset(there) - frozenset(before), await differences(nats, settings, *specs))


async def _there(nats: Nats, specs: tuple[StreamSpec, ...]) -> dict[str, Mapping[str, Any]]:
    answers = {spec.name: await info(nats, spec.name) for spec in specs}
    return {name: answer["config"] for name, answer in answers.items() if answer is not None}


def _as_json(report: StreamsReport) -> dict[str, object]:
    return {
        "ok": not report.differences,
        "streams": [
            {
                "name": name,
                "created": name in report.created,
                "max_bytes": config.get("max_bytes"),
                "replicas": config.get("num_replicas"),
            }
            for name, config in report.streams.items()
        ],
        "differences": [
            {
                "stream": each.stream,
                "setting": each.setting,
                "found": each.found,
                "expected": each.expected,
                "fix": each.fix,
            }
            for each in report.differences
        ],
    }


def _show(report: StreamsReport) -> None:
    out = make_console()
    wrong = {each.stream for each in report.differences}
    rows: list[list[Cell]] = []
    for name, config in report.streams.items():
        how = "created" if name in report.created else "differs" if name in wrong else "as it must be"
        replicas = config.get("num_replicas", 1)
        size = readable_size(config["max_bytes"]) if config.get("max_bytes", -1) > 0 else "unbounded"
        kept = f"{size}, {replicas} replica{'s' if replicas != 1 else ''}"
        rows.append([name, Text(how, style="yellow" if name in wrong else "green"), kept])
    if rows:
        out.print(Columns(rows))
    for each in report.differences:
        out.print(f"{each}\n  fix: {each.fix}")
