"""The fleet of compose.yaml without containers: its commands, variables and NATS configuration, as processes here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import duckdb
import pytest
from tests.cluster import free_ports
from tests.compose.here import Fleet, nats
from tests.integration.consumers.collector import Received
from tests.integration.consumers.collector import over_grpc as metrics_over_grpc
from tests.integration.consumers.process import Consumer
from tests.integration.consumers.span_collector import Spans
from tests.integration.consumers.span_collector import over_grpc as spans_over_grpc

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CALLS = 6
SPEED = ("--speed", "20")
PATIENCE_S = 50.0


@pytest.mark.slow
async def test_calls_are_taken_and_end_up_in_metrics_traces_and_rows(tmp_path: Path) -> None:
    spans, metrics = Spans(), Received()
    (orchestrator,) = free_ports(1)
    async with asyncio.timeout(PATIENCE_S), nats(tmp_path) as nodes:
        hosts = {
            **{f"{node}:4222": f"127.0.0.1:{port}" for node, port in nodes.items()},
            "orchestrator:9000": f"127.0.0.1:{orchestrator}",
            "9000": str(orchestrator),
            "0.0.0.0": "127.0.0.1",  # noqa: S104
            "/data": str(tmp_path),
        }
        with spans_over_grpc(spans) as to_spans, metrics_over_grpc(metrics) as to_metrics:
            fleet = Fleet(tmp_path, hosts)
            try:
                await _up(fleet, to_spans, to_metrics)
                callers = await fleet.start("load", *SPEED, "--calls", str(CALLS), "--calls-per-minute", "600")
                assert await callers.wait() == 0
                await _arrived(fleet, spans, metrics, tmp_path / "analytics")
            finally:
                await fleet.stop()


async def _up(fleet: Fleet, to_spans: str, to_metrics: str) -> None:
    while await (await fleet.start("streams")).wait() != 0:  # noqa: ASYNC110 - as `restart: on-failure` does
        await asyncio.sleep(0.2)
    await fleet.start("orchestrator", "--advertise", "127.0.0.1", *SPEED)
    for name in ("bridge-1", "bridge-2", "runner-1", "runner-2"):
        await fleet.start(name)
    fleet.hosts["http://collector:4317"] = to_metrics
    await fleet.start("metrics", OTEL_METRIC_EXPORT_INTERVAL="500")
    fleet.hosts["http://collector:4317"] = to_spans
    await fleet.start("traces")
    await fleet.start("analytics", "--every", "0.5")
    for name in ("bridge-1", "bridge-2", "runner-1", "runner-2", "metrics", "traces", "analytics"):
        await fleet.healthy(name)


async def _arrived(fleet: Fleet, spans: Spans, metrics: Received, rows: Path) -> None:
    await Consumer(fleet.process("metrics"), fleet.port("metrics")).until("unpod_calls_total", CALLS)
    while len({span for span in spans.ids() if span[2] == "conversation"}) < CALLS:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.1)
    while _count(rows, "calls") < CALLS:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    found: dict[str, float] = {}
    heard = 0  # turns; what the callers do is chance, but two consumers must come to agree on it
    while not heard or found.get("unpod_turn_e2e_latency_seconds_count") != heard:
        heard = _count(rows, "turns", "ttfa_ms is not null")
        found = await Consumer(fleet.process("metrics"), fleet.port("metrics")).samples()
    assert found["unpod_model_cost_total"] > 0
    assert found["unpod_runner_capacity"] == 100
    while "unpod.calls" not in metrics.metrics():  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def _count(directory: Path, table: str, where: str = "true") -> int:
    files = f"{directory}/{table}/*/*.parquet"
    if not list(directory.glob(f"{table}/*/*.parquet")):
        return 0
    with duckdb.connect() as database:
        ((count,),) = database.sql(f"select count(*) from '{files}' where {where}").fetchall()  # noqa: S608
    return int(count)
