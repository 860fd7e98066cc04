"""The shell of a call that another bridge had: takes its line, reads how far it has come, and dials the worker again.

In this order: the owner is heard (and kept waiting), so that what it says from here on is not lost; the former bridge
is asked to let go, where it lives; the line is taken, and from here on the log refuses what the former bridge writes;
the log is read up to there, all of which is final; the protocol goes on from that, and then with what came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from msgspec import structs

from unpod.core import codec
from unpod.core.envelope import OVERHEAD
from unpod.core.live import SEEN_ANSWER, SeenAsked
from unpod.core.subjects import CallSubjects
from unpod.errors import Fenced, LogError
from unpod.ports import Message
from unpod_bridge.call.call import Call
from unpod_bridge.call.settings import LineResult, LineSettings
from unpod_bridge.call.takeover import Care
from unpod_bridge.journal.journal import Journal, Writing
from unpod_bridge.journal.placements import LineServices, Place, take_line
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.owners import Owner
from unpod_bridge.protocol.recovered_log import NEVER, CallLog, Hearing
from unpod_bridge.protocol.recovery import Recovery
from unpod_bridge.wire.job import Job

logger = logging.getLogger("unpod.bridge.line")

UNSTARTED: Final = "unstarted"
"""How a call ends here of which the log has nothing: it is to be dialled as a new one."""
MARGIN_S: Final = 0.02
"""How far, in seconds, the time of a lost connection may be off: the server tells it late, and clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """What is known of a call that another bridge had.

    From the sequence `deaf_from` of the log on, and from `deaf_since` on (the event loop's time), that bridge has heard
    nothing; one that stands still may hear, and has done nothing since `still_since`. `let_go` asks it to hand the call
    over, and returns whether it has. `place_of` returns the place of a runner that has the session.
    """

    session_id: str
    deaf_from: int = NEVER
    deaf_since: float | None = None
    still_since: float | None = None
    let_go: Callable[[], Awaitable[bool]] | None = None
    place_of: Callable[[str], Place] | None = None


