"""Faults of the sockets to the orchestrator: rows 8 and 16 to 19."""

from __future__ import annotations

import asyncio

from tests.faults.load import PATIENCE_S
from tests.faults.process import until
from tests.faults.scene import Scene

from unpod_orchestrator import CallRefused, ControlFaults, LocalOrchestrator
from unpod_orchestrator.faults import KeyRefusal

NOTICED_S = 15.0
"""A bridge gives a socket of which it hears nothing up after 9 s (`websocket.SocketSettings`), and dials at once."""
GROWS_MB = 64


async def assigned_twice(scene: Scene) -> None:
    """The same `job.assign` comes again while its call lives, to its own worker and to the other."""
    orchestrator = scene.stack.orchestrator
    await scene.some_words()
    scene.mark()
    for caller in scene.load.callers:
        for worker in [caller.call.worker_id, *(worker.worker_id for worker in orchestrator.workers)]:
            refusal = await orchestrator.reassign(caller.call.job_id, worker_id=worker)
            scene.expect(refusal is None, f"call {caller.number}: the second assign was refused: {refusal}")
    await scene.load.answers(1)
    for caller in scene.load.callers:
        scene.expect(len(caller.call.dials) == 1, f"call {caller.number} was dialled {len(caller.call.dials)} times")


async def call_sockets_drop(scene: Scene) -> None:
    """Each call's socket is cut, at a moment of its own, in the middle of replies and between them."""
    for caller in scene.load.callers:
        await scene.load.words(scene.rng.randint(1, 12))
        scene.mark()
        caller.call.drop()
    await scene.load.news.until(
        lambda: all(len(caller.ups) == len(caller.downs) > 0 for caller in scene.load.callers), "redials"
    )
    for caller in scene.load.callers:
        gone = max(after - before for before, after in zip(caller.downs, caller.ups, strict=True))
        scene.figures["redial_s"] = max(gone, scene.figures.get("redial_s", 0.0))
        scene.expect(gone < scene.bounds.limit(1.0), f"call {caller.number} was without a socket for {gone:.2f} s")


async def control_sockets_drop(scene: Scene) -> None:
    """The control sockets are cut in mid-call, and while jobs are being assigned."""
    orchestrator = scene.stack.orchestrator
    await scene.some_words()
    scene.mark()
    placing = [asyncio.create_task(orchestrator.place_call("agent")) for _ in range(3)]
    before = len(orchestrator.control_frames)
    await orchestrator.wait_until(lambda: len(orchestrator.control_frames) > before, "no job was assigned")
    orchestrator.drop_control()
    for placed in await asyncio.gather(*placing, return_exceptions=True):
        if isinstance(placed, BaseException):
            scene.expect(isinstance(placed, CallRefused), f"placing ended with {placed!r}")
        else:
            await placed.hang_up()
    await orchestrator.wait_for_worker("agent", PATIENCE_S, count=2)
    later = await orchestrator.place_call("agent")
    await later.connected(PATIENCE_S)
    await later.hang_up()
    for caller in scene.load.callers:
        scene.expect(not caller.downs, f"call {caller.number} has noticed")


async def buffers_are_full(scene: Scene) -> None:
    """One call's worker reads no more while its agent has much to say."""
    await _half_open(scene, frozenset({"pour"}))


async def half_open(scene: Scene) -> None:
    """One call's worker reads no more, and there is nothing much to say: only a ping can tell."""
    await _half_open(scene, frozenset())


async def _half_open(scene: Scene, orders: frozenset[str]) -> None:
    caller = scene.rng.choice(scene.load.callers)
    bridge = await scene.stack.line(caller.session)
    assert bridge is not None
    before = bridge.rss_mb
    caller.hush()
    await caller.answer(caller.turns[-1])
    caller.call.pause_reading()
    (await caller.ask(orders)).given_up = True
    refused = len(caller.call.dials)
    begun = asyncio.get_running_loop().time()
    # The bridge gives the socket up, and its redial is refused as long as the worker has not noticed.
    await until(lambda: any(code == 4009 for _, code in list(caller.call.dials)[refused:]), "a redial", NOTICED_S)
    scene.figures["noticed_s"] = asyncio.get_running_loop().time() - begun
    grown = bridge.rss_mb - before
    scene.figures["rss_mb"] = grown
    scene.expect(grown < GROWS_MB, f"the bridge has grown by {grown:.0f} MiB")
    scene.mark()
    caller.call.resume_reading()
    caller.go_on()


async def the_key_is_refused(scene: Scene) -> None:
    """New bridges come to orchestrators that refuse their key, or are too old: each says so and ends."""
    scene.mark()
    refusals: tuple[KeyRefusal, ...] = ("http_401", "http_403", "close_4001", "close_1008")
    faults = [(ControlFaults(refuse_key=refusal), "UNPOD_API_KEY") for refusal in refusals]
    faults.append((ControlFaults(transport_ack=None), "transport"))
    await asyncio.gather(*(_is_refused(scene, fault, named) for fault, named in faults))


async def _is_refused(scene: Scene, faults: ControlFaults, named: str) -> None:
    async with LocalOrchestrator(faults=faults) as other:
        bridge = await scene.stack.start_bridge(UNPOD_ORCHESTRATOR_URL=other.url)
        scene.expected_deaths.add(bridge)
        status = await bridge.exited()
    lines = [line for line in bridge.text.splitlines() if " ERROR " in line]
    scene.expect(status == 1, f"{faults}: the bridge ended with {status}")
    scene.expect(len(lines) == 1 and named in lines[0], f"{faults}: it said {lines}")
