"""Faults of what all calls share: message ids, and the disk. Rows 51 and 56."""

from __future__ import annotations

from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS
from unpod.core.ids import WriterName, message_id, record_id

TAKEN = 40
"""How many of the next ids of each writer of each call are used up."""
NOTICED_S = 25.0


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
