"""Orphans come to a new runner one at a time: if one of them kills it, the others must not be blamed, or lost, as well.

A session whose former owner may have died of it is on probation from its start at a runner until its new owner has
shown that it is past that, or for `PROBATION_S`. The next one for the same runner waits so long.
"""

from __future__ import annotations

import asyncio
from typing import Final

from unpod.ports import Clock, Timer

PROBATION_S: Final = 2.0


class Probation:
    """One session's time of probation at one runner."""

    __slots__ = ("_over", "_timer")

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._timer: Timer | None = None

    @property
    def over(self) -> bool:
        """Whether it has passed, or lost its owner again."""
        return self._over.is_set()

    async def wait(self) -> None:
        """Return when it is over."""
        await self._over.wait()

    def begin(self, clock: Clock) -> None:
        """The session is started."""
        if not self.over:
            self._timer = clock.call_later(PROBATION_S, self.end)

    def end(self) -> None:
        """Let the next one in."""
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Probations:
    """Which runners have a session on probation."""

    def __init__(self) -> None:
        self._at: dict[str, Probation] = {}

    def busy(self, runner_id: str) -> bool:
        """Whether a session is on probation at a runner."""
        probation = self._at.get(runner_id)
        return probation is not None and not probation.over

    async def enter(self, runner_id: str) -> tuple[Probation, bool]:
        """Return a new probation once no other is left at the runner, and whether that took a while."""
        waited = False
        while (former := self._at.get(runner_id)) is not None and not former.over:
            waited = True
            await former.wait()
        for gone in [other for other, probation in self._at.items() if probation.over]:
            del self._at[gone]
        entered = self._at[runner_id] = Probation()
        return entered, waited
