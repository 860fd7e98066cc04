"""What is left of a call that has ended: its owner's cleanup, which another runner begins again where one has died."""

from __future__ import annotations

import logging

from unpod.core.subjects import CallSubjects
from unpod.errors import LogError
from unpod.ports import Subscription
from unpod_bridge.estates import EndedCall
from unpod_bridge.ledger import Ledger
from unpod_bridge.placing import LineServices
from unpod_bridge.succession import Succession
from unpod_bridge.tenure import Legacy

logger = logging.getLogger("unpod.bridge.succession")


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
        self._subscription = await self._services.bus.subscribe(closed_on, self._succession.on_closed)

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


async def open_aftercare(
    succession: Succession | None, services: LineServices, subjects: CallSubjects | None, ledger: Ledger, legacy: Legacy
) -> Aftercare | None:
    """Return the care for what the owner of an ended call has left to do; None where that is not ours to see."""
    if succession is None or subjects is None or ledger.failure is not None:
        return None
    await succession.pause()
    after = Aftercare(succession, services, subjects)
    try:
        await after.open()
    except LogError as error:
        logger.warning("session %s: nobody looks after its cleanup: %s", succession.session_id, error)
        return None
    succession.resume(EndedCall(services, subjects, ledger.writing, ledger.chart, legacy))
    return after
