"""Orphans come to a new runner one after the other: if one of them kills it, the others must not be blamed for that.

A session whose former owner may have died of it is on probation from its start at a runner until its new owner has
shown that it is past that, or for `PROBATION_S`. The first at a runner, which is the one that was spoken to last, is
alone there so long, but for `FIRST_S` at most: most that kill do it at once. The others follow each other by `NEXT_S`,
or as soon as one has passed. When a runner dies with one session on probation, that one is blamed. With several nobody
is, and from then on each of them is alone wherever it comes to.
"""

from __future__ import annotations

import asyncio
from typing import Final

from unpod.ports import Clock, Timer

PROBATION_S: Final = 2.0
FIRST_S: Final = 0.5
NEXT_S: Final = 0.05


class Probation:
    """One session's time of probation at one runner; `alone_s` is how long nobody follows."""

    __slots__ = ("_alone_s", "_door", "_over", "_timers")

    def __init__(self, alone_s: float) -> None:
        self._alone_s = alone_s
        self._door = asyncio.Event()
        self._over = asyncio.Event()
        self._timers: list[Timer] = []

    @property
    def over(self) -> bool:
        """Whether it has passed, or lost its owner again."""
        return self._over.is_set()

    @property
    def lets_in(self) -> bool:
        """Whether the next one may come."""
        return self._door.is_set()

    async def until_let_in(self, *, alone: bool) -> None:
        """Return when the next one may come, or one that is to be alone."""
        await (self._over if alone else self._door).wait()

    def begin(self, clock: Clock) -> None:
        """The session is started."""
        if not self.over:
            self._timers = [clock.call_later(self._alone_s, self._door.set), clock.call_later(PROBATION_S, self.end)]

    def end(self) -> None:
        """It is over."""
        self._over.set()
        self._door.set()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


class Probations:
    """Which runners have sessions on probation."""

    def __init__(self) -> None:
        self._at: dict[str, list[Probation]] = {}

    def count(self, runner_id: str) -> int:
        """How many sessions are on probation at a runner."""
        return sum(not probation.over for probation in self._at.get(runner_id, ()))

    async def enter(self, runner_id: str, *, alone: bool = False) -> tuple[Probation, bool]:
        """Return a new probation once it may begin at the runner, and whether that took a while."""
        waited = False
        while (former := self._in_the_way(runner_id, alone=alone)) is not None:
            waited = True
            await former.until_let_in(alone=alone)
        follows = waited or runner_id in self._at
        entered = Probation(PROBATION_S if alone else NEXT_S if follows else FIRST_S)
        self._at.setdefault(runner_id, []).append(entered)
        return entered, waited

    def _in_the_way(self, runner_id: str, *, alone: bool) -> Probation | None:
        """Return whom one that wants to come has to wait for."""
        for known, probations in tuple(self._at.items()):
            probations[:] = [probation for probation in probations if not probation.over]
            if not probations:
                del self._at[known]
        there = self._at.get(runner_id, [])
        return next((probation for probation in there if alone or not probation.lets_in), None)
