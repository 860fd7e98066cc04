"""What is left of a call that has ended: its owner's cleanup, which another runner begins again where one has died."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from unpod.errors import LogError

if TYPE_CHECKING:
    from unpod.core.subjects import CallSubjects
    from unpod.ports import Subscription
    from unpod_bridge.estates import EndedCall
    from unpod_bridge.placing import LineServices
    from unpod_bridge.succession import Succession

logger = logging.getLogger("unpod.bridge.succession")

ORPHAN_S: Final = 600.0
"""For how long a runner is looked for that does the cleanup."""


class Aftercare:
    """Sees to it that the session is closed."""

    def __init__(self, succession: Succession, services: LineServices, subjects: CallSubjects) -> None:
        self._succession = succession
        self._services = services
        self._subjects = subjects
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Hear of the session's end from here on; raises LogError."""
        closed_on = self._subjects.run("session.closed")
        self._subscription = await self._services.bus.subscribe(
            closed_on, lambda _: self._succession.close_session()
        )

    async def retire(self, estate: EndedCall) -> None:
        """The line is gone."""
        await self._succession.retire(estate)

    async def run(self) -> None:
        """Return once the session is closed, or nothing can be done about it."""
        try:
            await self._succession.closed.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Care no more."""
        await self._succession.close()
        if self._subscription is not None:
            try:
                await self._subscription.close()
            except LogError as error:
                logger.debug("a subscription could not be ended: %s", type(error).__name__)
