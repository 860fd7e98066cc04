"""What a bridge does with the calls of others: goes on with those of bridges that are gone, and hands its own over."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from unpod.errors import Fenced, UnpodError
from unpod_bridge.call.adopting import UNSTARTED, AdoptedCall, Predecessor
from unpod_bridge.call.placing import BEGUN, NewCall
from unpod_bridge.call.settings import MOVED, LineResult
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.dispatch import Ask, Dispatcher, RunnerPlace
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.jobs.jobs import Jobs, OnBegin
from unpod_bridge.jobs.orphans import Orphan
from unpod_bridge.jobs.store import Claim, JobRecord
from unpod_bridge.jobs.workers import Workers
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.wire.job import Job

logger = logging.getLogger("unpod.bridge")

PAIRING_S: Final = 15.0
"""How long a call that had not begun is worth looking for a runner: its pairing expires after 20 s."""


class AdoptedJobs:
    """The calls that come from other bridges, and go to them (`orphans.AdoptingBridge`)."""

    def __init__(
        self,
        jobs: Jobs,
        workers: Workers,
        dispatcher: Dispatcher,
        services: LineServices,
        care: Care,
    ) -> None:
        self._jobs = jobs
        self._workers = workers
        self._dispatcher = dispatcher
        self._services = services
        self._care = care

    def adopt(self, orphan: Orphan, claim: Claim) -> None:
        """Go on with another bridge's call."""
        job = orphan.record.job
        self._jobs.retire(job.job_id)
        self._workers.enter(orphan.record)
        self._jobs.carry(job, self._workers, claim, lambda on_begin: Revival(self, orphan, on_begin))

    def begin(self, job: Job, place: RunnerPlace) -> Revival:
        """Return the call of a job that another bridge was about to begin, and may have begun."""
        return Revival(self, Orphan(JobRecord(job=job, bridge="", home="")), place.begin, place)

    async def let_go(self, job_id: str) -> bool:
        """Hand a call over."""
        return await self._jobs.let_go(job_id)

    def cancel(self, job_id: str) -> None:
        """End a call, if it is here."""
        self._jobs.cancel_here(job_id)

    def place(self, job: Job, runner_id: str) -> RunnerPlace:
        """Return the place that a runner has for a job."""
        pool = Pool(job.agent_id, job.dev)
        return RunnerPlace(self._dispatcher, runner_id, job.job_id, pool, resumes=True)

    def adopted_line(self, orphan: Orphan, session_id: str) -> AdoptedCall:
        """Return the object that carries a call that was up."""
        job = orphan.record.job
        predecessor = Predecessor(
            session_id=session_id,
            deaf_from=orphan.deaf_from,
            deaf_since=orphan.deaf_since,
            still_since=orphan.still_since,
            let_go=orphan.let_go,
            place_of=lambda runner_id: self.place(job, runner_id),
        )
        return AdoptedCall(job, predecessor, self._services, care=self._care)

    async def find(self, job: Job, on_begin: OnBegin) -> RunnerPlace | None:
        """Return a place for a call that was not up; None where no runner takes it."""
        loop = asyncio.get_running_loop()
        place = await self._dispatcher.find(Ask(job, loop.time() + PAIRING_S))
        if not isinstance(place, RunnerPlace):
            logger.warning("job %s: no runner takes it: %s", job.job_id, place)
            return None
        place.on_begin = on_begin
        return place

    def new_line(self, job: Job, place: RunnerPlace) -> NewCall:
        """Return the object that carries a call that was not up."""
        return NewCall(job, place, self._services, care=self._care, inherited=True)


class Revival:
    """Carries one orphan's call (`jobs.Line`): goes on with it, or dials it as new, at `place` if it has one.

    The record may not say that it had: then the log does, once the worker has told which session it is.
    """

    def __init__(
        self, adopted_jobs: AdoptedJobs, orphan: Orphan, on_begin: OnBegin, place: RunnerPlace | None = None
    ) -> None:
        self._adopted_jobs = adopted_jobs
        self._orphan = orphan
        self._on_begin = on_begin
        self._place = place
        self._line: AdoptedCall | NewCall | None = None
        self._called_off = False

    async def run(self) -> LineResult:
        """Carry the call to its end."""
        record, job = self._orphan.record, self._orphan.record.job
        if record.session:
            result = await self._carry(self._adopted_jobs.adopted_line(self._orphan, record.session))
            if result.reason != UNSTARTED:
                return result
            self._line = None
        place = self._place
        try:
            place = place or await self._adopted_jobs.find(job, self._on_begin)
        except UnpodError as error:
            logger.warning("job %s: %s", job.job_id, error)
        if place is None:
            return LineResult("lost", 0.0, connected=False)
        made = self._adopted_jobs.new_line(job, place)
        result = await self._carry(made)
        if result.reason != BEGUN:
            return result
        logger.info("job %s: its call had begun; it is taken over", job.job_id)
        try:
            await self._on_begin(made.session_id)
        except Fenced:
            return LineResult(MOVED, 0.0, connected=False)
        return await self._carry(self._adopted_jobs.adopted_line(self._orphan, made.session_id))

    async def _carry(self, line: AdoptedCall | NewCall) -> LineResult:
        self._line = line
        if self._called_off:
            line.cancel()
        return await line.run()

    def cancel(self) -> None:
        """End the call."""
        self._called_off = True
        if self._line is not None:
            self._line.cancel()

    async def let_go(self) -> bool:
        """Hand the call over."""
        return self._line is not None and await self._line.let_go()
