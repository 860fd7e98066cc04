"""A real Prometheus scrapes a real `unpod consume metrics`: its rules, and every query of the dashboards."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from tests.compose.boards import queries
from tests.integration.consumers.process import consuming, free_port
from tests.pages import ROOT
from tests.unit.consumers.records import call_of, message

from unpod.core.dispatch_messages import QueuedAnnounced, RunnerAnnounced, encode
from unpod.core.events import (
    CallEnded,
    CallStarted,
    LLMCalled,
    OwnerAppointed,
    ReplayCompleted,
    TurnCompleted,
    TurnMetrics,
)
from unpod.core.traces import trace_id
from unpod.jetstream import JetStreamLog, Nats, connect, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer

pytestmark = [pytest.mark.prometheus]

RULES = ROOT / "compose" / "prometheus"
PATIENCE_S = 25.0
MACROS = {"$__rate_interval": "30s", "$__range": "5m", "$agent": ".*"}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: apt-get install prometheus")
    return found


def plain(expression: str) -> str:
    for macro, text in MACROS.items():
        expression = expression.replace(macro, text)
    return expression


# ---------------------------------------------------------------------------------------------------- without a fleet


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")],
)
async def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        tool("promtool"), *arguments, cwd=RULES, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


# ------------------------------------------------------------------------------------------------------ a whole chain


class Prometheus:
    """What the process answers."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        answer = await self._client.get(path, params=parameters)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    async def query(self, expression: str) -> list[float]:
        """Return the values of an instant query; it must be one that Prometheus can read."""
        found = await self.get("/api/v1/query", query=plain(expression))
        return [float(one["value"][1]) for one in found["result"]]

    async def up(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(httpx2.TransportError):
                    if (await self._client.get("/-/ready")).is_success:
                        return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def prometheus(program: str, directory: Path, target: int) -> AsyncIterator[Prometheus]:
    """Run the configuration of compose/, with this machine's port in place of the containers' and a quicker clock."""
    config = yaml.safe_load((RULES / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"}
    (job,) = config["scrape_configs"]
    assert job["static_configs"][0]["targets"][0] == "metrics:9464"
    job["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
    shutil.copy(RULES / "alerts.yaml", directory)
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
        stdout=sys.stderr,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            served = Prometheus(client)
            await served.up()
            yield served
    finally:
        process.terminate()
        await process.wait()


class Fleet:
    """Calls, and runners that say that they are there, for as long as they are wanted."""

    def __init__(self, nats: Nats, log: JetStreamLog) -> None:
        self._nats = nats
        self._log = log
        self.calls = 0

    async def run(self) -> None:
        while True:
            self.calls += 1
            await self._call(f"s{self.calls}")
            await self._announce()
            await asyncio.sleep(0.2)

    async def _call(self, session: str) -> None:
        bridge, owner = call_of(session)
        more = (
            message(session, "own", OwnerAppointed(runner="r1", waited_ms=20.0), 0, 0.0, epoch=8),
            message(session, "run", ReplayCompleted(duration_ms=30.0), 20, 6.0),
            message(session, "run", LLMCalled(turn_id=3, model="m", provider="p", tokens_in=3, cost=0.01), 21, 7.0),
            message(session, "evt", TurnMetrics(turn_id=3, ttfa_ms=600.0, tts_ttfb_ms=90.0), len(bridge), 7.5),
            message(session, "run", TurnCompleted(turn_id=3, ttfa_ms=600.0, tts_ttfb_ms=90.0), 22, 8.0),
            message(f"{session}-lost", "evt", CallStarted(session_id=f"{session}-lost"), 1, 0.0),
            message(f"{session}-lost", "evt", CallEnded(reason="lost"), 2, 3.0),
        )
        for one in (*bridge, *owner, *more):
            await self._log.append(one.subject, one.data, one.headers)
        # A record that nobody can read is parked.
        poison = {**bridge[0].headers, "Nats-Msg-Id": f"poison-{session}"}
        await self._log.append(bridge[0].subject, b"[" * 100_000, poison)

    async def _announce(self) -> None:
        runner = RunnerAnnounced(runner="r1", agent="support", capacity=8, in_flight=3)
        await self._nats.publish("unpod.runners", encode(runner))
        queued = QueuedAnnounced(bridge="b", agent="support", count=2)
        await self._nats.publish("unpod.dispatch.support.queued", encode(queued))


@pytest.fixture
def program() -> str:
    return tool("prometheus")


@pytest.fixture
async def fleet(program: str, tmp_path: Path) -> AsyncIterator[tuple[str, Fleet]]:
    async with (
        EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server,
        connect(server.connection("test")) as nats,
    ):
        made = Fleet(nats, await open_log(nats, topology(max_bytes=64 * MIB).calls))
        task = asyncio.create_task(made.run())
        try:
            yield server.url, made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_rules_and_every_query_of_the_dashboards(
    program: str, fleet: tuple[str, Fleet], tmp_path: Path
) -> None:
    url, made = fleet
    port = free_port()
    async with consuming(url, OTEL_EXPORTER_PROMETHEUS_PORT=str(port)), prometheus(program, tmp_path, port) as served:
        await _every_query_has_data(served)
        await _rules_are_healthy(served)
        await _exemplars_lead_to_calls(served, made)


async def _every_query_has_data(served: Prometheus) -> None:
    """Return once each has a figure: all that the panels are of is written all the time."""
    wanted = queries()
    assert len(wanted) > 30
    try:
        async with asyncio.timeout(PATIENCE_S):
            while wanted:
                wanted = [(title, expr) for title, expr in wanted if not any(map(isfinite, await served.query(expr)))]
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"these show nothing: {wanted}")


async def _rules_are_healthy(served: Prometheus) -> None:
    """Return once Prometheus has looked at each rule; those that come at once are the ones that must."""
    comes = {"CallsAreUnanswered", "CallsEndBadly", "ConsumerAbsent"}  # traces and analytics do not run here
    async with asyncio.timeout(PATIENCE_S):
        while True:
            groups = (await served.get("/api/v1/rules"))["groups"]
            rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
            if comes <= {name for name, rule in rules.items() if rule["state"] != "inactive"}:
                break
            await asyncio.sleep(0.2)
    assert {rule["health"] for rule in rules.values()} == {"ok"}, rules
    assert rules["FleetIsNearlyFull"]["state"] == rules["FirstAudioIsSlow"]["state"] == "inactive"


async def _exemplars_lead_to_calls(served: Prometheus, made: Fleet) -> None:
    found = await served.get(
        "/api/v1/query_exemplars",
        query="unpod_turn_e2e_latency_seconds_bucket",
        start="0",
        end="99999999999",
    )
    traces = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert traces
    assert traces <= {trace_id(f"s{number}") for number in range(1, made.calls + 1)}
