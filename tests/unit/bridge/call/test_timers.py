"""When a call's protocol is asked again though nothing came in."""

from __future__ import annotations

import asyncio

from tests.unit.bridge.wires import Wire

from unpod.testing import VirtualClock
from unpod_bridge.call.timers import Wakeups
from unpod_bridge.protocol.outputs import Output


async def test_after_its_end_it_is_not_asked_any_more_whatever_is_done_last() -> None:
    wire, asked, problems = Wire().up(), list[list[Output]](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    clock = VirtualClock(wire.now)
    wakeups = Wakeups(wire.protocol, clock, asked.append)
    wire.says("user.text", text="hi")
    wire.speaks(1, 1, "yes")
    wakeups.close()
    wakeups.look()
    vars(wire.protocol).clear()  # the call has let go of everything
    await clock.advance(1.0)
    assert (asked, problems) == ([], [])
