"""Faults of NATS and of clocks: rows 20 to 26, and 45."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.cluster import NODES, leader_of
from tests.faults.load import PATIENCE_S, Caller
from tests.faults.process import eventually, until
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core.envelope import from_headers
from unpod.errors import LogFull
from unpod.jetstream.streams.api import call as api

CHUNK = 60_000
CHUNK_EACH_S = 0.02
BUFFER_S = 30.0
FILL_BYTES = 200_000
STALL_S = 2.0


async def killed_and_restarted(scene: Scene) -> None:
    """Kill -9 of the single server, started again at once."""
    await scene.some_words()
    scene.mark()
    await scene.stack.server.kill()


async def leader_killed(scene: Scene) -> None:
    """Kill -9 of the node that leads the stream of calls: the others must choose one first."""
    await _lose(scene, leader=True, kill=True)


async def follower_killed(scene: Scene) -> None:
    """Kill -9 of a node that follows."""
    await _lose(scene, leader=False, kill=True)


async def leader_terminated(scene: Scene) -> None:
    """SIGTERM of the node that leads the stream of calls: it hands over first."""
    await _lose(scene, leader=True, kill=False)


async def follower_terminated(scene: Scene) -> None:
    """SIGTERM of a node that follows."""
    await _lose(scene, leader=False, kill=False)


async def _lose(scene: Scene, *, leader: bool, kill: bool) -> None:
    nodes = scene.stack.cluster
    await scene.some_words()
    leads = await leader_of(scene.stack.nats, scene.stack.log.spec.name)
    lost = leads if leader else scene.rng.choice([node for node in NODES if node != leads])
    scene.mark()
    await (nodes.kill(lost) if kill else nodes.terminate(lost))


async def all_nodes_killed(scene: Scene) -> None:
    """Kill -9 of all three nodes, started again at once."""
    await scene.some_words()
    await scene.stack.cluster.kill()
    await scene.stack.cluster.start()
    scene.mark()


async def away(scene: Scene) -> None:
    """The server is away for a while in mid-call; callers go on talking."""
    await scene.some_words()
    await scene.stack.server.down(kill=True)
    await asyncio.sleep(scene.bounds.away_s)
    await scene.stack.server.up()
    scene.mark()


async def away_for_too_long(scene: Scene) -> None:
    """The server is away until one bound or the other is over: bytes for the first half of the calls, then time."""
    await scene.some_words()
    for caller in scene.load.callers:
        caller.hush()
    before = max(process.rss_mb for process in scene.stack.bridges)
    await scene.stack.server.down(kill=True)
    flooded = scene.load.callers[::2] if scene.bounds.whole else scene.load.callers
    await asyncio.gather(*(_flood(caller) for caller in flooded))
    grown = max(process.rss_mb for process in scene.stack.bridges) - before
    scene.figures["rss_mb"] = grown
    bound = 64 + 4 * len(flooded)
    scene.expect(grown < bound, f"a bridge has grown by {grown:.0f} MiB")
    if scene.bounds.whole:
        await asyncio.gather(*(caller.call.ended(BUFFER_S + PATIENCE_S) for caller in scene.load.callers))
    await scene.stack.server.up()
    for caller in scene.load.callers:
        outcome = caller.call.outcome
        scene.expect(outcome is not None and outcome.reason == "ended_by_agent", f"a call ended with {outcome}")
    await scene.stack.closed([caller.session for caller in scene.load.callers])
    calls = len(scene.load.callers)
    await until(lambda: _errors_told(scene) >= calls, f"the bridges tell of {calls} calls that ended with an error")
    scene.expect(_errors_told(scene) == calls, f"the bridges tell of {_errors_told(scene)}")


def _errors_told(scene: Scene) -> int:
    return sum(bridge.text.count("agent agent: error, after") for bridge in scene.stack.bridges)


async def _flood(caller: Caller) -> None:
    """Send what nobody can store, until the bridge has enough of it."""
    async with asyncio.timeout(PATIENCE_S):
        while not caller.call.over:
            caller.call.send_frame({"event": "user.text", "text": "x" * CHUNK, "is_final": False})
            await asyncio.sleep(CHUNK_EACH_S)


async def full(scene: Scene) -> None:
    """The stream is full, until somebody makes room: the calls end, and say why."""
    stack = scene.stack
    await scene.some_words()
    stored = {caller.session: len(await stack.records(caller.session)) for caller in scene.load.callers}
    filler = SUBJECTS.call("agent", "filler").evt("metric")
    size = FILL_BYTES
    while size > 1:
        try:
            await stack.log.append(filler, b"x" * size, {})
        except LogFull:
            size //= 2
    ended = [caller.call.ended(PATIENCE_S) for caller in scene.load.callers]
    await asyncio.gather(*ended)
    said = "".join(process.text for process in (*stack.bridges, *stack.runners))
    scene.expect("takes no more" in said, "no bridge says that the log is full")
    for caller in scene.load.callers:
        kept = len(await stack.records(caller.session))
        scene.expect(
            kept >= stored[caller.session], f"call {caller.number}: {kept} of {stored[caller.session]} records"
        )
    await api(stack.nats, "STREAM.PURGE.UNPOD_CALLS", {"filter": filler})
    for caller in scene.load.callers:
        subject = SUBJECTS.call("agent", caller.session).evt("call.ended")
        await eventually(partial(_is_there, scene, subject), f"the end of call {caller.number} in the log")


async def _is_there(scene: Scene, subject: str) -> bool:
    return await scene.stack.log.last(subject) is not None


async def clocks_apart(scene: Scene) -> None:
    """One runner and one bridge have clocks ten minutes off, one each way (see the row's set-up)."""
    await scene.load.answers(3)
    scene.mark()
    await scene.load.answers(1)
    for caller in scene.load.callers:
        subject = SUBJECTS.session(caller.session)
        async for message in scene.stack.log.read(subject):
            stored_at, told = message.time_ns / 1e9, from_headers(message.headers).time
            channel = SUBJECTS.parse(message.subject).channel
            apart = abs(stored_at - told)
            if channel in ("line", "own"):
                continue  # written before the writer knows the log's time
            scene.figures["apart_s"] = max(apart, scene.figures.get("apart_s", 0.0))
            scene.expect(apart < scene.bounds.limit(1.0), f"{message.subject} is {apart:.1f} s off")


async def node_stands_still(scene: Scene) -> None:
    """SIGSTOP of the node that leads the stream of calls, and then of another, while everybody talks."""
    nodes = scene.stack.cluster
    leads = await leader_of(scene.stack.nats, scene.stack.log.spec.name)
    for node in (leads, scene.rng.choice([node for node in NODES if node != leads])):
        await scene.some_words()
        with nodes.frozen(node):
            await asyncio.sleep(STALL_S)
        scene.mark()
        await scene.load.recovered(scene.marked_at, scene.bounds.limit(10.0))
