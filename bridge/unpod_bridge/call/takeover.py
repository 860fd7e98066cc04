"""The care for one session's owner: that it has one, from its first to the end of its cleanup.

When the owner is gone another runner is asked, until one answers; until then the old one is heard, should it live.
Then, in this order: nothing of the old owner is heard any more, the new one is appointed in the log (from here on the
server refuses what the old one writes), what the old one had stored is performed, the new one's starting point is
stored, and the new one is told to start. It folds up to that point, and only then is live. One of which the old owner
may have died is held there until its turn has come (`unpod.runner.probation`): the reading is done by then.

Until a runner has answered, the old owner may come back, and stays; once one is about to be appointed, it may not:

::

    owned             ── hand_over ──▶ yielding   it wants to let go, and carries on until the turn is over
    owned, yielding   ───── lost ────▶ seeking    it is gone, and another is looked for
    yielding, seeking ──── found ────▶ owned      it is there after all, and stays
    yielding, seeking ─── answered ──▶ committed  another is appointed; should it not start, the next one is asked
    all three         ───── over ────▶ owned      somebody has started, or the search has failed
    any               ───────────────▶ closed     the session is closed, or nothing can be done
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from unpod.core.dispatch_messages import Suspicion
from unpod.errors import LogError, LogUnavailable
from unpod.ports import Stored
from unpod_bridge.call.takeover_log import TakeoverLog
from unpod_bridge.fleet.dispatch import Resumption, RunnerPlace
from unpod_bridge.fleet.runner_health import RunnerHealth
from unpod_bridge.fleet.suspects import Suspect, Suspects
from unpod_bridge.journal.journal import Journal
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.outputs import Output, Owned
from unpod_bridge.protocol.owners import CLEANUPS, EVERY, Owner, Poison, owner_changed

logger = logging.getLogger("unpod.bridge.takeover")

AT_ONCE: Final = 64
BETWEEN_TURNS_S: Final = 5.0
"""How long a call that is handed over may finish its turn."""
_LOOK_S: Final = 0.05
_HOLD_S: Final = 1.0
CLEANUP_S: Final = 600.0
"""For how long a runner is looked for that does the cleanup of a call that has ended."""
_COMMIT_S: Final = 10.0
"""How long an appointment that is under way may take when its call ends meanwhile."""
YOUNG_S: Final = 10.0
"""An owner that dies so soon may have died of what it went through again, whatever that was."""


Phase = Literal["owned", "yielding", "seeking", "committed", "closed"]
Happening = Literal["hand_over", "lost", "found", "answered", "over"]

_NEXT: Final[dict[tuple[Phase, Happening], Phase]] = {
    ("owned", "hand_over"): "yielding",
    ("owned", "lost"): "seeking",
    ("yielding", "lost"): "seeking",
    ("yielding", "found"): "owned",
    ("seeking", "found"): "owned",
    ("yielding", "answered"): "committed",
    ("seeking", "answered"): "committed",
    ("yielding", "over"): "owned",
    ("seeking", "over"): "owned",
    ("committed", "over"): "owned",
}
"""What stands in no row changes nothing."""

Blame = Literal["none", "suspected", "certain"]
"""Whether the last owner has died of this session: it is on probation at the next one; a `certain` death counts."""


@dataclass(frozen=True, slots=True)
class Care:
    """What a bridge has to look after its sessions' owners; `find` asks for a place, without end."""

    runner_health: RunnerHealth
    suspects: Suspects
    find: Callable[[Resumption, str], Awaitable[RunnerPlace]]
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    """Whose turn it is to ask the log: in the order in which they were lost, each soon rather than all of them late."""


