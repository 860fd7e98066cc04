"""The jobs of one bridge: from their assignment, over the place at a runner and the call, to their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Literal, Protocol

from unpod.core.dispatch_messages import Refusal
from unpod.errors import Fenced, LogError, LogFull, UnpodError
from unpod_bridge.call.settings import MOVED, Cleanup
from unpod_bridge.fleet.dispatch import Ask, Dispatcher, RunnerPlace
from unpod_bridge.jobs.store import Claim, JobRecords
from unpod_bridge.jobs.workers import WorkerJobs
from unpod_bridge.journal.room import Fullness
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.effects import Assigned

logger = logging.getLogger("unpod.bridge")

LONGEST_ID = 120
LONGEST_REASON = 40
BEGUN_S = 1.0
"""How long a call that is up waits until its record says so; after that the record is written beside it."""


class Result(Protocol):
    """How a call went; `duration_s` is 0 where it was never up."""

    @property
    def reason(self) -> str:
        """Why it ended."""
        ...

    @property
    def duration_s(self) -> float:
        """How long it was up."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it was up at all."""
        ...

    @property
    def after(self) -> Cleanup | None:
        """What its owner has left to do."""
        ...


class Line(Protocol):
    """One call, as a job has it (`call.Call`, `adopted_job.Revival`)."""

    async def run(self) -> Result:
        """Carry the call to its end."""
        ...

    def cancel(self) -> None:
        """End the call, dialling or up."""
        ...

    async def let_go(self) -> bool:
        """Hand the call over to another bridge; return whether everything about it is stored, and its socket closed."""
        ...


class Claiming(Protocol):
    """This bridge's claim of one job (`jobs.store.Claim`)."""

    async def begun(self, session_id: str) -> None:
        """The call is up; raises Fenced where another bridge has the job."""
        ...

    async def release(self) -> None:
        """Let another bridge have the call."""
        ...

    async def leave(self) -> None:
        """The call is let go of."""
        ...

    async def drop(self) -> None:
        """The job is over."""
        ...


OnBegin = Callable[[str], Awaitable[None]]
MakeLine = Callable[[Job, RunnerPlace, bool], Line]
"""Makes what carries a job's call, given whether another bridge was about to begin it."""


@dataclass(slots=True)
class _Search:
    link: ControlLink
    ask: Ask
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Call:
    worker: WorkerJobs
    job: Job
    claim: Claiming = field(repr=False)
    place: RunnerPlace | None = None
    inherited: bool = False
    line: Line | None = None
    after: Cleanup | None = None
    task: asyncio.Task[None] | None = None
    noting: asyncio.Task[None] | None = None
    session: str = ""
    begun: bool = False
    lost: bool = False


