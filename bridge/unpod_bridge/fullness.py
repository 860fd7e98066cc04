"""Whether the log has room for more calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from unpod.errors import LogError

logger = logging.getLogger("unpod.bridge")

USAGE_LIMIT = 0.9
"""How full the log may be before new calls are refused: the rest is for the calls in progress."""
USAGE_FRESH_S = 3.0


class Fullness:
    """Whether the log has room for more calls; it is asked every few seconds at most."""

    def __init__(self, usage: Callable[[], Awaitable[float]]) -> None:
        self._usage = usage
        self._asked_at = float("-inf")
        self._full = False

    async def full(self) -> bool:
        """Return whether new calls are to be refused; a log that does not answer is taken to be as it was."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at < USAGE_FRESH_S:
            return self._full
        self._asked_at = now
        try:
            usage = await self._usage()
        except LogError as error:
            logger.debug("how full the log is cannot be known: %s", type(error).__name__)
            return self._full
        if usage >= USAGE_LIMIT and not self._full:
            logger.error("the log is %.0f %% full: new calls are refused until there is room", usage * 100)
        self._full = usage >= USAGE_LIMIT
        return self._full
