"""The shell of a new call: dials, takes the line once the call is up, appoints its owner, and then carries it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from unpod.core.subjects import CallSubjects
from unpod.errors import Fenced, LogError, ProtocolViolation
from unpod_bridge.call.call import Call
from unpod_bridge.call.settings import LineResult, LineSettings
from unpod_bridge.call.takeover import Care
from unpod_bridge.journal.journal import Writing
from unpod_bridge.journal.placements import LineServices, Place, appoint, take_line
from unpod_bridge.journal.until_answered import PAUSE_S
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.owners import Owner
from unpod_bridge.protocol.reconnect import LET_GO
from unpod_bridge.wire.job import Job

__all__ = ["BEGUN", "LineResult", "LineServices", "LineSettings", "NewCall", "Place"]

logger = logging.getLogger("unpod.bridge.line")

BEGUN: Final = "begun"
"""How a new call ends here of which the log shows that another bridge had begun it: it is to be taken over."""


class NewCall(Call):
    """One call on this bridge, from its assignment to its end; `inherited`: another bridge had begun to place it."""

    def __init__(
        self,
        job: Job,
        place: Place,
        services: LineServices,
        settings: LineSettings | None = None,
        care: Care | None = None,
        *,
        inherited: bool = False,
    ) -> None:
        super().__init__(job, services, settings, care)
        self._place = place
        self._inherited = inherited
        self._place_open = True

    def _enter(self) -> None:
        self._feed(self._protocol.start(self._clock.now()))

    def _begin(self, output: do.Begin) -> None:
        self._started_at = self._clock.now()
        self._spawn(self._place_call(output))

    async def _place_call(self, begin: do.Begin) -> None:
        try:
            if self._inherited and await self._has_begun(begin.session_id):
                self._link.close(LET_GO)
                await self._give_back("its call had begun", LineResult(BEGUN, 0.0, connected=False))
                return
            placed = await self._take_and_appoint(begin)
        except (LogError, ProtocolViolation) as error:
            logger.warning("job %s: the call is up, and cannot be placed: %s", self._job.job_id, error)
            if self._journal is not None and await self._has_moved(error):
                await self._give_back("another bridge has the call")
                self._move()
                return
            placed = False
            if self._journal is None:  # nothing of it is in the log
                self._link.close(LET_GO if isinstance(error, Fenced) else 1000)
                await self._give_back("the call could not be placed", LineResult("lost", 0.0, connected=False))
                return
        self._place_open = not placed
        self._feed(self._protocol.begin(self._clock.now()))
        if placed and self._subjects is not None and self._journal is not None:
            self._hear_controls(self._subjects, self._journal.writing.epoch)
        if not placed:
            self._feed(self._protocol.end("error", "no runner has taken the call", self._clock.now()))

    async def _has_moved(self, error: Exception) -> bool:
        """Whether a call whose line we had cannot be placed since another bridge has taken it: it goes on there."""
        return isinstance(error, Fenced) and not error.absent and not await self._lease.is_ours(self._is_over)

    async def _has_begun(self, session_id: str) -> bool:
        """Whether a bridge that has died had begun this call, though the job's record does not say so."""
        subjects = self._services.subjects.call(self._job.agent_id, session_id)
        return await self._services.log.last(subjects.evt("call.started")) is not None

    async def _take_and_appoint(self, begin: do.Begin) -> bool:
        services, session = self._services, begin.session_id
        subjects = await self._persist(lambda: self._listen(session))
        begun, line = await asyncio.gather(
            self._place.begin(session), self._take_line(subjects, session), return_exceptions=True
        )
        for failed in (begun, line):
            if isinstance(failed, BaseException):
                raise failed
        assert isinstance(line, tuple)  # noqa: S101 - it has not failed
        writing, own = line
        journal = self._journal = self._open_journal(writing)
        if self._inherited:  # what else was left behind, and where, is not known
            journal.stream_positions.spoil()
        patience_s = self._settings.protocol.buffer_s
        epoch, first = await appoint(services, subjects, begin, journal, self._place, after=own, patience_s=patience_s)
        self._feed(self._protocol.owner.appoint(epoch, self._clock.now()))
        # A runner may take seconds to answer: nothing waits for that.
        self._feed(self._protocol.begin(self._clock.now(), placed=False))
        started = await self._place.start(session, epoch, first, positions=journal.stream_positions.pack(epoch, first))
        if self._care is None:
            return started
        if not started:
            self._spawn(self._place.release("not started"))
        self._look_after(self._care, journal).begin(Owner(self._place.runner_id, epoch), started=started)
        return True

    async def _take_line(self, subjects: CallSubjects, session: str) -> tuple[Writing, int]:
        """Take the line, and return where an appointment stands that has come to nothing, 0 for none.

        A bridge that died while it placed this call may have left both. The job is ours: what is there and was not
        shown is looked for again.
        """
        services, patience_s = self._services, self._settings.protocol.buffer_s
        while True:
            line = await self._left_behind(subjects.line)
            try:
                writing = await take_line(services, subjects, self._job, session, after=line, patience_s=patience_s)
            except Fenced:
                if not self._inherited:
                    raise
                logger.info("job %s: its line has changed hands; trying again", self._job.job_id)
                await self._clock.sleep(PAUSE_S)
            else:
                return writing, await self._left_behind(subjects.own)

    async def _left_behind(self, subject: str) -> int:
        if not self._inherited:
            return 0
        newest = await self._persist(lambda: self._services.log.last(subject))
        return 0 if newest is None else newest.seq

    # -------------------------------------------------------------------------------------------------------- the end

    def _failed(self, output: do.Failed) -> None:
        log = logger.info if output.cancelled else logger.warning
        log("job %s: the call did not come up: %s", self._job.job_id, output.reason)
        self._spawn(self._release(output))

    async def _release(self, output: do.Failed) -> None:
        reason = "cancelled" if output.cancelled else "lost"
        await self._give_back(output.reason, LineResult(reason, 0.0, connected=False))

    async def _give_back(self, reason: str, result: LineResult | None = None) -> None:
        """Release the runner's place, once, and finish."""
        was_open, self._place_open = self._place_open, False
        try:
            if was_open:
                await self._place.release(reason)
        finally:
            if result is not None:
                self._finish(result)

    async def _hang_up(self) -> None:
        await super()._hang_up()
        if self._place_open:
            await self._give_back("the bridge has let the call go")
