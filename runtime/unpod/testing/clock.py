"""Time that moves only when it is told to."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from itertools import count

START = 1_700_000_000.0


class VirtualTimer:
    """A call that will be made when the clock comes to its time."""

    __slots__ = ("at", "callback", "cancelled")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Make sure that the call is not made."""
        self.cancelled = True


class VirtualClock:
    """A `Clock` for tests: seconds since 1970, from `start` on, moved by `advance` alone.

    `settled` returns when all that a moment sets off has come about; time stands still until then.
    """

    def __init__(self, start: float = START) -> None:
        self._now = start
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._order = count()
        self.settled: Callable[[], Awaitable[None]] = settle

    def now(self) -> float:
        """Return the virtual time."""
        return self._now

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds."""
        return int(self._now * 1e9)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved by `seconds`."""
        reached = asyncio.Event()
        timer = self.call_later(seconds, reached.set)
        try:
            await reached.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> VirtualTimer:
        """Call `callback` once the clock has been moved by `seconds`."""
        timer = VirtualTimer(self._now + seconds, callback)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move the clock, making each call at its time and letting what it sets off settle before the next.

        What is under way already settles first: it happens before the time passes.
        """
        await self.settled()
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            self._now = max(self._now, at)
            timer.callback()
            await self.settled()
        self._now = until
        await self.settled()


async def settle(turns: int = 20) -> None:
    """Let everything that is ready on the event loop run."""
    for _ in range(turns):
        await asyncio.sleep(0)