class Jobs:
    """All jobs of this bridge (`workers.control_link.JobHandler`)."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        records: JobRecords,
        fullness: Fullness,
        make_line: MakeLine,
        *,
        begun_s: float = BEGUN_S,
    ) -> None:
        self._dispatcher = dispatcher
        self._records = records
        self._fullness = fullness
        self._make_line = make_line
        self._begun_s = begun_s
        self._searches: dict[str, _Search] = {}
        self._promised: dict[str, _Call] = {}
        self._calls: dict[str, _Call] = {}
        self._closing: dict[str, _Call] = {}
        self._releasing = False
        self.on_elsewhere: Callable[[str], None] = lambda _: None
        """Told of a job that is called off, and is not here."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def calls(self) -> int:
        """How many calls there are, those still being dialled among them."""
        return len(self._calls)

    def sessions(self) -> list[tuple[str, str, str]]:
        """Return job, session ("" while it is being dialled) and agent of each call."""
        return [(job, call.session, call.job.agent_id) for job, call in self._calls.items()]

    async def until_idle(self) -> None:
        """Return once nothing is looked for, no call is there, and every record is written."""
        await self._idle.wait()

    async def abandon(self, grace_s: float) -> None:
        """End everything at once; what has not ended after `grace_s` is left behind."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=grace_s)

    # --------------------------------------------------------------------------------------------- what workers ask for

    def find(self, link: ControlLink, assigned: Assigned) -> None:
        """Look for a runner (`JobHandler.find`)."""
        search = _Search(link, Ask(assigned.job, assigned.ask_until))
        self._searches[assigned.job.job_id] = search
        search.task = self._spawn(self._search(search), "unpod-search")

    def extend(self, assigned: Assigned) -> None:
        """The job has come again (`JobHandler.extend`)."""
        search = self._searches.get(assigned.job.job_id)
        if search is not None:
            search.ask.job, search.ask.until = assigned.job, assigned.ask_until

    def withdraw(self, job_id: str) -> None:
        """Stop looking (`JobHandler.withdraw`)."""
        search = self._searches.pop(job_id, None)
        # A search that is making the record goes on: it finds that the job is not wanted, and takes all back in order.
        if search is not None and not search.ask.found and search.task is not None:
            search.task.cancel()

    def dial(self, job: Job) -> None:
        """Begin the call (`JobHandler.dial`)."""
        call = self._promised.pop(job.job_id)
        call.job = job
        assert call.place is not None  # noqa: S101 - it was promised on one
        call.place.on_begin = lambda session_id: self._begun(call, session_id)
        self._begin(call, self._make_line(job, call.place, call.inherited))

    def cancel(self, job_id: str) -> None:
        """End the call (`JobHandler.cancel`)."""
        if not self.cancel_here(job_id):
            self.on_elsewhere(job_id)

    def cancel_here(self, job_id: str) -> bool:
        """End the call, if it is here; return whether it is."""
        call = self._calls.get(job_id)
        if call is not None and call.line is not None:
            asyncio.get_running_loop().call_soon(call.line.cancel)  # after `run` has begun: its task may be new
        return call is not None

    # ------------------------------------------------------------------------------------------------- other bridges

    def has(self, job_id: str) -> bool:
        """Whether a job's call is here."""
        return job_id in self._calls

    def retire(self, job_id: str) -> None:
        """The job comes anew: if a call of it is still here, that one was lost, and closes without being counted."""
        call = self._calls.pop(job_id, None)
        if call is not None:
            call.worker.ended(job_id)

    def carry(self, job: Job, worker: WorkerJobs, claim: Claiming, make: Callable[[OnBegin], Line]) -> None:
        """Carry a job that was not assigned here; `make` returns its call, given what to tell once that has begun.

        Its call must not be here yet (`has`, `retire`).
        """
        call = _Call(worker, job, claim)
        self._begin(call, make(lambda session_id: self._begun(call, session_id)))

    def release(self) -> None:
        """Let other bridges have the calls, those too that are still being dialled; each goes on until one takes it."""
        self._releasing = True
        for call in (*self._calls.values(), *self._closing.values()):
            self._release(call)

    def _release(self, call: _Call) -> None:
        before = call.noting

        async def release() -> None:
            if before is not None:
                await asyncio.wait({before})
            await call.claim.release()

        call.noting = self._spawn(release(), "unpod-record")

    async def leave(self, patience_s: float) -> None:
        """Let go of all calls, for a bridge that comes later; their records stay."""
        calls = [call for call in self._calls.values() if call.line is not None]
        if calls:
            logger.warning("%d calls are left for another bridge", len(calls))
            await asyncio.wait([self._spawn(self._leave(call), "unpod-leave") for call in calls], timeout=patience_s)

    async def _leave(self, call: _Call) -> None:
        if call.line is not None and await call.line.let_go():
            await call.claim.leave()

    async def let_go(self, job_id: str) -> bool:
        """Hand a call over (`AdoptingBridge.let_go`)."""
        ended, call = self._closing.get(job_id), self._calls.get(job_id)
        if ended is not None and ended.after is not None:
            await ended.after.leave_cleanup()
            return True
        return call is not None and call.line is not None and await call.line.let_go()

    # --------------------------------------------------------------------------------------------------------- search

    async def _search(self, search: _Search) -> None:
        job_id = search.ask.job.job_id
        try:
            # It may have come from another bridge.
            found = "elsewhere" if self.has(job_id) else await self.find_place(search.ask)
        except UnpodError as error:
            logger.warning("job %s: %s", shown(job_id), error)
            found = "at_capacity"
        wanted = self._searches.get(job_id) is search
        if wanted:
            del self._searches[job_id]
        if isinstance(found, tuple):
            place, claim = found
            call = _Call(search.link, search.ask.job, claim, place, claim.inherited)
            await self._promise(call, search.link, wanted=wanted)
        elif not wanted:
            return
        elif found == "elsewhere":
            logger.info("job %s: its call lives at another bridge", shown(job_id))
            search.link.elsewhere(job_id)
        else:
            logger.info("job %s refused: %s", shown(job_id), found)
            search.link.refused(job_id, found)

    async def find_place(self, ask: Ask) -> tuple[RunnerPlace, Claim] | Refusal | Literal["elsewhere"]:
        """Return the place that a runner keeps for a job, and this bridge's claim of it, or why there are none.

        Raises:
            LogError: NATS does not let us ask.
        """
        job_id = ask.job.job_id
        refusal = await self._fullness.refusal(ask.job.agent_id)
        place = await self._dispatcher.find(ask) if refusal is None else refusal
        if not isinstance(place, RunnerPlace):
            return "elsewhere" if self._records.elsewhere(job_id) else place
        ask.found = True
        claim, why = None, "no record"
        try:
            async with asyncio.timeout_at(ask.until):
                claim = await self._records.claim(ask.job)
            why = "elsewhere"
        except (TimeoutError, LogError) as error:
            logger.warning("job %s: the job store takes no record: %s", shown(job_id), type(error).__name__)
            return "jobs_full" if isinstance(error, LogFull) else "jobs_away"
        finally:
            if claim is None:
                await place.release(why)
        return "elsewhere" if claim is None else (place, claim)

    async def _promise(self, call: _Call, link: ControlLink, *, wanted: bool) -> None:
        """Accept the job; where it is wanted no more, give everything back."""
        job_id = call.job.job_id
        if wanted:
            self._promised[job_id] = call
            link.taken(job_id)  # comes back as `dial`
        if not wanted or self._promised.pop(job_id, None) is not None:
            if call.place is not None:
                await call.place.release("withdrawn")
            await call.claim.drop()

    # ----------------------------------------------------------------------------------------------------------- call

    def _begin(self, call: _Call, line: Line) -> None:
        call.line = line
        self._calls[call.job.job_id] = call
        call.task = self._spawn(self._carry(call), "unpod-call")

    async def _begun(self, call: _Call, session_id: str) -> None:
        """The call is up: its record says so before the log has more than its line.

        Raises:
            Fenced: another bridge has the job.
        """
        call.session = session_id
        call.worker.up(call.job.job_id)
        note = call.noting = self._spawn(self._note(call, session_id), "unpod-record")
        # A store that does not answer must not keep the caller: without the record, the log tells that it has begun.
        await asyncio.wait({note}, timeout=self._begun_s)
        if call.lost:
            raise Fenced("another bridge has the job")
        call.begun = True
        if self._releasing:
            self._release(call)

    async def _note(self, call: _Call, session_id: str) -> None:
        try:
            await call.claim.begun(session_id)
        except Fenced:
            call.lost = True
            if call.begun and call.line is not None:
                await call.line.let_go()

    async def _carry(self, call: _Call) -> None:
        moved = False
        try:
            moved = await self._run(call)
        finally:
            if self._calls.get(call.job.job_id) is call:
                self.retire(call.job.job_id)
        if call.after is not None:
            self._closing[call.job.job_id] = call
            try:
                await call.after.clean_up()
            finally:
                call.after = None
                if self._closing.get(call.job.job_id) is call:
                    del self._closing[call.job.job_id]
        if call.noting is not None:
            await asyncio.wait({call.noting})
        if not moved:
            await call.claim.drop()

    async def _run(self, call: _Call) -> bool:
        """Carry a call to its end; return whether another bridge has it now."""
        assert call.line is not None  # noqa: S101 - `_begin` has set it
        try:
            result = await call.line.run()
        except Exception as error:  # noqa: BLE001 - a defect in one call must not end the others
            # The error's text may hold what was said, so only its kind is told.
            logger.error("call ended: %s: a defect in the bridge: %s", _name(call), type(error).__name__)  # noqa: TRY400
            if call.place is not None:
                await call.place.release("error")
            return False
        if result.reason == MOVED:
            logger.info("call handed on: %s", _name(call))
            if not self._releasing:
                call.worker.taken_away()
            return True
        how = f"after {result.duration_s:.1f} s" if result.connected else "before it was up"
        logger.info("call ended: %s: %s, %s", _name(call), _plain(result.reason), how)
        call.line, call.after = None, result.after
        return False

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed: %s", task.get_name(), type(error).__name__)


def shown(identifier: str) -> str:
    """Return an id as it may stand in a line of a log."""
    return identifier if identifier.isprintable() and len(identifier) <= LONGEST_ID else repr(identifier[:LONGEST_ID])


def _name(call: _Call) -> str:
    return f"job {shown(call.job.job_id)}, call {shown(call.job.call_id)}, agent {shown(call.job.agent_id)}"


def _plain(reason: str) -> str:
    """Return why a call ended, unless an agent has put more than a name there."""
    return (
        reason
        if len(reason) <= LONGEST_REASON and reason.replace("_", "").isalpha()
        else "for a reason of the agent's own"
    )
