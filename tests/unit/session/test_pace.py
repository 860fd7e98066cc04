from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from unpod import CallContext, Session
from unpod.core.envelope import OVERHEAD
from unpod.session.pace import BURST, PER_S, Pace
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle

LONG = "spam " * 13_000  # 65 KB: 32 of them are the burst
SPAMS = BURST // (OVERHEAD + len(LONG))


def test_a_burst_is_free_and_after_that_a_steady_stream() -> None:
    pace = Pace()
    assert pace.wait_s(BURST, 100.0) == 0.0
    assert pace.wait_s(BURST + PER_S, 100.0) == 1.0
    assert pace.wait_s(BURST + PER_S, 101.0) == 0.0
    assert pace.wait_s(BURST + PER_S, 1_000.0) == 0.0
    assert pace.wait_s(2 * BURST + PER_S, 1_000.0) == 0.0  # a while of silence earns a burst, and no more
    assert pace.wait_s(2 * BURST + 2 * PER_S, 1_000.0) == 1.0


class Flooder:
    """Does one thing as often as it can; `count` is how often it has come back."""

    def __init__(self, act: Callable[[Session], Awaitable[object]]) -> None:
        self._act = act
        self.count = 0
        self.wants_more = True

    async def __call__(self, ctx: CallContext) -> None:
        while self.wants_more:
            await self._act(ctx.session)
            self.count += 1


async def flooded(call: SimulatedCall, flooder: Flooder) -> int:
    """Return how often it came back by the time at which it waits."""
    seen = -1
    while seen != flooder.count:
        seen = flooder.count
        await settle(3_000)  # the log acknowledges one after the other
    return seen


async def let_it_end(call: SimulatedCall, flooder: Flooder) -> None:
    flooder.wants_more = False
    await call.advance(60)


async def charge(size: int = 65_000) -> str:
    return "x" * size


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.say(LONG),
        lambda session: session.set_filler(LONG),
        lambda session: session.recording.pause(LONG),
        lambda session: session.step("charge", charge),
    ],
    ids=["say", "set_filler", "pause", "step"],
)
async def test_whoever_floods_has_to_wait(act: Callable[[Session], Awaitable[object]]) -> None:
    flooder = Flooder(act)
    async with simulate_call(flooder) as call:
        assert SPAMS <= await flooded(call, flooder) <= SPAMS + 3
        before = flooder.count
        await call.advance(10)
        assert 8 <= await flooded(call, flooder) - before <= 12  # 64 KiB a second
        await let_it_end(call, flooder)


async def test_those_who_wait_come_in_order() -> None:
    async def handle(ctx: CallContext) -> None:
        await asyncio.gather(*(ctx.session.say(f"{number} {LONG}") for number in range(SPAMS + 20)))

    async with simulate_call(handle) as call:
        await settle(200)
        assert len(call.said) < SPAMS + 10
        for _ in range(30):
            await call.advance(1)
        assert [int(said.split()[0]) for said in call.said] == list(range(SPAMS + 20))


async def test_a_loop_of_words_after_the_calls_end_waits_too() -> None:
    """It does nothing any more, and must not keep the other calls of its process from doing something."""
    flooder = Flooder(lambda session: session.say("spam"))
    async with simulate_call(flooder) as call:
        await call.line.end("hangup")
        await flooded(call, flooder)
        said, came_back = len(call.commands), flooder.count
        await call.advance(10)
        again = await flooded(call, flooder) - came_back
        await let_it_end(call, flooder)
    assert 10 * PER_S // OVERHEAD - 5 <= again <= 10 * PER_S // OVERHEAD + 5
    assert len(call.commands) <= said + 1  # one was on its way when the call ended
