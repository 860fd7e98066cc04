"""`LogClock`: the log's time, from one timestamp of the log and this machine's monotonic clock."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LogClock:
    """Time in seconds since 1970 (`ports.Clock`), steady whatever is done to the system's clock.

    Until `anchor` it starts from the system's clock. The anchoring is the one moment at which it may go back: by as
    much as this machine's clock was ahead of the log's.
    """

    __slots__ = ("_anchored", "_offset")

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._anchored = False

    @property
    def anchored(self) -> bool:
        """Whether this is the log's time."""
        return self._anchored

    def anchor(self, time_ns: int) -> None:
        """Take the server's timestamp of a record that was stored just now, once; later calls change nothing.

        This clock stays behind the log's by the time that the server's answer took, under a millisecond.
        """
        if not self._anchored and time_ns > 0:
            self._offset = time_ns / 1e9 - time.monotonic()
            self._anchored = True

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return self._offset + time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `callback` once after `seconds`, on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)
