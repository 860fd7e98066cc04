"""Whether the runners that own this bridge's sessions are alive: who has gone, and which sessions are to be moved.

Each second a runner is asked on a subject of its own, which a thread of it answers, so that code that blocks its event
loop does not make it look dead. Nobody there: it is dead. No answer, or one that does not know a session, three times
in a row: the session is lost. An event loop that has not turned for `LAG_S`: its sessions are moved. A runner that
comes back before another has answered keeps its sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import PULSE, HandOver, Ping, Pulse, Told, encode, sendable
from unpod.core.subjects import Subjects
from unpod.errors import LogError, LogUnavailable, NoResponders
from unpod.ports import Bus, Clock
from unpod_bridge.fleet.horizon import Horizon

logger = logging.getLogger("unpod.bridge.runner_health")

PING_S: Final = 1.0
ANSWER_S: Final = 0.8
"""How long an answer may take; one that is missed is asked for again at once."""
MISSES: Final = 3
GRACE_S: Final = 2.0
"""How long a session may be unknown to the runner that has just been told to start it."""
LAG_S: Final = 5.0
NOBODY: Final = 2
"""A runner is dead if so many times in a row nobody listens; one that changes servers is back within the pause."""
NOBODY_PAUSE_S: Final = 0.15
RECONNECTED_S: Final = 2.0
"""For how long after we have lost our connection a missing listener proves nothing: runners lost theirs, too."""
DEAF_S: Final = 2.0
"""Silence counts only if the server has answered us within so many seconds; it is asked each second."""
PROBES: Final = 10
PROBE_S: Final = 0.03
AT_ONCE: Final = 16
"""How many sessions of a runner that is gone begin to look for another in one turn of the event loop."""
CHUNK: Final = 250
"""How many sessions one ping names: no turn waits for more than that."""


class WatchedSession(Protocol):
    """A session that is watched. What is called must not raise."""

    @property
    def session_id(self) -> str:
        """Which."""
        ...

    @property
    def index(self) -> int:
        """The bridge's last index."""
        ...

    @property
    def heard_at(self) -> float:
        """When its caller has said something: what a runner dies of is mostly what it was told last."""
        ...

    @property
    def uncharted(self) -> int | None:
        """Behind which index of its owner's records it is not known where they stand; None where nothing is lacking."""
        ...

    def heard(self, last: int, stored: tuple[int, list[int]] | None, horizon: int) -> None:
        """Its owner says that it has sent records up to an index, and none behind it when the log was at `horizon`.

        `stored` is where those behind another index stand, if that was asked.
        """
        ...

    def lost(self, why: str, culprit: str = "") -> None:
        """Its owner is gone, or is to be replaced; `culprit` is the session that it was busy with, where it says so."""
        ...

    def succeed(self) -> None:
        """Look for another owner; called after `lost`, when all that have lost the same owner know."""
        ...

    def found(self) -> None:
        """Its owner is there after all."""
        ...

    def hand_over(self) -> None:
        """Its owner wants to let go of it."""
        ...


@dataclass(slots=True)
class _Watched:
    session: WatchedSession
    runner_id: str
    epoch: int
    placed_at: float
    misses: int = 0
    lost: bool = False

    def lose(self, why: str, culprit: str = "") -> bool:
        """Return whether that is new."""
        new = not self.lost
        if new:
            self.lost = True
            self.session.lost(why, culprit)
        return new

    def missed(self) -> None:
        self.misses += 1
        if self.misses >= MISSES and self.lose("does not answer for it"):
            self.session.succeed()

    def beats(self, last: int, stored: tuple[int, list[int]] | None, horizon: int) -> None:
        self.misses = 0
        if self.lost:
            self.lost = False
            self.session.found()
        self.session.heard(last, stored, horizon)


