"""A bridge's care for the owners of all its sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import (
    HAND_OVER,
    PROBATION_ANNOUNCED,
    PROBATION_TOLD,
    HandOver,
    ProbationAnnounced,
    ProbationTold,
    encode,
)
from unpod.errors import LogError
from unpod.ports import Bus
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.runner_health import RunnerHealth
from unpod_bridge.fleet.suspects import Suspects

if TYPE_CHECKING:
    from unpod.ports import Message, Subscription
    from unpod_bridge.fleet.dispatch import Dispatcher
    from unpod_bridge.journal.placements import LineServices

logger = logging.getLogger("unpod.bridge.runner_health")


class OwnersConnection(Bus, Protocol):
    """What is needed of a connection to NATS."""

    def on_state(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call `listener(connected)` at each change."""
        ...


class Owners:
    """Watches the runners, and hears those that want to let go; lines take `care` from here."""

    def __init__(
        self,
        nats: OwnersConnection,
        services: LineServices,
        dispatcher: Dispatcher,
        on_dead: Callable[[str], None] = lambda _: None,
    ) -> None:
        subjects, clock, bridge_id = services.subjects, services.clock, services.bridge_id
        self.runner_health = RunnerHealth(nats, subjects, clock, bridge_id, services.horizon, on_dead=on_dead)
        self.suspects = Suspects(services.clock, services.bridge_id, self._announce)
        self.care = Care(self.runner_health, self.suspects, dispatcher.resume)
        self._nats = nats
        self._announced_on = services.subjects.probations
        self._on = services.subjects.bridge(services.bridge_id)
        self._subscriptions: list[Subscription] = []
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin.

        Raises:
            LogError: NATS does not let us.
        """
        for subject, handler in ((self._on, self._on_told), (self._announced_on, self._on_probation)):
            self._subscriptions.append(await self._nats.subscribe(subject, handler))
        self._nats.on_state(self.runner_health.connected)
        self._watching = asyncio.create_task(self.runner_health.run(), name="unpod-runner-health")

    async def close(self) -> None:
        """End."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()

    def _on_told(self, message: Message) -> None:
        try:
            said = _to_bridge(message.data)
        except MALFORMED:
            logger.warning("a message of %d bytes to this bridge cannot be read", len(message.data))
            return
        if isinstance(said, ProbationTold):
            self.suspects.told(said)
        else:
            self.runner_health.hand_over(said, message.reply)

    def _announce(self, message: ProbationAnnounced) -> None:
        try:
            self._nats.send(self._announced_on, encode(message))
        except LogError as error:
            logger.debug("a probation could not be announced: %s", type(error).__name__)

    def _on_probation(self, message: Message) -> None:
        try:
            self.suspects.hear(PROBATION_ANNOUNCED.decode(message.data))
        except MALFORMED:
            logger.debug("a bridge's word on a probation cannot be read")


def _to_bridge(data: bytes) -> ProbationTold | HandOver:
    """Return what a runner says, of which only the hand-over has no phase; bridges of older releases know only that."""
    try:
        return PROBATION_TOLD.decode(data)
    except MALFORMED:
        return HAND_OVER.decode(data)
