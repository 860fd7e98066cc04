"""A runner says that it is there: each second, and at each change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unpod.core.dispatch_messages import RunnerAnnounced, encode
from unpod.errors import LogError

if TYPE_CHECKING:
    from unpod.ports import Bus, Clock, Timer

logger = logging.getLogger("unpod.runner")

EVERY_S: Final = 1.0


class Announcer:
    """Announces what `describe()` returns on `subject`; changes of one turn of the event loop are said once.

    `over` is told of the task that does so, if that has ended by itself.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        clock: Clock,
        describe: Callable[[], RunnerAnnounced],
        over: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._clock = clock
        self._describe = describe
        self._over = over
        self._due = asyncio.Event()
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Announce from now on."""
        self._due.set()
        self._task = asyncio.create_task(self._announce(), name="unpod-presence")
        self._task.add_done_callback(self._over)

    def changed(self) -> None:
        """Say it now, rather than within a second."""
        self._due.set()

    async def stop(self, last: RunnerAnnounced) -> None:
        """Say `last` and nothing more."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        if self._timer is not None:
            self._timer.cancel()
        await self._say(last)

    async def _announce(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._clock.call_later(EVERY_S, self._due.set)
            await self._say(self._describe())

    async def _say(self, announced: RunnerAnnounced) -> None:
        try:
            await self._bus.publish(self._subject, encode(announced))
        except LogError as error:  # it is said again within a second
            logger.debug("could not announce: %s", type(error).__name__)
