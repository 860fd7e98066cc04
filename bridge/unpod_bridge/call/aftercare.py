"""What is left of a call that has ended: its owner's cleanup, which another runner begins again where one has died."""

from __future__ import annotations

import logging

from unpod.core.subjects import CallSubjects
from unpod.errors import LogError
from unpod.ports import Subscription
from unpod_bridge.call.estates import EndedCall
from unpod_bridge.call.takeover import OwnerTakeover
from unpod_bridge.journal.journal import Journal
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.protocol.ownership import ReplyProgress

logger = logging.getLogger("unpod.bridge.takeover")


class Aftercare:
    """Sees to it that the session is closed."""

    def __init__(self, owner_takeover: OwnerTakeover, services: LineServices, subjects: CallSubjects) -> None:
        self._owner_takeover = owner_takeover
        self._services = services
        self._subjects = subjects
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Hear of the session's end from here on; raises LogError."""
        closed_on = self._subjects.run("session.closed")
        self._subscription = await self._services.bus.subscribe(closed_on, self._owner_takeover.on_closed)

    async def run(self) -> None:
        """Return once the session is closed, or nothing can be done about it."""
        try:
            await self._owner_takeover.closed.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Care no more."""
        await self._owner_takeover.close()
        if self._subscription is not None:
            try:
                await self._subscription.close()
            except LogError as error:
                logger.debug("a subscription could not be ended: %s", type(error).__name__)


async def open_aftercare(
    owner_takeover: OwnerTakeover | None,
    services: LineServices,
    subjects: CallSubjects | None,
    journal: Journal,
    progress: ReplyProgress,
) -> Aftercare | None:
    """Return the care for what the owner of an ended call has left to do; None where that is not ours to see."""
    if owner_takeover is None or subjects is None or journal.failure is not None:
        return None
    await owner_takeover.pause()
    after = Aftercare(owner_takeover, services, subjects)
    try:
        await after.open()
    except LogError as error:
        logger.warning("session %s: nobody looks after its cleanup: %s", owner_takeover.session_id, error)
        return None
    owner_takeover.resume(EndedCall(services, subjects, journal.writing, journal.stream_positions, progress))
    return after