class OwnerTakeover:
    """One session's owners (`runner_health.WatchedSession`), while its call lives, and when only its cleanup is left.

    `feed` carries out what the call's protocol wants; `failed` is told that the log does not let us go on.
    """

    def __init__(
        self,
        wanted: Resumption,
        services: LineServices,
        care: Care,
        protocol: CallProtocol,
        journal: Journal,
        *,
        feed: Callable[[list[Output]], None],
        failed: Callable[[LogError], None],
    ) -> None:
        self.owner: Owner | None = None
        self.closed = asyncio.Event()
        """Set when nothing is left to do for the session, or nothing can be done."""
        self._wanted = wanted
        self._services = services
        self._care = care
        self._clock = services.clock
        subjects = services.subjects.call(wanted.pool.agent, wanted.session_id)
        self._closed_on = subjects.run("session.closed")
        self._protocol = protocol
        self._journal = journal
        self._feed = feed
        self._failed = failed
        self._log = TakeoverLog(wanted.session_id, services, subjects, journal.stream_positions)
        self._poison = Poison()
        self._probation: Suspect | None = None
        self._task: asyncio.Task[None] | None = None
        self._phase: Phase = "owned"
        self._blame: Blame = "none"
        self._alone = False
        self._said = 0
        self._started_at = 0.0
        self._settled = 0
        self._cleanups = 0

    # ------------------------------------------------------------------------------------------------------- the owner

    @property
    def session_id(self) -> str:
        """Which session."""
        return self._wanted.session_id

    @property
    def index(self) -> int:
        """The bridge's last index."""
        return self._journal.index

    @property
    def heard_at(self) -> float:
        """When the caller has said something; of a call that has ended nobody waits."""
        return 0.0 if self._ended else self._protocol.owner.heard_at

    @property
    def _ended(self) -> bool:
        """Whether the call is over, and only its cleanup is left."""
        return self._protocol.phase == "over"

    @property
    def _busy(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return not self._ended and self._protocol.owner.busy

    @property
    def _here(self) -> int:
        """How far the owner's records are here; of a call that has ended, nothing that is not is missed."""
        return EVERY if self._ended else self._protocol.owner.index

    def begin(self, owner: Owner, *, started: bool, since: int = 0) -> None:
        """The session has an owner, which was told to start, and has answered or not.

        `since` is the sequence of the session's first `own`, where that is not this owner's.
        """
        self.owner = owner
        self._log.begin(since or owner.epoch)
        if started:
            self._watch(owner)
        else:
            self._leaves()
            self._seek("lost")

    def on_record(self, subject: str, owned: Owned) -> None:
        """Take a record of an owner: it may be past what its predecessor has died of, or have come to its end."""
        if self.owner is None or owned.epoch != self.owner.epoch:
            return
        if owned.settled > self._settled:
            self._settled = owned.settled
            if not self._ended:  # what is left of a call that has ended is its cleanup, which no record settles
                self._passed()
        if subject == self._closed_on:
            self.close_session()

    def on_delta(self, epoch: int) -> None:
        """The owner speaks: it is past its hooks."""
        if self._probation is not None and self.owner is not None and epoch == self.owner.epoch:
            self._passed()

    def close_session(self) -> None:
        """Nothing is left to do."""
        self._care.runner_health.remove(self.session_id)
        self._end_probation()
        self._phase = "closed"
        self.closed.set()

    async def call_ended(self) -> None:
        """What is left is the cleanup: see to it that somebody does it.

        An appointment that is under way comes to its end; a search begins anew, since this one has a bound.
        """
        task = self._task
        if task is not None:
            if self._phase == "committed":
                await asyncio.wait({task}, timeout=_COMMIT_S)
            task.cancel()
            await asyncio.wait({task})
        if self.owner is not None and not self._care.runner_health.holds(self):
            if self._blame == "none":
                self._blame = "suspected"  # it was lost as the call ended: by what is left of it, for all we know
            self._seek("lost")

    async def close(self) -> None:
        """Care no more."""
        self.close_session()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def displaced(self) -> None:
        """Another bridge has appointed an owner: where the log has that and the line is ours, appoint one at once.

        A bridge whose sending was held up may do so after it has lost the line. Its owner will never be told to begin,
        and ours is refused: it cannot help that, so it is not to blame.
        """
        owner = self.owner
        if owner is None or await self._log.newest_of_others(owner) is None:
            return
        if self.owner is owner and not self._ended:  # else we have replaced it ourselves meanwhile
            logger.info("session %s: another bridge has appointed an owner; asking for one", self.session_id)
            self._blame = "none"
            self.succeed()

    # ---------------------------------------------------------------------------------------------- what is heard of it

    @property
    def uncharted(self) -> int | None:
        """Behind which index of the owner's records it is not known where they stand."""
        stream_positions = self._journal.stream_positions
        newest = self._said if self._ended else max(self._said, self._here)
        return stream_positions.owner_index if stream_positions.lacks(newest) else None

    def heard(self, last: int, stored: tuple[int, list[int]] | None = None, horizon: int = 0) -> None:
        """The owner says, each second, how far it has written: what it said the last time must be here by now."""
        if stored is not None:
            self._journal.stream_positions.told(*stored)
        self._journal.stream_positions.sent(last, horizon)
        due, self._said = self._said, last
        if due > self._here:
            self._feed(self._protocol.owner.catch_up(due, self._clock.now()))

    def lost(self, why: str, culprit: str = "") -> None:
        """The owner is gone: ask for another."""
        logger.info("session %s: its owner %s; asking for another", self.session_id, why)
        self._judge(culprit)

    def succeed(self) -> None:
        """Ask for another: all that had the same owner know of its loss."""
        self._leaves()
        self._seek("lost")

    def found(self) -> None:
        """The owner is there after all: unless another has answered, it stays."""
        if self._task is not None and self._go("found"):
            logger.info("session %s: its owner is there again", self.session_id)
            self._task.cancel()
            self._task = None
            self._feed(self._protocol.owner.stays(self._clock.now()))

    def hand_over(self) -> None:
        """The owner wants to let go, between turns if there is time; it goes on until another is appointed."""
        if self._phase == "owned":
            self._blame = "none"
            self._seek("hand_over")

    def _judge(self, culprit: str) -> None:
        """Consider whether the owner may have died of this session, rather than of another that it had."""
        if self.owner is None:
            return
        if culprit:  # the owner lives, and has said whose code it stands still in
            self._blame = "certain" if culprit == self.session_id else "none"
            return
        phase = "over" if self._probation is None else self._probation.phase
        on_probation = phase == "begun"
        others = self._care.suspects.count(self.owner.runner_id) - on_probation
        if not self._is_suspect():
            self._blame = "none"
        else:
            self._blame = "suspected" if others or phase == "held" else "certain"  # of what is held, nothing has run
        self._alone = self._alone or (on_probation and others > 0)

    def _is_suspect(self) -> bool:
        young = self._clock.now() - self._started_at < YOUNG_S
        if self._busy or self._ended:  # or, with nothing left but its cleanup, of that
            return True
        return self._settled == 0 or (young and self.owner is not None and self.owner.takeover > 0)

    # --------------------------------------------------------------------------------------------------------- another

    def _watch(self, owner: Owner) -> None:
        self._started_at = self._clock.now()
        self._care.runner_health.add(self, owner.runner_id, owner.epoch)

    def _leaves(self) -> None:
        """The owner is gone: the caller waits."""
        self._feed(self._protocol.owner.leaves(self._clock.now()))

    def _go(self, happening: Happening) -> bool:
        """Return whether something leads to another phase."""
        following = _NEXT.get((self._phase, happening))
        self._phase = following or self._phase
        return following is not None

    def _seek(self, why: Literal["hand_over", "lost"]) -> None:
        if self._go(why) and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._find_owner(), name="unpod-takeover")
            self._task.add_done_callback(self._sought)

    def _sought(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
            self._go("over")
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, LogError):
                logger.error("session %s: its owner cannot be replaced: %s", self.session_id, type(error).__name__)
            if self._ended:
                self.close_session()
            self._failed(error if isinstance(error, LogError) else LogError("a defect in the bridge"))

    async def _find_owner(self) -> None:
        avoid = "" if self.owner is None else self.owner.runner_id
        while not await self._is_over():
            try:
                async with asyncio.timeout(CLEANUP_S if self._ended else None):
                    place = await self._care.find(self._wanted, avoid)
            except TimeoutError:
                self._cleanups = CLEANUPS
                continue
            if await self._try(place):
                return
            avoid = place.runner_id

    async def _try(self, place: RunnerPlace) -> bool:
        try:
            return await self._let_in(place) and await self._take_over(place)
        except BaseException:
            place.decline()
            raise

    def _passed(self) -> None:
        self._alone = False
        self._end_probation()

    def _end_probation(self) -> None:
        if self._probation is not None:
            self._care.suspects.end(self._probation)
            self._probation = None

    async def _is_over(self) -> bool:
        """Whether no owner is needed any more: the cleanup is done, or has failed too often."""
        if not self._ended:
            return False
        try:
            done = await self._services.log.last(self._closed_on) is not None
        except LogUnavailable:
            done = False
        if not done and self._cleanups >= CLEANUPS:
            logger.error("session %s: it has ended, and its cleanup is given up", self.session_id)
            done = True
        if done:
            self.close_session()
        return done

    async def _let_in(self, place: RunnerPlace) -> bool:
        """Wait until the session may come to a runner; return whether that still keeps a place for it."""
        waited = await self._between_turns()
        return not waited or await place.hold(asyncio.get_running_loop().time() + _HOLD_S)

    async def _between_turns(self) -> bool:
        """Let the turn come to its end, if it does soon; return whether that took a while."""
        until = self._clock.now() + BETWEEN_TURNS_S
        waited = False
        while self._phase == "yielding" and self._busy and self._clock.now() < until:
            waited = True
            await self._clock.sleep(_LOOK_S)
        return waited

    async def _take_over(self, place: RunnerPlace) -> bool:
        """Make a runner the owner; return False if it has not begun."""
        former = self.owner
        if former is None:
            return False
        async with self._care.turns:
            self._go("answered")
            self._end_probation()
            appointed = await self._appoint(former, place)
        if appointed is None:
            return True
        owner, stored = appointed
        positions = self._journal.stream_positions.pack(owner.epoch, stored.seq)
        suspicion = None if self._blame == "none" else self._suspicion()
        if suspicion is not None:
            self._probation = self._care.suspects.hold(owner.runner_id, self.session_id, owner.epoch)
        if not await place.start(self.session_id, owner.epoch, stored.seq, suspicion=suspicion, positions=positions):
            self._end_probation()
            self._leaves()
            return False
        logger.info("session %s: taken over by %s", self.session_id, owner.runner_id)
        self._watch(owner)
        if suspicion is not None and not place.lets_in:
            self._care.suspects.begin(owner.runner_id, self.session_id, owner.epoch)
            await place.start(self.session_id, owner.epoch, stored.seq)  # pings show it, should there be no answer
        return True

    def _suspicion(self) -> Suspicion:
        silent_s = self._clock.now() - self.heard_at
        return Suspicion(silent_s=silent_s, alone=self._alone, cleanup=self._ended)

    async def _appoint(self, former: Owner, place: RunnerPlace) -> tuple[Owner, Stored] | None:
        """Make a runner the owner in the log, and return its starting point, too; None where the call is given up."""
        self._cleanups += self._ended
        self._protocol.owner.dismiss()
        owner = self.owner = await self._log.appoint(former, place)
        tip = await self._log.tip(owner.epoch, self._here)
        self._feed(self._protocol.owner.inherit(tip.records, self._log.last, self._clock.now()))
        progress = self._protocol.owner.progress
        self._settled = max(self._settled, tip.settled)
        if self._blame == "certain" and not self._ended:  # no input is to blame for a cleanup that kills
            self._poison.lost(self._settled)
            if self._poison.hopeless:
                place.decline()
                why = "the same input has taken its runner down four times"
                self._feed(self._protocol.end("error", why, self._clock.now()))
                return None
        if self._blame == "certain":
            self._blame = "suspected"  # that counts once
        skip = await self._log.suspect(owner.epoch) if self._poison.skips else ""
        body = owner_changed(owner, self._log.last, progress, skip)
        stored = await self._journal.append(body)
        self._feed(self._protocol.owner.appoint(owner.epoch, self._clock.now()))
        return owner, stored
