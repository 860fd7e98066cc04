"""Controls that expire while the worker cannot be reached, and transfers that it refuses: rows 46 and 48."""

from __future__ import annotations

import asyncio

from tests.faults.load import PATIENCE_S, Caller
from tests.faults.scene import Act, Scene

from unpod import AsyncClient, ControlRefused
from unpod.core import events as ev
from unpod.core.controls import AnyControl, EndSession, InterruptAgent, SaySomething, TransferSession
from unpod.management.nats_sessions import FleetSessions

DEADLINE_S = 2.0
EVERY = 1_000_000
"""So many dials are refused until the worker can be reached again."""
LEAVING = frozenset({"agent.end_call", "agent.transfer"})


def expires(meanwhile: Act) -> Act:
    """Return an act: controls wait for a worker that cannot be reached until their deadline; `meanwhile` happens."""

    async def act(scene: Scene) -> None:
        await scene.some_words()
        callers = scene.load.living
        for caller in callers:
            caller.call.faults.refuse_upgrades = EVERY
            caller.call.drop()
        async with AsyncClient(nats_url=scene.stack.server.url) as client:
            asked = [asyncio.create_task(_ask(scene, client, caller)) for caller in callers]
            await meanwhile(scene)
            await asyncio.gather(*asked)
        scene.mark()
        for caller in callers:
            caller.call.faults.refuse_upgrades = 0
        await asyncio.gather(*(caller.call.connected(PATIENCE_S) for caller in callers))

    return act


async def _ask(scene: Scene, client: AsyncClient, caller: Caller) -> None:
    """Ask for two things at once, and be told of both that they were not done."""
    to = TransferSession(to_type="sip", to_config={"number": "+15550100"}, deadline_s=DEADLINE_S)
    ending = scene.rng.choice((EndSession(deadline_s=DEADLINE_S), to))
    beside: AnyControl = scene.rng.choice((InterruptAgent(deadline_s=DEADLINE_S), SaySomething(text="late"), to))
    for told in await asyncio.gather(*(_told(client, caller, control) for control in (ending, beside))):
        scene.expect(told != "applied", f"call {caller.number}: what came too late was done")


async def _told(client: AsyncClient, caller: Caller, control: AnyControl) -> str:
    sessions = client.sessions
    assert isinstance(sessions, FleetSessions)
    try:
        await sessions._send(caller.session, control, None)
    except ControlRefused as refusal:
        return refusal.outcome
    return "applied"


async def nothing_else(_: Scene) -> None:
    """Nothing but that the worker cannot be reached."""


async def a_runner_dies(scene: Scene) -> None:
    """SIGKILL a runner, so that others take its calls over."""
    await scene.kill(await scene.a_runner())


async def a_bridge_leaves(scene: Scene) -> None:
    """SIGTERM a bridge, which hands its calls over."""
    bridge = await scene.a_bridge()
    scene.expected_deaths.add(bridge)
    bridge.terminate()


async def a_bridge_dies(scene: Scene) -> None:
    """SIGKILL a bridge."""
    await scene.kill(await scene.a_bridge())


async def nobody_has_noticed(scene: Scene) -> None:
    """Each control was answered, none of them was done, and no call ended for it."""
    for caller in scene.load.callers:
        came = sorted(LEAVING & {frame.event for frame in caller.call.frames})
        scene.expect(not came, f"call {caller.number}: the worker got {came}")
        records = [record.body for record in await scene.stack.records(caller.session)]
        answers = [body for body in records if isinstance(body, ev.ControlAnswered)]
        admitted = {body.control for body in answers if body.outcome == "admitted"}
        failed = {body.control for body in answers if body.outcome == "failed"}
        scene.expect(admitted <= failed, f"call {caller.number}: {len(admitted - failed)} controls have no last answer")


async def transfers_are_refused(scene: Scene) -> None:
    """Each agent transfers its caller to what is no number; the worker says so to the caller, and nothing to us."""
    await scene.hush()
    callers = scene.load.living
    await asyncio.gather(*(caller.ask(frozenset({"refer"})) for caller in callers))
    for caller in callers:
        await caller.call.observed(
            lambda call: any(transfer.refused is not None for transfer in call.transfers),
            "a transfer that is refused",
            timeout_s=PATIENCE_S,
        )
    scene.mark()
    scene.go_on()


async def the_sessions_know(scene: Scene) -> None:
    """Each transfer has the receipt `refused`, and the `error` hook was told, once."""
    for caller in scene.load.callers:
        records = [record.body for record in await scene.stack.records(caller.session)]
        receipts = [
            body.outcome for body in records if isinstance(body, ev.CommandAcknowledged) and body.verb == "transfer"
        ]
        scene.expect(receipts == ["claimed", "delivered", "refused"], f"call {caller.number}: {receipts}")
        told = [note["code"] for note in scene.stack.notes("error", caller.session)]
        scene.expect(told == ["transfer_refused"], f"call {caller.number}: the error hook was told {told}")
