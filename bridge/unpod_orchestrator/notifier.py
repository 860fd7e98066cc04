"""Waiting for "something has changed" without a task, a lock, or a missed change."""

import asyncio
from collections.abc import Callable


class Notifier:
    """Wakes everybody who waits, each time that something has changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something has changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Returns at the next change, or after `timeout_s`, whichever comes first."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    async def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Returns true as soon as something holds, looked at now and at every change; false after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not holds():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self.wait(left)
        return True
