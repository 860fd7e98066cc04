"""The log's time."""

from __future__ import annotations

import asyncio
import time

from unpod.jetstream import LogClock
from unpod.ports import Clock


def as_clock(clock: LogClock) -> Clock:
    return clock


async def test_it_starts_from_the_systems_clock_and_takes_the_logs() -> None:
    clock = LogClock()
    assert not clock.anchored
    assert abs(as_clock(clock).now() - time.time()) < 1
    ahead = time.time_ns() + 600 * 10**9
    clock.anchor(0)
    assert not clock.anchored
    clock.anchor(ahead)
    assert 0 <= clock.now() - ahead / 1e9 < 1
    clock.anchor(5)
    assert clock.now() >= ahead / 1e9
    assert clock.anchored


async def test_timers() -> None:
    clock = LogClock()
    rung: list[str] = []
    last = asyncio.Event()
    clock.call_later(0.0, lambda: rung.append("cancelled")).cancel()
    clock.call_later(0.001, lambda: rung.append("rung"))
    clock.call_later(0.002, last.set)
    await last.wait()
    await clock.sleep(0)
    assert rung == ["rung"]
