"""A disk that is full under nats-server: it answers pings, and acknowledges nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.faults.process import Process, until
from tests.faults.stack import Setup, Stack, stack
from tests.integration.test_ops import becomes
from tests.small_disk import NOT_HERE, can_mount

from unpod_cli.nats_checks import look_at_nats
from unpod_orchestrator import CallRefused

pytestmark = [pytest.mark.skipif(not can_mount(), reason=NOT_HERE)]

HEALTH = {"UNPOD_HEALTH_PORT": "0"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Stack]:
    setup = Setup(runners=1, bridges=1, runner_env=HEALTH, bridge_env=HEALTH, disk_mb=48, max_mb=64)
    async with stack(tmp_path, setup) as made:
        yield made


async def doctor(world: Stack) -> dict[str, tuple[str, str]]:
    return {each.name: (each.status, each.fix) for each in await look_at_nats({}, world.server.url, "")}


async def told_once(process: Process, text: str) -> None:
    await until(lambda: text in process.text, f"{process.label} says {text!r}")
    assert process.text.count(text) == 1


async def test_it_is_seen_and_told_and_the_runbook_mends_it(world: Stack) -> None:
    runner, bridge = world.runners[0], world.bridges[0]
    assert (await doctor(world))["write"][0] == "ok"
    assert not [m async for m in world.log.read("unpod.call.doctor.>")]  # it takes away what it writes
    calls = [await world.orchestrator.place_call("agent") for _ in range(3)]
    for number, call in enumerate(calls, 1):
        await call.connected()
        await call.user(f"call {number} turn 1: say")
        assert f"c{number}t1w8" in await call.reply()
    world.disk.fill()
    for number, call in enumerate(calls, 1):  # whoever has nothing to store cannot know
        await call.user(f"call {number} turn 2: say")
    async with httpx.AsyncClient() as http:
        for process in (bridge, runner):
            await becomes(http, process, 503, "the event log acknowledges nothing")
            await told_once(process, "is the disk of nats-server full?")
        status, fix = (await doctor(world))["write"]
        assert status == "wrong"
        assert "start it again" in fix
        with pytest.raises(CallRefused, match="at_capacity"):
            await world.orchestrator.place_call("agent")
        world.disk.free()
        await world.server.restart()
        for process in (bridge, runner):
            await becomes(http, process, 200)
            await told_once(process, "acknowledges again")
    assert (await doctor(world))["write"][0] == "ok"
    for number, call in enumerate(calls, 1):
        await call.user(f"call {number} turn 3: say")
        while f"c{number}t3w8" not in await call.reply():
            pass
        await call.hang_up()
