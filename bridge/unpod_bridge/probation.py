"""Orphans come to a new runner one after the other: if one of them kills it, the others must not be blamed for that.

A session whose former owner may have died of it is on probation from its start at a runner until its new owner has
shown that it is past that, or for `PROBATION_S`. The first at a runner, which is the one that was spoken to last, is
alone there so long, but for `FIRST_S` at most: most that kill do it at once. The others follow each other by `NEXT_S`,
or as soon as one has passed. When a runner dies with one session on probation, that one is blamed. With several nobody
is, and from then on each of them is alone wherever it comes to, after those that are not.

The orphans of one runner may be of several bridges. So bridges tell each other who wants to come to a runner, who has
come and who has passed, and wait a moment for that before they let anybody in. What is lost on the way costs the order,
and an innocent session at most one unjust count of the two that it takes.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable
from typing import Final

from unpod.core.fleet import ProbationAnnounced, ProbationPhase
from unpod.ports import Clock, Timer

PROBATION_S: Final = 2.0
FIRST_S: Final = 0.5
NEXT_S: Final = 0.05
SETTLE_S: Final = 0.02
"""How long the others' wishes may be on their way."""
FORGET_S: Final = 3.0
"""How long it counts what another bridge has said and not taken back: it may have died."""


class Probation:
    """One session's time of probation at one runner; `alone_s` is how long nobody follows."""

    __slots__ = ("_alone_s", "_clock", "_say", "_timers", "lets_in", "over")

    def __init__(self, alone_s: float, clock: Clock, say: Callable[[ProbationPhase], None]) -> None:
        self._alone_s = alone_s
        self._clock = clock
        self._say = say
        self._timers: list[Timer] = []
        self.over = False
        """Whether it has passed, or lost its owner again."""
        self.lets_in = False
        """Whether the next one may come."""

    def begin(self) -> None:
        """The session is started."""
        if not self.over:
            later = self._clock.call_later
            self._timers = [later(self._alone_s, self._open), later(PROBATION_S, self.end)]
            self._say("begun")

    def end(self) -> None:
        """It is over."""
        for timer in self._timers:
            timer.cancel()
        if not self.over:
            self.over = self.lets_in = True
            self._say("over")

    def _open(self) -> None:
        self.lets_in = True
        self._say("lets_in")


class _Remote:
    """What another bridge has said of one of its sessions at a runner."""

    __slots__ = ("lets_in", "order", "phase", "timer")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.phase: ProbationPhase = "wants"
        self.lets_in = False
        self.timer: Timer | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    @property
    def over(self) -> bool:
        return self.phase in ("wants", "over")


Order = tuple[bool, float, str]
"""Who comes first: those that need not be alone; of them the one whose caller was silent for the shortest."""


class Probations:
    """Which runners have sessions on probation, and who waits for that.

    `announce` tells the other bridges; `accompanied` says whether there are any.
    """

    def __init__(
        self,
        clock: Clock,
        bridge_id: str = "",
        announce: Callable[[ProbationAnnounced], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._bridge_id = bridge_id
        self._tell_others = announce
        self.accompanied: Callable[[], bool] = lambda: False
        self._at: dict[str, list[Probation]] = {}
        self._wants: dict[str, list[Order]] = {}
        """Who waits at a runner, the next one first."""
        self._turns: dict[tuple[str, Order], asyncio.Event] = {}
        """What wakes each of them: only the next one can have come to its turn."""
        self._remote: dict[str, dict[tuple[str, str], _Remote]] = {}

    def count(self, runner_id: str) -> int:
        """How many sessions are on probation at a runner."""
        ours = sum(not probation.over for probation in self._at.get(runner_id, ()))
        return ours + sum(not remote.over for remote in self._remote.get(runner_id, {}).values())

    async def enter(self, runner_id: str, session_id: str, silent_s: float, *, alone: bool = False) -> Probation:
        """Return a new probation once it may begin at the runner.

        `silent_s` is how long ago its caller has spoken.
        """
        order = (alone, silent_s, session_id)
        insort(self._wants.setdefault(runner_id, []), order)
        turn = self._turns[runner_id, order] = asyncio.Event()
        say = self._speaker(runner_id, order)
        say("wants")
        waited = False
        try:
            if self.accompanied():
                await self._clock.sleep(SETTLE_S)
            while self._is_in_the_way(runner_id, order):
                waited = True
                turn.clear()
                await turn.wait()
        except BaseException:
            self._leave(runner_id, order)
            say("over")
            raise
        self._leave(runner_id, order)
        follows = waited or bool(self._at[runner_id]) or self.count(runner_id) > 0
        entered = Probation(PROBATION_S if alone else NEXT_S if follows else FIRST_S, self._clock, say)
        self._at[runner_id].append(entered)
        say("entered")
        return entered

    def hear(self, said: ProbationAnnounced) -> None:
        """Take what another bridge says."""
        if said.bridge == self._bridge_id:
            return
        remotes = self._remote.setdefault(said.runner, {})
        key = said.bridge, said.session
        remote = remotes.setdefault(key, _Remote((said.alone, said.silent_s, said.session)))
        remote.cancel()
        remote.phase, remote.lets_in = said.phase, said.phase == "lets_in"
        if said.phase == "over":
            self._forget(said.runner, key)
            return
        for_s = PROBATION_S if said.phase in ("begun", "lets_in") else FORGET_S
        remote.timer = self._clock.call_later(for_s, lambda: self._forget(said.runner, key))
        self._tell(said.runner)

    def departed(self, bridge_id: str) -> None:
        """A bridge is gone, and nothing that it has said counts."""
        for runner_id, remotes in tuple(self._remote.items()):
            for key in [key for key in remotes if key[0] == bridge_id]:
                self._forget(runner_id, key)

    def _forget(self, runner_id: str, key: tuple[str, str]) -> None:
        remote = self._remote.get(runner_id, {}).pop(key, None)
        if remote is not None:
            remote.cancel()
        if not self._remote.get(runner_id, True):
            del self._remote[runner_id]
        self._tell(runner_id)

    def _speaker(self, runner_id: str, order: Order) -> Callable[[ProbationPhase], None]:
        alone, silent_s, session_id = order

        def say(phase: ProbationPhase) -> None:
            if self.accompanied():
                self._tell_others(
                    ProbationAnnounced(
                        bridge=self._bridge_id,
                        runner=runner_id,
                        session=session_id,
                        phase=phase,
                        silent_s=silent_s,
                        alone=alone,
                    )
                )
            self._tell(runner_id)

        return say

    def _is_in_the_way(self, runner_id: str, order: Order) -> bool:
        """Whether one that wants to come has to wait for another."""
        alone = order[0]
        ours = self._at.setdefault(runner_id, [])
        ours[:] = [probation for probation in ours if not probation.over]
        remotes = self._remote.get(runner_id, {}).values()
        there = [each.lets_in for each in ours] + [each.lets_in for each in remotes if not each.over]
        if any(alone or not lets_in for lets_in in there):
            return True
        waiting = [self._wants[runner_id][0], *(each.order for each in remotes if each.phase == "wants")]
        return min(waiting) < order

    def _leave(self, runner_id: str, order: Order) -> None:
        self._wants[runner_id].remove(order)
        del self._turns[runner_id, order]

    def _tell(self, runner_id: str) -> None:
        waiting = self._wants.get(runner_id)
        if waiting:
            self._turns[runner_id, waiting[0]].set()
