"""`unpod consume metrics` as a process of its own, between a real nats-server and real receivers."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.consumers.collector import Received, over_grpc, over_http
from tests.integration.consumers.process import consuming, from_start
from tests.unit.consumers.records import call_of

from unpod.core.dispatch_messages import QueuedAnnounced, RunnerAnnounced, encode
from unpod.jetstream import JetStreamLog, checkpoints, connect, open_jobs, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from unpod.jetstream import Nats
    from unpod.ports import Message


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        yield server


@pytest.fixture
async def nats(server: EmbeddedServer) -> AsyncIterator[Nats]:
    async with connect(server.connection("test")) as nats:
        yield nats


@pytest.fixture
async def log(nats: Nats) -> JetStreamLog:
    return await open_log(nats, topology(max_bytes=64 * MIB).calls)


async def write(log: JetStreamLog, *messages: Message) -> None:
    for one in messages:
        await log.append(one.subject, one.data, one.headers)


def both(session: str) -> list[Message]:
    bridge, owner = call_of(session)
    return [*bridge, *owner]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.02)


async def test_killed_in_mid_run_it_counts_nothing_twice_and_loses_nothing(
    server: EmbeddedServer, log: JetStreamLog
) -> None:
    total = 0
    for batch in range(3):
        async with consuming(server.url) as consumer:
            await write(log, *both(f"first-{batch}"))
            total += 1
            await consumer.until("unpod_calls_total", total)
            writing = asyncio.create_task(write(log, *(one for n in range(20) for one in both(f"{batch}-{n}"))))
            consumer.process.kill()
            await consumer.process.wait()
            await writing
            total += 20
    async with consuming(server.url) as consumer:
        found = await consumer.until("unpod_calls_total", total)
        assert found["unpod_turn_e2e_latency_seconds_count"] == 2 * total
        assert found["unpod_turn_interruptions_total"] == total
        assert found["unpod_takeovers_total"] == total
        assert found["unpod_calls_active"] == 0
        assert (await consumer.until("unpod_consumer_lag", 0))["unpod_calls_total"] == total


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_collector_gets_what_it_first_refused(server: EmbeddedServer, log: JetStreamLog, protocol: str) -> None:
    received = Received(refusals=2)
    await write(log, *both("s1"))
    with (over_grpc if protocol == "grpc" else over_http)(received) as endpoint:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        async with consuming(server.url, OTEL_SERVICE_NAME="unpod-test", **settings):
            await until(lambda: "unpod.calls" in received.metrics())
        calls = received.metrics()["unpod.calls"].sum.data_points[0]
    assert received.refused == 2
    assert calls.as_int == 1
    resource = received.requests[-1].resource_metrics[0].resource
    assert ("service.name", "unpod-test") in {(one.key, one.value.string_value) for one in resource.attributes}


async def test_poison_and_unknown_records_block_nothing(server: EmbeddedServer, nats: Nats, log: JetStreamLog) -> None:
    poison = both("s1")[0]
    await log.append(poison.subject, b"[" * 100_000, {**poison.headers, "Nats-Msg-Id": "poison"})
    await log.append("unpod.call.support.s1.evt.never.heard.of", b"{}", {})
    await write(log, *both("s1"))
    async with consuming(server.url) as consumer:
        found = await consumer.until("unpod_calls_total", 1)
    assert found["unpod_consumer_parked_total"] == 2
    store = await open_jobs(nats, checkpoints(log.spec))
    parked = [entry async for entry in store.entries() if entry.key.startswith("parked/metrics/")]
    assert [entry.key for entry in parked] == ["parked/metrics/1", "parked/metrics/2"]


async def test_nats_killed_and_back_only_delays(server: EmbeddedServer, log: JetStreamLog) -> None:
    await write(log, *both("s1"))
    async with consuming(server.url) as consumer:
        await consumer.until("unpod_calls_total", 1)
        await server.down(kill=True)
        await server.up()
        await write(log, *both("s2"))
        assert (await consumer.until("unpod_calls_total", 2))["unpod_turn_e2e_latency_seconds_count"] == 4


@pytest.mark.parametrize(("option", "calls"), [(("--from-start",), 2), (("--session", "s1"), 1)])
async def test_a_rewind_prints_what_the_log_gives(
    server: EmbeddedServer, log: JetStreamLog, option: tuple[str, ...], calls: int
) -> None:
    await write(log, *both("s1"), *both("s2"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "unpod_cli",
        "consume",
        "metrics",
        "--nats-url",
        server.url,
        *option,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    families = {one.name: one for one in text_string_to_metric_families(out.decode())}
    assert families["unpod_calls"].samples[0].value == calls


async def test_since_leaves_out_what_is_older(server: EmbeddedServer, log: JetStreamLog) -> None:
    await write(log, *both("s1"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "unpod_cli",
        "consume",
        "metrics",
        "--nats-url",
        server.url,
        "--since",
        "2999-01-01T00:00:00Z",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert "unpod_calls_total" not in out.decode()


async def test_what_runners_and_bridges_announce_is_shown(
    server: EmbeddedServer, nats: Nats, log: JetStreamLog
) -> None:
    await write(log, *both("s1"))
    async with consuming(server.url) as consumer:
        await consumer.until("unpod_calls_total", 1)
        runner = RunnerAnnounced(runner="r1", agent="support", capacity=8, in_flight=3, draining=True)
        async with asyncio.timeout(20):
            while (found := await consumer.samples()).get("unpod_runner_capacity") != 8:
                await nats.publish("unpod.runners", b"[" * 100_000)
                await nats.publish("unpod.runners", encode(runner))
                await nats.publish(
                    "unpod.dispatch.support.queued", encode(QueuedAnnounced(bridge="b", agent="support", count=2))
                )
                await asyncio.sleep(0.05)
        assert (found["unpod_runner_in_flight"], found["unpod_runner_draining"]) == (3, 1)
        assert (await consumer.until("unpod_runner_queued", 2))["unpod_runner_capacity"] == 8
        await nats.publish("unpod.runners", encode(replace(runner, gone=True)))
        await consumer.until("unpod_runner_capacity", None)


async def test_more_calls_than_fit_into_a_record_are_kept_in_parts(
    server: EmbeddedServer, nats: Nats, log: JetStreamLog
) -> None:
    spec = dataclasses.replace(checkpoints(log.spec), max_msg_size=4_096)
    store = await open_jobs(nats, spec)
    calls = 300
    await asyncio.gather(*(write(log, *both(f"3f2504e0-4f89-11d3-9a0c-{number:06d}")) for number in range(calls)))
    for _ in range(2):
        async with consuming(server.url) as consumer:
            await consumer.until("unpod_calls_total", calls)
            await write(log, *both(f"more-{calls}"))
            calls += 1
            await consumer.until("unpod_calls_total", calls)
            consumer.process.kill()
            await consumer.process.wait()
    keys = [key for key in await store.keys() if key.startswith("metrics/part/")]
    assert len(keys) > 4
    assert len({key.split("/")[2] for key in keys}) == 1  # what the first process left is gone
    assert (await from_start(server.url))["unpod_calls_total"] == calls
