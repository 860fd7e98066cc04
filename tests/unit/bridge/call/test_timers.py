"""When a call's protocol is asked again though nothing came in."""

from __future__ import annotations

import asyncio

from tests.unit.bridge.wires import Wire

from unpod.ports import Timer
from unpod_bridge.call.timers import Wakeups
from unpod_bridge.protocol.outputs import Output


class LoopClock:
    """The event loop's time, from that of the protocol on."""

    def __init__(self, began: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = began - self._loop.time()

    def now(self) -> float:
        return self._began + self._loop.time()

    def call_later(self, delay_s: float, callback: object) -> Timer:
        return self._loop.call_later(0.0, callback)  # type: ignore[arg-type]

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


async def test_after_its_end_it_is_not_asked_any_more_whatever_is_done_last() -> None:
    wire, asked, problems = Wire().up(), list[list[Output]](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    wakeups = Wakeups(wire.protocol, LoopClock(wire.now), asked.append)
    wire.says("user.text", text="hi")
    wire.speaks(1, 1, "yes")
    wakeups.close()
    wakeups.look()
    vars(wire.protocol).clear()  # the call has let go of everything
    for _ in range(3):
        await asyncio.sleep(0)
    assert (asked, problems) == ([], [])
