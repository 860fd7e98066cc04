"""The virtual clock: time that moves when it is told to, and timers in their order."""

from __future__ import annotations

import asyncio

from unpod.ports import Clock
from unpod.testing import VirtualClock
from unpod.testing.clock import START, settle


def test_it_is_a_clock() -> None:
    clock: Clock = VirtualClock()
    assert clock.now() == START


async def test_time_moves_by_advance_alone() -> None:
    clock = VirtualClock(100.0)
    await settle()
    assert clock.now() == 100.0
    await clock.advance(2.5)
    assert (clock.now(), clock.now_ns()) == (102.5, 102_500_000_000)


async def test_timers_are_called_at_their_time_and_in_order() -> None:
    clock, told = VirtualClock(0.0), list[tuple[str, float]]()
    for name, seconds in (("c", 3), ("a", 1), ("b", 1), ("never", 9)):
        clock.call_later(seconds, lambda name=name: told.append((name, clock.now())))  # type: ignore[misc]
    await clock.advance(3)
    assert told == [("a", 1.0), ("b", 1.0), ("c", 3.0)]


async def test_a_cancelled_timer_is_not_called() -> None:
    clock, told = VirtualClock(0.0), list[str]()
    clock.call_later(1, lambda: told.append("called")).cancel()
    await clock.advance(2)
    assert told == []


async def test_a_timer_that_a_timer_sets_is_called_in_the_same_advance() -> None:
    clock, told = VirtualClock(0.0), list[float]()

    def again() -> None:
        told.append(clock.now())
        if len(told) < 3:
            clock.call_later(1, again)

    clock.call_later(1, again)
    await clock.advance(10)
    assert told == [1.0, 2.0, 3.0]


async def test_sleep_returns_when_the_clock_has_come_that_far() -> None:
    clock = VirtualClock(0.0)
    sleeping = asyncio.ensure_future(clock.sleep(5))
    await clock.advance(4.9)
    assert not sleeping.done()
    await clock.advance(0.1)
    assert sleeping.done()


async def test_a_sleep_that_is_cancelled_leaves_nothing_behind() -> None:
    clock = VirtualClock(0.0)
    sleeping = asyncio.ensure_future(clock.sleep(5))
    await settle()
    sleeping.cancel()
    await asyncio.gather(sleeping, return_exceptions=True)
    await clock.advance(10)
    assert sleeping.cancelled()


async def test_what_a_timer_sets_off_settles_before_the_next_timer() -> None:
    clock, told = VirtualClock(0.0), list[str]()

    async def work() -> None:
        await asyncio.sleep(0)
        told.append("work of the first")

    tasks: list[asyncio.Task[None]] = []
    clock.call_later(1, lambda: tasks.append(asyncio.ensure_future(work())))
    clock.call_later(2, lambda: told.append("second"))
    await clock.advance(5)
    assert told == ["work of the first", "second"]
