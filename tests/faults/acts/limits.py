"""Faults of what all calls share: message ids, the log's room, and the disk. Rows 51, 55 and 56."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.cluster import NODES, leader_of
from tests.faults.acts.hostile import longest_gap
from tests.faults.checks import Allow
from tests.faults.load import PATIENCE_S, Caller
from tests.faults.process import eventually, until
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS
from unpod.core.envelope import OVERHEAD
from unpod.core.ids import WriterName, message_id, record_id
from unpod.session.pace import BURST, PER_S
from unpod_cli.nats_checks import look_at_nats

TAKEN = 40
"""How many of the next ids of each writer of each call are used up."""
NOTICED_S = 25.0
FLOODS_S = 5.0
FELT_S = 0.5
"""How much later words of other calls may come while one floods: its burst is written by the same processes."""
MIB = 1024 * 1024
OTHERS_S = 2.0
"""How soon each other call has a turn that works."""
ENDED = Allow(cut=True, unstored=True, unfinished=True, reasons=frozenset({"error"}))


async def ids_are_used_up(scene: Scene) -> None:
    """A runner of another agent publishes each call's next message ids first, under a subject of its own."""
    theirs = SUBJECTS.call("agent-b", "theirs").run("taken")
    await scene.some_words()
    scene.mark()
    for caller in scene.load.living:
        records = await scene.stack.records(caller.session)
        writers: tuple[tuple[WriterName, frozenset[str]], ...] = (
            ("bridge", frozenset(BRIDGE_CHANNELS)),
            ("owner", frozenset(OWNER_CHANNELS)),
        )
        for writer, channels in writers:
            last = max((r.envelope for r in records if r.channel in channels), key=lambda envelope: envelope.index)
            for index in range(last.index + 1, last.index + 1 + TAKEN):
                msg_id = message_id(record_id(caller.session, writer, index), last.epoch)
                scene.stack.nats.send(theirs, b"{}", {"Nats-Msg-Id": msg_id})
    await scene.load.answers(4)


async def one_floods(scene: Scene) -> None:
    """One call's code says as much as it can, for a while: it is slowed, and goes on like the others."""
    flooder, *others = scene.load.callers
    await scene.load.answers(1)
    calm = longest_gap(others, 0.0)
    scene.mark()
    _asks(scene, flooder, "spam")
    await scene.load.answers(2)
    turns = await scene.load.recovered(scene.marked_at, PATIENCE_S)
    slowest = scene.figures["others_s"] = max(turns[caller.number] for caller in others)
    scene.expect(slowest < scene.bounds.limit(OTHERS_S), f"another call waited {slowest:.1f} s for a turn")
    await asyncio.sleep(FLOODS_S)
    _felt(scene, others, calm)
    _asks(scene, flooder, "enough")
    await scene.load.answers(2)
    took = asyncio.get_running_loop().time() - scene.marked_at
    records = await scene.stack.records(flooder.session)
    written = sum(OVERHEAD + len(record.data) for record in records if record.channel in OWNER_CHANNELS)
    scene.figures["flood_mb"] = written / MIB
    scene.expect(written > BURST, f"a flood of {written / MIB:.1f} MiB is none")
    scene.expect(written < 1.2 * BURST + took * PER_S, f"it has written {written / MIB:.1f} MiB in {took:.1f} s")


async def one_floods_a_small_log(scene: Scene) -> None:
    """The same where there is less room: it has taken more than its share before it is slowed, and is ended."""
    await _is_ended(scene, "spam")


async def one_litters(scene: Scene) -> None:
    """One call's code writes into the log past the runtime, which slows nothing: it is ended."""
    await _is_ended(scene, "litter")


async def _is_ended(scene: Scene, order: str) -> None:
    flooder, *others = scene.load.callers
    scene.allow[flooder] = ENDED
    await scene.load.answers(1)
    calm = longest_gap(others, 0.0)
    scene.mark()
    _asks(scene, flooder, order)
    await flooder.call.ended(PATIENCE_S)
    outcome = flooder.call.outcome
    scene.expect(outcome is not None and outcome.reason == "ended_by_agent", f"the flooded call ended with {outcome}")
    await until(lambda: "more than one call may" in _said(scene), "a bridge says why")
    await scene.load.answers(3)
    _felt(scene, others, calm)
    scene.figures["log_mb"] = (await scene.stack.log.usage()) * scene.stack.setup.max_mb
    scene.expect(scene.load.living == others, "other calls have ended")


def _asks(scene: Scene, caller: Caller, order: str) -> None:
    """Let a caller's next question have one order more."""
    orders, turn = scene.load.orders, len(caller.turns) + 1
    more = frozenset({order})
    scene.load.orders = lambda each, number: (
        orders(each, number) | (more if (each, number) == (caller, turn) else set())
    )


def _felt(scene: Scene, others: list[Caller], calm: float) -> None:
    felt = longest_gap(others, scene.marked_at) - calm
    scene.figures["felt_s"] = felt
    limit = scene.bounds.limit(FELT_S)
    scene.expect(felt < limit, f"other calls waited {felt * 1000:.0f} ms longer between two words")


def _said(scene: Scene) -> str:
    return "".join(process.text for process in scene.stack.bridges)


async def disk_is_full(scene: Scene) -> None:
    """The disk under the server is full until everybody has noticed; then there is room, and it is started again."""
    stack = scene.stack
    await scene.some_words()
    stack.disk.fill()
    for process in (*stack.runners, *stack.bridges):
        await process.said("acknowledges nothing", NOTICED_S)
    stack.disk.free()
    await stack.server.restart()
    scene.mark()


async def disk_of_one_is_full(scene: Scene) -> None:
    """The disk under one node of three is full: the others go on, doctor says which does not, the runbook mends it."""
    stack = scene.stack
    await scene.some_words()
    led = await leader_of(stack.nats, stack.log.spec.name) == NODES[0]
    scene.figures["led"] = float(led)
    scene.mark()
    stack.disk.fill()
    await eventually(partial(_doctor_sees, scene, f"not up to date: {NODES[0]}"), "doctor sees it", NOTICED_S)
    await scene.load.answers(3)
    silent = [process for process in (*stack.runners, *stack.bridges) if "acknowledges nothing" in process.text]
    scene.expect(not silent, f"not ready though two nodes store: {silent}")
    stack.disk.free()
    await stack.cluster.terminate(NODES[0])
    await stack.cluster.start(NODES[0])
    await eventually(partial(_doctor_sees, scene, f"{len(NODES)} up to date"), "all replicas keep up", NOTICED_S)


async def _doctor_sees(scene: Scene, text: str) -> bool:
    findings = await look_at_nats({}, scene.stack.cluster.url, "")
    return any(f"{each.name}: {each.detail}".startswith(f"replicas of UNPOD_CALLS: {text}") for each in findings)