class RunnerHealth:
    """Watches over the owners of all sessions of one bridge; `on_dead` hears of each runner that is gone for good."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        clock: Clock,
        bridge_id: str,
        horizon: Horizon | None = None,
        *,
        on_dead: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._clock = clock
        self._bridge_id = bridge_id
        self._horizon = Horizon() if horizon is None else horizon
        self._on_dead = on_dead
        self._sessions: dict[str, _Watched] = {}
        self._runners: dict[str, dict[str, _Watched]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._said_gone: dict[str, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = True
        self._connected_at = float("-inf")
        self._heard_at = float("inf")

    # ------------------------------------------------------------------------------------------------ what is watched

    def add(self, session: WatchedSession, runner_id: str, epoch: int) -> None:
        """Watch a session at the runner that has just begun it, and no longer at the one before."""
        self.remove(session.session_id)
        watched = _Watched(session, runner_id, epoch, self._clock.now())
        self._sessions[session.session_id] = watched
        self._runners.setdefault(runner_id, {})[session.session_id] = watched

    def remove(self, session_id: str) -> None:
        """Watch a session no more."""
        watched = self._sessions.pop(session_id, None)
        if watched is not None:
            sessions = self._runners[watched.runner_id]
            del sessions[session_id]
            if not sessions:
                del self._runners[watched.runner_id]

    def holds(self, session: WatchedSession) -> bool:
        """Whether a session is watched, and its owner is there as far as we know."""
        watched = self._sessions.get(session.session_id)
        return watched is not None and not watched.lost

    # ------------------------------------------------------------------------------------------------------- the rounds

    async def run(self) -> None:
        """Ask all runners each second, until cancelled."""
        try:
            while True:
                await self._clock.sleep(PING_S)
                for runner_id in tuple(self._runners):
                    if runner_id not in self._asking:
                        self._ask(runner_id)
        finally:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def connected(self, up: bool) -> None:  # noqa: FBT001 - a listener of the connection
        """Our own connection has been lost, or is back: all are asked at once."""
        self._up = up
        if up:
            self._connected_at = self._clock.now()
            for runner_id in tuple(self._runners):
                self._ask(runner_id)

    def server_answered(self, _now: float = 0.0) -> None:
        """Runners could be heard, had they said anything; after a silence of the server they may have to come back."""
        if not self._hears():
            self._connected_at = self._clock.now()
        self._heard_at = self._clock.now()

    def _hears(self) -> bool:
        return self._clock.now() - self._heard_at < DEAF_S

    def said_gone(self, runner_id: str) -> None:
        """Somebody says that a runner has gone: look at once, even if it has no session."""
        looking = runner_id in self._said_gone
        self._said_gone[runner_id] = True
        if not looking:
            _ = self._start(self._look_for(runner_id))

    def hand_over(self, said: HandOver, reply: str) -> None:
        """A runner lets go of sessions, and waits for a word on `reply`, if that is a subject."""
        for session_id in said.sessions:
            watched = self._sessions.get(session_id)
            if watched is not None and watched.runner_id == said.runner:
                watched.session.hand_over()
        if reply:
            try:
                self._bus.send(reply, encode(Told(ok=True)))
            except LogError as error:
                logger.debug("the runner %s could not be answered: %s", said.runner, type(error).__name__)

    def _ask(self, runner_id: str) -> None:
        former = self._asking.get(runner_id)
        if former is not None:
            former.cancel()
        task = self._start(self._check(runner_id))
        self._asking[runner_id] = task
        task.add_done_callback(lambda done: self._asked(runner_id, done))

    def _asked(self, runner_id: str, task: asyncio.Task[None]) -> None:
        if self._asking.get(runner_id) is task:
            del self._asking[runner_id]

    async def _check(self, runner_id: str) -> None:
        nobody = 0
        now = asyncio.get_running_loop().time
        while (watched := self._of(runner_id)) and nobody < NOBODY:
            asked_at = now()
            try:
                for chunk in _chunks(watched):
                    await self._ping(runner_id, chunk, ANSWER_S)
            except NoResponders:
                nobody += self._clock.now() - self._connected_at >= RECONNECTED_S
                if nobody < NOBODY:
                    await self._clock.sleep(NOBODY_PAUSE_S)
            except LogError as error:
                if not self._has_missed(error, now() - asked_at):
                    return
                still = self._current(watched)
                for each in still:
                    each.missed()
                if all(each.lost for each in still):
                    return
            else:
                return
        self._dead(runner_id)
        self._on_dead(runner_id)

    def _has_missed(self, error: LogError, after_s: float) -> bool:
        """Whether a ping without answer counts: not if it was not sent, nor if it is we whom nobody hears."""
        if not isinstance(error, LogUnavailable):
            logger.error("runners cannot be asked how they are: %s", error)
            return False
        heard = self._up and self._hears()
        return heard and after_s >= ANSWER_S / 2 and self._clock.now() - self._connected_at >= PING_S

    async def _look_for(self, runner_id: str) -> None:
        """Look once for all that was said before a look begins: it can be said without end."""
        while self._said_gone[runner_id]:
            self._said_gone[runner_id] = False
            await self._probe(runner_id)
        del self._said_gone[runner_id]

    async def _probe(self, runner_id: str) -> None:
        """Ask one that is said to have gone, in short tries: what it was asked while it died has no answer."""
        for _ in range(PROBES):
            watched = self._of(runner_id)
            try:
                for chunk in _chunks(watched) if watched else ((),):
                    await self._ping(runner_id, chunk, PROBE_S)
            except NoResponders:
                self._dead(runner_id)
                await self._make_sure(runner_id)
                return
            except LogError:
                continue
            else:
                return

    async def _make_sure(self, runner_id: str) -> None:
        """Look again: if a runner has only changed servers, its agent's registration must not end."""
        await self._clock.sleep(NOBODY_PAUSE_S)
        try:
            await self._ping(runner_id, (), ANSWER_S)
        except NoResponders:
            if self._clock.now() - self._connected_at >= RECONNECTED_S:
                self._on_dead(runner_id)
        except LogError as error:
            logger.debug("the runner %s does not answer: %s", runner_id, type(error).__name__)

    async def _ping(self, runner_id: str, watched: Sequence[_Watched], timeout_s: float) -> None:
        sessions = {each.session.session_id: each.session.index for each in watched}
        after = {each.session.session_id: index for each in watched if (index := each.session.uncharted) is not None}
        question = encode(Ping(bridge=self._bridge_id, sessions=sessions, after=after))
        horizon = self._horizon.seq
        answer = await self._bus.request(f"{self._subjects.runner(runner_id)}.ping", question, timeout_s=timeout_s)
        try:
            pulse = PULSE.decode(answer.data)
        except MALFORMED:
            logger.warning("the runner %s gave an answer that cannot be read", runner_id)
            pulse = None
        self._take(pulse, watched, horizon)

    def _take(self, pulse: Pulse | None, watched: Iterable[_Watched], horizon: int) -> None:
        now = self._clock.now()
        if pulse is not None and pulse.lag_s > LAG_S:
            self._lose(watched, f"has not turned for {pulse.lag_s:.0f} s", pulse.culprit)
            return
        for each in self._current(watched):
            session_id = each.session.session_id
            epoch, last = (0, 0) if pulse is None else pulse.sessions.get(session_id, (0, 0))
            stored = None if pulse is None else pulse.stored.get(session_id)
            if epoch == each.epoch:
                each.beats(last, stored, horizon)
            elif now - each.placed_at >= GRACE_S:
                each.missed()

    def _dead(self, runner_id: str) -> None:
        watched = self._of(runner_id)
        if any(not each.lost for each in watched):
            logger.warning("the runner %s is gone: %d sessions look for another", runner_id, len(watched))
        self._lose(watched, "is gone")

    def _lose(self, watched: Iterable[_Watched], why: str, culprit: str = "") -> None:
        """Tell all that they have lost their owner, and then let them look for another, the first ones at once."""
        lost = [each for each in _newest_first(self._current(watched)) if each.lose(why, culprit)]
        for each in lost[:AT_ONCE]:
            each.session.succeed()
        if len(lost) > AT_ONCE:
            _ = self._start(self._succeed(lost[AT_ONCE:]))

    async def _succeed(self, lost: Sequence[_Watched]) -> None:
        """Let many look for another owner, a few in each turn of the event loop."""
        for first in range(0, len(lost), AT_ONCE):
            await asyncio.sleep(0)
            for each in lost[first : first + AT_ONCE]:
                if each.lost and self._sessions.get(each.session.session_id) is each:
                    each.session.succeed()

    def _of(self, runner_id: str) -> list[_Watched]:
        return list(self._runners.get(runner_id, {}).values())

    def _current(self, watched: Iterable[_Watched]) -> list[_Watched]:
        """Return those that have not come to another owner since they were listed: an answer says nothing of that."""
        return [each for each in watched if self._sessions.get(each.session.session_id) is each]

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="unpod-runner-health")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _chunks(watched: Sequence[_Watched]) -> Iterator[Sequence[_Watched]]:
    return sendable(watched, lambda each: each.session.session_id, most=CHUNK)


def _newest_first(watched: Iterable[_Watched]) -> list[_Watched]:
    """Return the sessions in the order in which they are to be looked after."""
    return sorted(watched, key=lambda each: each.session.heard_at, reverse=True)
