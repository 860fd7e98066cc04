"""A bridge's care for the owners of all its sessions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from unpod_bridge.probation import Probations
from unpod_bridge.succession import Care
from unpod_bridge.watch import Watch

if TYPE_CHECKING:
    from unpod.jetstream import Nats
    from unpod.ports import Subscription
    from unpod_bridge.dispatch import Dispatcher
    from unpod_bridge.placing import LineServices


class Owners:
    """Watches the runners, and hears those that want to let go; lines take `care` from here."""

    def __init__(self, nats: Nats, services: LineServices, dispatcher: Dispatcher) -> None:
        self.watch = Watch(nats, services.subjects, services.clock, services.bridge_id)
        self.care = Care(self.watch, Probations(), dispatcher.resume)
        self._nats = nats
        self._on = services.subjects.bridge(services.bridge_id)
        self._subscription: Subscription | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin.

        Raises:
            LogError: NATS does not let us.
        """
        self._subscription = await self._nats.subscribe(self._on, self.watch.hand_over)
        self._nats.on_state(self.watch.connected)
        self._watching = asyncio.create_task(self.watch.run(), name="unpod-watch")

    async def close(self) -> None:
        """End."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.close()
