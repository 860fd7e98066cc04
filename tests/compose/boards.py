"""The dashboards of compose/, and what they ask for."""

from __future__ import annotations

import json
from typing import Any

from tests.pages import ROOT

from unpod_consumers.projections.instruments import Instrument

FOLDER = ROOT / "compose" / "grafana" / "dashboards"


def boards() -> dict[str, dict[str, Any]]:
    """Return each dashboard under its file's name."""
    return {file.name: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


def queries() -> list[tuple[str, str]]:
    """Return every Prometheus query, with the title of its panel."""
    return [
        (panel["title"], target["expr"])
        for board in boards().values()
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == "prometheus"
    ]


def exposed(instrument: Instrument) -> set[str]:
    """Return the names of an instrument's series in Prometheus."""
    name = instrument.name.replace(".", "_") + ("_seconds" if instrument.unit == "s" else "")
    if instrument.kind == "histogram":
        return {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    return {f"{name}_total" if instrument.kind == "counter" else name}
