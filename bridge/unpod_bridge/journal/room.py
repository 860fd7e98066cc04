"""Whether log and job store have room for more calls, and the log for those of an agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf

from unpod.core.dispatch_messages import Refusal
from unpod.errors import LogError
from unpod_bridge.journal.shares import Shares

logger = logging.getLogger("unpod.bridge")

USAGE_LIMIT = 0.9
"""How full the log may be before new calls are refused: the rest is for the calls in progress."""
USAGE_FRESH_S = 3.0


class Fullness:
    """Whether log and job store have room for more calls; they are asked every few seconds at most.

    `usage` and `jobs` return how full they are, `bound` is the log's size in bytes. `is_silent`: the log stores
    nothing now, however much is free.
    """

    def __init__(
        self,
        usage: Callable[[], Awaitable[float]],
        *,
        bound: int = 0,
        shares: Shares | None = None,
        is_silent: Callable[[], bool] = lambda: False,
        jobs: Callable[[], Awaitable[float]] | None = None,
    ) -> None:
        self._usage = usage
        self._jobs = jobs
        self._bound = bound
        self._shares = Shares() if shares is None else shares
        self._is_silent = is_silent
        self._asked_at = float("-inf")
        self._room = 1.0
        self.jobs_room = 1.0
        """What is free of the job store, as far as is known: 1.0 to 0.0."""

    @property
    def room(self) -> float:
        """What is free of the log, as far as is known: 1.0 to 0.0; a log that stores nothing has no room."""
        return 0.0 if self._is_silent() else self._room

    @property
    def free(self) -> float:
        """What is free of it, in bytes."""
        return self._bound * self._room if self._bound else inf

    async def refusal(self, agent: str) -> Refusal | None:
        """Return why an agent gets no new call, None where it does."""
        if await self.full():
            return "log_full" if self._is_full(self.room) else "jobs_full"
        return "rate_limited" if self._shares.is_over(agent) else None

    async def full(self) -> bool:
        """Return whether new calls are to be refused; a log that does not answer is taken to be as it was."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= USAGE_FRESH_S:
            self._asked_at = now
            self._room = await self._look("the log", self._usage, self._room)
            if self._jobs is not None:
                self.jobs_room = await self._look("the job store", self._jobs, self.jobs_room)
        return self._is_full(self.room) or self._is_full(self.jobs_room)

    async def _look(self, what: str, usage: Callable[[], Awaitable[float]], known: float) -> float:
        try:
            room = max(1.0 - await usage(), 0.0)
        except LogError as error:
            logger.debug("how full %s is cannot be known: %s", what, type(error).__name__)
            return known
        if self._is_full(room) and not self._is_full(known):
            text = "%s is %.0f %% full: new calls are refused until there is room; calls in progress go on"
            logger.error(text, what, (1.0 - room) * 100)
        return room

    @staticmethod
    def _is_full(room: float) -> bool:
        return 1.0 - room >= USAGE_LIMIT
