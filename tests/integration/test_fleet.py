"""A whole fleet: three NATS nodes, two bridges, four runners, and calls on all of them at once.

`FLEET_CALLS=200` makes it as large as it is meant to be; by default it is as large as a shared machine allows.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.faults.checks import Allow, look
from tests.faults.load import Load, load
from tests.faults.process import eventually
from tests.faults.stack import Setup, Stack, stack

from unpod import AsyncClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

RUNNERS, BRIDGES = 4, 2
EACH = -(-int(os.environ.get("FLEET_CALLS", "16")) // RUNNERS)
CALLS = RUNNERS * EACH
PER_S = 100
THINK_S = CALLS / 50
"""How long a caller may think: some 50 to 100 questions a second come from all of them, however many they are."""
FLEET = Setup(
    cluster=True,
    runners=RUNNERS,
    bridges=BRIDGES,
    runner_env={"UNPOD_FAULTS_CAPACITY": str(EACH), "UNPOD_FAULTS_DRAIN_S": "1"},
)


async def asked(world: Stack, subject: str) -> dict[str, Any]:
    answer = await world.nats.request(subject, b"", timeout_s=5)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def registered(world: Stack) -> list[int]:
    """Return the capacity that each bridge has told the orchestrator."""
    found: list[int] = []
    for bridge in world.bridges:
        stats = await asked(world, f"unpod.bridge.{bridge.id}.stats")
        found.append(stats["agents"]["agent"]["registered_capacity"])
    return found


async def finished(world: Stack, talking: Load, allow: Allow) -> None:
    """Every call comes to its end, and nothing of it is lost or repeated."""
    await talking.finish()
    await world.closed([caller.session for caller in talking.callers])
    for caller in talking.callers:
        assert caller.call.outcome is not None
        assert caller.call.outcome.reason == "hangup"
        findings = look(caller, await world.records(caller.session), allow)
        assert not findings, str(findings)


async def controls(world: Stack, talking: Load, count: int) -> None:
    """Say things on all calls from outside, 100 a second; each is answered, and nothing is said twice."""
    async with AsyncClient(nats_url=world.cluster.url) as client:

        async def say(number: int) -> None:
            caller = talking.callers[number % len(talking.callers)]
            await client.sessions.say(caller.session, f"from outside {number}", command_id=f"outside-{number}")

        sending: list[asyncio.Task[None]] = []
        for number in range(count):
            sending.append(asyncio.create_task(say(number)))
            await asyncio.sleep(1 / PER_S)
        await asyncio.gather(*sending)  # one that was refused, or not answered, raises
    said = Counter(frame.raw.get("text") for caller in talking.callers for frame in caller.call.frames)
    assert {said[f"from outside {number}"] for number in range(count)} == {1}


async def test_a_fleet_registers_what_it_has_and_fills_the_runners_with_room(tmp_path: Path) -> None:
    rng = random.Random(1)  # noqa: S311 - a schedule that can be run again
    async with stack(tmp_path, FLEET) as world, load(world.orchestrator, rng, pause_s=THINK_S) as talking:

        async def whole() -> bool:
            return await registered(world) == [CALLS // BRIDGES] * BRIDGES

        await eventually(whole, "the bridges register the fleet's capacity between them")
        for worker in world.orchestrator.workers:  # other tests give each more room than it has
            worker.capabilities = replace(worker.capabilities, max_concurrent=CALLS // BRIDGES)
        await talking.dial(CALLS)

        async def full() -> bool:
            stats = [await asked(world, f"unpod.runner.{runner.id}.stats") for runner in world.runners]
            return [each["in_flight"] for each in stats] == [each["capacity"] for each in stats] == [EACH] * RUNNERS

        await eventually(full, "every runner has as many calls as it has room for")
        await talking.begin()
        await asyncio.gather(controls(world, talking, 3 * CALLS), talking.answers(2))
        await finished(world, talking, Allow())
