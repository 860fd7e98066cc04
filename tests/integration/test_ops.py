"""What operators look at: `nats micro` discovery, the endpoints, and health over HTTP; of real runners and bridges."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.faults.process import Process, eventually, start
from tests.faults.stack import Setup, Stack, stack
from tests.integration.runner_rig import until

from unpod.errors import ConfigurationError
from unpod.jetstream import Nats, connect, embedded_topology, ensure
from unpod.ops import Endpoint, HealthServer, MicroService, health_port
from unpod.ops.micro import page
from unpod.processes import EmbeddedOptions, EmbeddedServer


async def everyone(nats: Nats, verb: str, count: int) -> list[dict[str, Any]]:
    """Return who answers a discovery request, as the nats CLI collects it."""
    answers: list[dict[str, Any]] = []
    inbox = f"_INBOX.everyone-{time.monotonic_ns()}"
    subscription = await nats.subscribe(inbox, lambda message: answers.append(json.loads(message.data)))
    nats.send(f"$SRV.{verb}", b"", reply=inbox)
    await until(lambda: len(answers) >= count)
    await subscription.close()
    return answers


async def asked(nats: Nats, subject: str, request: bytes = b"") -> Any:  # noqa: ANN401 - JSON
    return json.loads((await nats.request(subject, request, timeout_s=5)).data)


def health_of(process: Process) -> str:
    found = re.search(r"health is told on port (\d+)", process.text)
    assert found is not None, process.text
    return f"http://127.0.0.1:{found[1]}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Stack]:
    health = {"UNPOD_HEALTH_PORT": "0"}
    async with stack(tmp_path, Setup(runners=2, bridges=1, runner_env=health, bridge_env=health)) as made:
        yield made


async def test_runners_and_bridges_are_micro_services(world: Stack) -> None:
    call = await world.orchestrator.place_call("agent")
    await call.connected()
    await call.user("hello")
    await call.reply()
    pings = await everyone(world.nats, "PING", 3)
    assert sorted(ping["name"] for ping in pings) == ["unpod-bridge", "unpod-runner", "unpod-runner"]
    assert {ping["type"] for ping in pings} == {"io.nats.micro.v1.ping_response"}
    assert {ping["id"] for ping in pings} == {process.id for process in (*world.runners, *world.bridges)}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+.*", ping["version"]) for ping in pings)
    infos = await everyone(world.nats, "INFO.unpod-runner", 2)
    for info in infos:
        assert info["metadata"] == {"agent": "agent", "dev": "false"}
        assert [each["name"] for each in info["endpoints"]] == ["stats", "sessions", "drain"]
    stats = await everyone(world.nats, "STATS.unpod-runner", 2)
    for told in stats:
        endpoint = next(each for each in told["endpoints"] if each["name"] == "stats")
        assert endpoint["data"] == await asked(world.nats, f"unpod.runner.{told['id']}.stats")
        assert set(endpoint["data"]) == {
            "in_flight", "queued", "capacity", "completed_last_hour", "failed_last_hour", "mean_call_duration_s",
        }  # fmt: skip
    assert sum(told["endpoints"][0]["data"]["in_flight"] for told in stats) == 1
    (bridge,) = world.bridges
    (told,) = await everyone(world.nats, f"STATS.unpod-bridge.{bridge.id}", 1)
    assert told["endpoints"][0]["data"]["calls"] == 1
    at_bridge = await asked(world.nats, f"unpod.bridge.{bridge.id}.sessions")
    (item,) = at_bridge["items"]
    assert item["session"] == call.session_id
    owner = await world.owner(call.session_id)
    assert owner is not None
    (mine,) = (await asked(world.nats, f"unpod.runner.{owner.id}.sessions"))["items"]
    assert (mine["session"], mine["bridge"], mine["replaying"]) == (call.session_id, bridge.id, False)
    await call.hang_up()


async def test_health_and_a_drain_asked_for_over_nats(world: Stack) -> None:
    runner, bridge = world.runners[0], world.bridges[0]
    async with httpx2.AsyncClient() as http:
        for process in (runner, bridge):
            for path in ("/healthz", "/readyz"):
                answer = await http.get(health_of(process) + path)
                assert answer.status_code == 200, answer.text
            assert (await http.get(health_of(process) + "/")).status_code == 404
        runner.freeze()  # a process that does not run answers nobody
        with pytest.raises(httpx2.TimeoutException):
            await http.get(health_of(runner) + "/healthz", timeout=0.3)
        runner.thaw()
        await world.server.down()
        await becomes(http, bridge, 503, "no connection to NATS")
        await becomes(http, runner, 503, "no connection to NATS")
        assert (await http.get(health_of(runner) + "/healthz")).status_code == 200
        await world.server.up()
        await becomes(http, runner, 200)
        await world.nats.flush(timeout_s=10)  # our own connection is back, too
        assert (await asked(world.nats, f"unpod.runner.{runner.id}.drain")) == {"draining": True}
    assert await runner.exited() == 0


async def becomes(http: httpx2.AsyncClient, process: Process, status: int, why: str = "") -> None:
    async def there() -> bool:
        answer = await http.get(health_of(process) + "/readyz")
        return answer.status_code == status and why in str(answer.json()["missing"])

    await eventually(there, f"{process.label} answers {status} {why}")


async def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    taken = HealthServer(0, list)
    taken.open()
    try:
        async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
            async with connect(server.connection()) as nats:
                streams = embedded_topology()
                await ensure(nats, streams.calls, streams.jobs)
            settings = {"UNPOD_NATS_URL": server.url, "UNPOD_API_KEY": "k", "UNPOD_HEALTH_PORT": str(taken.port)}
            for module in ("unpod_bridge", "tests.faults.agent"):
                process = await start(module, module, tmp_path / f"{module}.log", settings)
                assert await process.exited() in (1, 2)
                assert f"UNPOD_HEALTH_PORT: port {taken.port} cannot be listened on" in process.text
    finally:
        await taken.close()


async def test_an_event_loop_that_stands_still_is_told() -> None:
    health = HealthServer(0, list, stuck_s=0.3)
    health.open()

    def until_stuck() -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{health.port}") as http:
            while http.get("/healthz").status_code != 503:
                time.sleep(0.02)

    try:
        asking = asyncio.create_task(asyncio.to_thread(until_stuck))
        async with asyncio.timeout(20):
            while not asking.done():
                time.sleep(0.6)  # noqa: ASYNC251 - this is what is looked for
                await asyncio.sleep(0.05)
        await asking
    finally:
        await health.close()


@pytest.mark.parametrize("text", ["no", "-1", "70000", "1.5"])
def test_a_port_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_HEALTH_PORT"):
        health_port({"UNPOD_HEALTH_PORT": text})
    assert health_port({}) is None


async def test_an_endpoint_that_fails_says_so_and_counts(world: Stack) -> None:
    def fail(_: bytes) -> object:
        raise RuntimeError("with a secret in its text")

    endpoints = [
        Endpoint("bad", "test.bad", fail),
        Endpoint("list", "test.list", lambda request: page(list(range(10)), request)),
    ]
    service = MicroService(
        world.nats, name="test", instance="t1", version="1.0.0", description="", metadata={}, endpoints=endpoints
    )
    await service.open()
    answer = await world.nats.request("test.bad", b"", timeout_s=5)
    assert (answer.headers["Nats-Service-Error"], answer.headers["Nats-Service-Error-Code"]) == ("RuntimeError", "400")
    assert (await asked(world.nats, "test.list", b'{"offset": 8}'))["items"] == [8, 9]
    (told,) = await everyone(world.nats, "STATS.test.t1", 1)
    bad = told["endpoints"][0]
    assert (bad["num_requests"], bad["num_errors"], bad["last_error"]) == (1, 1, "RuntimeError")
    await service.close()