class AdoptedCall(Call):
    """One call on this bridge, from the moment at which its former bridge was gone."""

    def __init__(
        self,
        job: Job,
        predecessor: Predecessor,
        services: LineServices,
        settings: LineSettings | None = None,
        care: Care | None = None,
    ) -> None:
        super().__init__(job, services, settings, care)
        self._predecessor = predecessor
        self._early: list[Callable[[], None]] | None = []

    def _enter(self) -> None:
        self._spawn(self._go_on())

    def cancel(self) -> None:
        """The orchestrator has called the job off; a call whose log is being read is ended after that."""
        if self._early is not None:
            self._called_off = True
        else:
            super().cancel()

    def _on_live(self, message: Message) -> None:
        if self._early is not None:
            self._early.append(partial(super()._on_live, message))
        else:
            super()._on_live(message)

    def _on_record(self, message: Message) -> None:
        if self._early is not None:
            self._early.append(partial(super()._on_record, message))
        else:
            super()._on_record(message)

    # -------------------------------------------------------------------------------------------------- taking it over

    async def _go_on(self) -> None:
        try:
            taken = await self._take()
        except LogError as error:
            logger.error("job %s: its call cannot be taken over: %s", self._job.job_id, error)  # noqa: TRY400
            self._finish(LineResult("lost", 0.0, connected=True))
            return
        if taken is None:
            self._finish(LineResult(UNSTARTED, 0.0, connected=False))
            return
        past, subjects = taken
        self._started_at = self._clock.now()
        if past.ended is None:
            logger.info("job %s: its call is taken over; dialling again", self._job.job_id)
        self._feed(self._protocol.adopt(past, self._clock.now()))
        self._release_early()
        if past.ended is None:
            self._hear_controls(subjects, 1)
        if self._care is not None and self._journal is not None and not past.finished:
            self._find_owner(self._care, past, self._journal)
        if past.ended is not None:
            self._finish(LineResult(past.ended.reason, 0.0, connected=True))
        elif self._called_off:
            self.cancel()

    def _release_early(self) -> None:
        early, self._early = self._early or [], None
        for hear in early:
            hear()

    async def _take(self) -> tuple[Recovery, CallSubjects] | None:
        """Take the line, and return how far the call has come; None where the log has nothing of it."""
        predecessor = self._predecessor
        subjects = await self._persist(lambda: self._listen(predecessor.session_id))
        clean = predecessor.let_go is not None and await predecessor.let_go()
        writing = await self._persist(lambda: self._take_line(subjects))
        reading = self._persist(lambda: self._read(subjects, writing.epoch))
        (log, stream_positions), seen = await asyncio.gather(
            reading, self._seen(subjects, writing.epoch, asks=not clean)
        )
        index = log.index
        refused = [store for message in seen if (store := log.add(message)) is not None]
        known = self._hearing(writing)
        hearing = log.hearing(known)
        past = log.adopted(hearing, clean=clean)
        deaf_s, still_s = self._ago(self._predecessor.deaf_since), self._ago(self._predecessor.still_since)
        if deaf_s is not None:
            still_s = deaf_s if hearing == known else None
        elif still_s is not None and log.has_written_since(self._log_ns(writing, still_s)):
            still_s = None  # it stands still no more
        past = structs.replace(past, line=writing.epoch, still_s=still_s)
        if not past.started:
            return None
        stream_positions.searched((), past.owner_index, writing.epoch)
        self._journal = self._open_journal(replace(writing, index=index), stream_positions)
        for store in refused:
            self._journal.put(store)
        return past, subjects

    async def _seen(self, subjects: CallSubjects, line: int, *, asks: bool) -> list[Message]:
        """Ask the owner which of the former bridge's newest records it has seen; return them, [] if unanswered."""
        if not asks:
            return []
        timeout_s = self._settings.seen_s
        try:
            answer = await self._services.bus.request(subjects.seen, codec.encode(SeenAsked(line)), timeout_s=timeout_s)
            records = SEEN_ANSWER.decode(answer.data).records
        except (LogError, *codec.MALFORMED):
            return []
        return [Message(record.subject, record.data, record.headers) for record in records]

    async def _read(self, subjects: CallSubjects, until_seq: int) -> tuple[CallLog, StreamPositions]:
        services = self._services
        log, stream_positions = (
            CallLog(services.subjects, subjects, self._predecessor.session_id),
            StreamPositions(services.horizon),
        )
        self._found = 0  # a former try may have come to nothing
        async for message in services.log.read(subjects.all, until_seq=until_seq):
            log.take(message)
            self._found += OVERHEAD + len(message.data)
            stream_positions.take(subjects, message)
        return log, stream_positions

    def _hearing(self, writing: Writing) -> Hearing:
        """Return what of the log the former bridge can have heard."""
        silent_s = self._ago(self._predecessor.deaf_since)
        if silent_s is None:
            return Hearing()
        return Hearing(self._predecessor.deaf_from, self._log_ns(writing, silent_s))

    def _log_ns(self, writing: Writing, ago_s: float) -> int:
        """Return when something was, in the log's time, whatever this machine's clock says."""
        return int((self._clock.now() + writing.offset_s - ago_s) * 1e9)

    def _ago(self, since: float | None) -> float | None:
        """Return how many seconds ago, at least, something was."""
        return None if since is None else max(0.0, asyncio.get_running_loop().time() - since - MARGIN_S)

    async def _take_line(self, subjects: CallSubjects) -> Writing:
        services, session = self._services, self._predecessor.session_id
        while True:
            former = await services.log.last(subjects.line)
            after = 0 if former is None else former.seq
            try:
                patience_s = self._settings.protocol.buffer_s
                return await take_line(services, subjects, self._job, session, after=after, patience_s=patience_s)
            except Fenced:  # the former bridge has taken it at the same moment; the job is ours all the same
                logger.info("job %s: its line has changed hands; trying again", self._job.job_id)

    # ------------------------------------------------------------------------------------------------------- its owner

    def _find_owner(self, care: Care, past: Recovery, journal: Journal) -> None:
        """Care for the owner; one that was appointed and never told has to make place for another."""
        owner_takeover = self._look_after(care, journal)
        if past.own is None:
            owner_takeover.begin(Owner("", 0), started=False)
            return
        first, own = past.own
        told = past.owner is not None and past.owner.epoch == own.epoch
        owner_takeover.begin(Owner(own.runner_id, own.epoch, own.takeover), started=told, since=first.epoch)
        if told and past.ended is None and self._predecessor.place_of is not None:
            self._spawn(self._remind(care, self._predecessor.place_of(own.runner_id), own.epoch, past.owner_seq))

    async def _remind(self, care: Care, place: Place, epoch: int, until_seq: int) -> None:
        """Tell the owner once more that it is: the former bridge may have died before it did."""
        if not await place.start(self.session_id, epoch, until_seq):
            care.runner_health.said_gone(place.runner_id)

    # --------------------------------------------------------------------------------------------------- how it may end

    def _failed(self, _: do.Failed) -> None:
        self._finish(LineResult("lost", 0.0, connected=False))

    def _begin(self, output: do.Begin) -> None:
        """Nothing to do: the call has begun at the former bridge."""
