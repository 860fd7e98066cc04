"""Whether the log has room for more calls, and for those of an agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf

from unpod.errors import LogError
from unpod_bridge.control_wire import Reason
from unpod_bridge.shares import Shares

logger = logging.getLogger("unpod.bridge")

USAGE_LIMIT = 0.9
"""How full the log may be before new calls are refused: the rest is for the calls in progress."""
USAGE_FRESH_S = 3.0


class Fullness:
    """Whether the log has room for more calls; it is asked every few seconds at most.

    `bound` is its size in bytes; `is_silent` says that it stores nothing now, however much is free.
    """

    def __init__(
        self,
        usage: Callable[[], Awaitable[float]],
        *,
        bound: int = 0,
        shares: Shares | None = None,
        is_silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._usage = usage
        self._bound = bound
        self._shares = Shares() if shares is None else shares
        self._is_silent = is_silent
        self._asked_at = float("-inf")
        self._room = 1.0

    @property
    def room(self) -> float:
        """What is free of the log, as far as is known: 1.0 to 0.0; a log that stores nothing has no room."""
        return 0.0 if self._is_silent() else self._room

    @property
    def free(self) -> float:
        """What is free of it, in bytes."""
        return self._bound * self._room if self._bound else inf

    async def refusal(self, agent: str) -> Reason | None:
        """Return why an agent gets no new call, None where it does."""
        if await self.full():
            return "at_capacity"
        return "rate_limited" if self._shares.is_over(agent) else None

    async def full(self) -> bool:
        """Return whether new calls are to be refused; a log that does not answer is taken to be as it was."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= USAGE_FRESH_S:
            self._asked_at = now
            try:
                self._take(await self._usage())
            except LogError as error:
                logger.debug("how full the log is cannot be known: %s", type(error).__name__)
        return self._is_full(self.room)

    def _take(self, usage: float) -> None:
        room = max(1.0 - usage, 0.0)
        if self._is_full(room) and not self._is_full(self._room):
            logger.error("the log is %.0f %% full: new calls are refused until there is room", usage * 100)
        self._room = room

    @staticmethod
    def _is_full(room: float) -> bool:
        return 1.0 - room >= USAGE_LIMIT
