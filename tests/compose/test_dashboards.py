"""The dashboards against Grafana's own models, what is provisioned, and the metrics that there are."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.compose.boards import boards, exposed, queries
from tests.pages import ROOT

from unpod_consumers.projections.instruments import DERIVED, FLEET, LAG

GRAFANA = ROOT / "compose" / "grafana"
INSTRUMENTS = (*DERIVED, *FLEET, LAG)
NAME = re.compile(r"\b(?:unpod|gen_ai_client)_\w+")
BOARDS = boards()

register_default_plugins()


def lost(given: object, kept: object, path: str = "") -> Iterator[str]:
    """Yield where Grafana's models have not kept what they were given: names that they do not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for place, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif given != kept:
        yield path


def through_grafana(board: dict[str, Any]) -> object:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(copy.deepcopy(board))))


def sources() -> dict[str, dict[str, Any]]:
    file = GRAFANA / "provisioning" / "datasources" / "datasources.yaml"
    return {one["uid"]: one for one in yaml.safe_load(file.read_text())["datasources"]}


def used(node: object) -> Iterator[dict[str, str]]:
    """Yield every data source that is named anywhere in a dashboard."""
    if isinstance(node, dict):
        if isinstance(node.get("datasource"), dict):
            yield node["datasource"]
        for value in node.values():
            yield from used(value)
    elif isinstance(node, list):
        for value in node:
            yield from used(value)


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_knows_every_field(name: str) -> None:
    assert list(lost(BOARDS[name], through_grafana(BOARDS[name]))) == []


def test_a_field_that_grafana_does_not_know_would_be_found() -> None:
    board = copy.deepcopy(BOARDS["fleet.json"])
    heatmap = next(number for number, panel in enumerate(board["panels"]) if panel["type"] == "heatmap")
    board["panels"][heatmap]["options"]["yAxes"] = {}
    board["panels"][heatmap]["targets"][0]["legend"] = "x"
    assert list(lost(board, through_grafana(board))) == [
        f".panels[{heatmap}].targets[0].legend",
        f".panels[{heatmap}].options.yAxes",
    ]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_ids_and_places_of_their_own(name: str) -> None:
    panels = BOARDS[name]["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", BOARDS)
def test_every_data_source_is_provisioned(name: str) -> None:
    provisioned = {uid: one["type"] for uid, one in sources().items()}
    for source in used(BOARDS[name]):
        assert provisioned[source["uid"]] == source["type"]


def test_links_lead_to_dashboards_and_variables_that_there_are() -> None:
    variables = {board["uid"]: {one["name"] for one in board["templating"]["list"]} for board in BOARDS.values()}
    text = json.dumps(BOARDS) + (GRAFANA / "provisioning" / "datasources" / "datasources.yaml").read_text()
    links = re.findall(r"/d/([\w-]+)((?:[?&][^\"\s]*)?)", text)
    assert {uid for uid, _ in links} == set(variables)
    for uid, rest in links:
        assert set(re.findall(r"var-(\w+)=", rest)) <= variables[uid]
    prometheus = sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert {one["name"] for one in prometheus} == {"trace_id"}
    assert {one["datasourceUid"] for one in prometheus if "datasourceUid" in one} <= set(sources())


def test_dashboards_and_alerts_name_only_metrics_that_there_are_and_leave_none_out() -> None:
    rules = yaml.safe_load((ROOT / "compose" / "prometheus" / "alerts.yaml").read_text())["groups"]
    expressions = [expr for _, expr in queries()] + [rule["expr"] for group in rules for rule in group["rules"]]
    named = {name for expression in expressions for name in NAME.findall(expression)} - {"unpod_runner"}
    there = set[str]().union(*(exposed(one) for one in INSTRUMENTS)) | {"unpod_calls_active"}
    assert named <= there
    assert [one.name for one in INSTRUMENTS if not exposed(one) & named] == []


def test_every_alert_has_a_runbook_with_a_command_and_is_tested() -> None:
    folder = ROOT / "compose" / "prometheus"
    rules = [
        rule for group in yaml.safe_load((folder / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    tests = (folder / "alerts.test.yaml").read_text()
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert re.search(r"`(unpod|nats) [^`]+`", rule["annotations"]["runbook"]), rule["alert"]
        assert f'alertname="{rule["alert"]}"' in tests
