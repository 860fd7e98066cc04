"""Faults of bridges: rows 11 to 15, and 39."""

from __future__ import annotations

import asyncio

from tests.faults.load import PATIENCE_S, Caller
from tests.faults.scene import Scene

from unpod.core import events as ev


async def killed(scene: Scene) -> None:
    """SIGKILL between two frames."""
    victim = await scene.a_bridge()
    await scene.some_words()
    scene.mark()
    await scene.kill(victim)


async def killed_with_a_runner(scene: Scene) -> None:
    """SIGKILL a bridge and a runner at once."""
    bridge, runner = await scene.a_bridge(), await scene.a_runner()
    await scene.some_words()
    scene.mark()
    await asyncio.gather(scene.kill(bridge), scene.kill(runner))


async def dies_at_its_failpoint(scene: Scene) -> None:
    """Each call is transferred, once; the first bridge kills itself where it was told to."""
    scene.load.orders = lambda _, turn: frozenset({"transfer"} if turn == 3 else ())
    await scene.dead(scene.stack.bridges[0])
    scene.mark()


async def what_was_claimed_is_unknown(scene: Scene) -> None:
    """A transfer that was claimed and not confirmed is reported unknown, and came at most once; the others came."""
    unknown = 0
    for caller in scene.load.callers:
        outcomes = await _outcomes(scene, caller)
        came = sum(frame.event == "agent.transfer" for frame in caller.call.frames)
        unknown += "unknown" in outcomes
        scene.expect(came <= 1, f"call {caller.number} was transferred {came} times")
        scene.expect(outcomes[-1:] in (["delivered"], ["unknown"], []), f"call {caller.number}: {outcomes}")
        if outcomes[-1:] == ["delivered"]:
            scene.expect(came == 1, f"call {caller.number}: delivered, and never came")
        if scene.stack.setup.bridge_failpoint == "line.claim_stored" and "unknown" in outcomes:
            scene.expect(came == 0, f"call {caller.number}: the bridge died before the write, and it came")
    scene.figures["unknown"] = unknown
    scene.expect(unknown >= 1, "no transfer is reported unknown")


async def _outcomes(scene: Scene, caller: Caller) -> list[str]:
    return [
        record.body.outcome
        for record in await scene.stack.records(caller.session)
        if isinstance(record.body, ev.CommandAcknowledged) and record.body.verb == "transfer"
    ]


async def frozen_and_thawed(scene: Scene) -> None:
    """SIGSTOP for a while, SIGCONT; each call has one socket then."""
    victim = await scene.a_bridge()
    await scene.some_words()
    victim.freeze()
    await asyncio.sleep(scene.bounds.frozen_s)
    victim.thaw()
    scene.mark()
    for caller in scene.load.callers:
        await caller.call.connected(PATIENCE_S)


async def rolling_restart(scene: Scene) -> None:
    """SIGTERM to each bridge in turn, with a new one there before."""
    for old in tuple(scene.stack.bridges):
        fresh = await scene.stack.start_bridge()
        await fresh.said("registered 'agent'")
        await scene.some_words()
        scene.expected_deaths.add(old)
        old.terminate()
        status = await old.exited(scene.bounds.limit(10.0))
        scene.expect(status == 0, f"{old!r} ended with {status}")
        scene.mark()
    scene.expect(len(scene.load.living) == len(scene.load.callers), "a call was dropped")
