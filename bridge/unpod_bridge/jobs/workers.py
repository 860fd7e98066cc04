"""The workers that this bridge has registered: its own, and those of bridges that are gone.

Each pool of runners is one worker, with this bridge's share of its capacity.

The orchestrator must find the jobs of a bridge that is gone under their old worker's name. While any job of such a
worker lives, one of the bridges that have them keeps a control socket under the worker's id, with no room for new
jobs: the one with the smallest id, as all can see in the records. A bridge that is there after all gets its worker
back: it is told when the socket here is closed, and registers anew, since the orchestrator knows one socket of a
worker. A job that is called off here and lives elsewhere is passed on (`Orphans.forward_cancel`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Final, Protocol, assert_never

from unpod.core.subjects import Subjects
from unpod.errors import LogError, OrchestratorTooOld, RunnerAuthError
from unpod.ports import Bus, Message, Subscription
from unpod_bridge.fleet.runners import Join, Pool, Renew, Roster, Standing, Step, Unregister
from unpod_bridge.jobs.store import JobRecord, JobRecords
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.registration import backoff_s

logger = logging.getLogger("unpod.bridge")

LOOK_S: Final = 1.0
AT_ONCE: Final = 16
_REMEMBERED: Final = 1_000

MakeLink = Callable[[Pool, str, Callable[[], None]], ControlLink]
"""Makes the link of a pool's worker, given its id and what to call at each change of its state."""


class WorkerJobs(Protocol):
    """A worker that counts its jobs, or several (`ControlLink` is one)."""

    def up(self, job_id: str) -> None:
        """Its call has begun."""
        ...

    def ended(self, job_id: str) -> None:
        """It is over."""
        ...

    def taken_away(self) -> None:
        """Another bridge has taken one of them for a dead bridge's."""
        ...


class Workers:
    """Keeps the control sockets of all workers of this bridge; `changed` is called where one of its own has changed."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        bridge_id: str,
        records: JobRecords,
        alive: Callable[[str], bool],
        *,
        make: MakeLink,
        changed: Callable[[], None],
        look_s: float = LOOK_S,
        answer_s: float = 0.5,
        backoff: Callable[[int, float], float] = backoff_s,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._bridge_id = bridge_id
        self._records = records
        self._alive = alive
        self._make = make
        self._changed = changed
        self._look_s = look_s
        self._answer_s = answer_s
        self._backoff = backoff
        self.own: dict[Pool, ControlLink] = {}
        """The links of the workers that are this bridge's."""
        self.failed = asyncio.Event()
        """The orchestrator refuses us for good."""
        self._roster = Roster()
        self._ids: dict[Pool, str] = {}
        self._draining = False
        self._jobs: dict[str, JobRecord] = {}
        self._inherited: dict[str, ControlLink] = {}
        self._owed: dict[str, str] = {}  # workers that were registered here, and whose they are
        self._refused: dict[str, tuple[int, float]] = {}
        """How often in a row a worker's registration was refused, and before when it is not tried again."""
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Hear of workers that are given back; raises LogError."""
        given_back = f"{self._subjects.bridge(self._bridge_id)}.worker"
        self._subscription = await self._bus.subscribe(given_back, self._on_given_back)

    async def run(self) -> None:
        """See to it that each worker of a bridge that is gone has its socket, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            if self._jobs or self._inherited:
                self._look_after_inherited()
            await self._give_back()

    def drain(self) -> None:
        """Take no more jobs; workers leave when their calls are over."""
        self._draining = True
        for link in tuple(self.own.values()):
            link.drain()

    async def until_left(self) -> None:
        """Return once all of our own have left."""
        runs = [run for link in self.own.values() if (run := self._runs.get(link.registration.identity.worker_id))]
        if runs:
            await asyncio.wait(runs)

    async def close(self, patience_s: float) -> None:
        """Close all sockets."""
        runs = tuple(self._runs.values())
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs, timeout=patience_s)
        if self._subscription is not None:
            await self._subscription.close()

    # --------------------------------------------------------------------------------------------------------- our own

    def look(self, standings: Mapping[Pool, Standing], now: float) -> None:
        """Bring the registrations in line with the runners that there are."""
        for pool, link in self.own.items():
            standing = standings.get(pool, Standing())
            link.registration.set_capacity(standing.capacity if standing.serving else 0, standing.closed_for)
        if not self._draining:
            for step in self._roster.update(standings, now):
                self._take(step, standings)

    def _take(self, step: Step, standings: Mapping[Pool, Standing]) -> None:
        link = self.own.get(step.pool)
        match step:
            case Join():
                if link is None:
                    self._join(step.pool, standings[step.pool])
                else:
                    link.stay()
            case Renew():
                if link is not None:
                    link.renew()
            case Unregister():
                if link is not None:
                    link.leave()
            case _:
                assert_never(step)

    def _join(self, pool: Pool, standing: Standing) -> None:
        worker = self._ids.setdefault(pool, f"{pool.agent}#{token_hex(4)}")
        link = self.own[pool] = self._make(pool, worker, self._changed)
        link.registration.set_capacity(standing.capacity, standing.closed_for)
        self._runs[worker] = asyncio.create_task(self._run_own(pool, worker, link), name="unpod-control")
        self._changed()

    async def _run_own(self, pool: Pool, worker: str, link: ControlLink) -> None:
        try:
            await link.run()
        except (RunnerAuthError, OrchestratorTooOld) as error:
            logger.error("%s", error)  # noqa: TRY400 - its text says what to do
            self.failed.set()  # the link stays, so that how it stands goes on being announced
            return
        except Exception:
            logger.exception("the control link of %r has failed; a new one is made", pool.name)
        del self.own[pool], self._runs[worker]
        self._roster.gone(pool)
        self._changed()

    def _on_given_back(self, message: Message) -> None:
        """A worker of ours was registered by another bridge, and is by nobody now."""
        link = self._own(message.data.decode("utf-8", "replace"))
        if link is not None:
            link.register_anew()
        if message.reply:
            try:
                self._bus.send(message.reply, b"ok")
            except LogError as error:  # it is told again
                logger.debug("a bridge could not be answered: %s", type(error).__name__)

    def _own(self, worker: str) -> ControlLink | None:
        return next((link for link in self.own.values() if link.registration.identity.worker_id == worker), None)

    # ----------------------------------------------------------------------------------- those of bridges that are gone

    def enter(self, record: JobRecord) -> None:
        """Another bridge's job goes on here, or one of our own comes home."""
        self._jobs[record.job.job_id] = record
        link = self._own(record.job.worker_id)
        if link is not None:
            link.registration.enter(record.job.job_id)

    def up(self, job_id: str) -> None:
        """Its call has begun (`WorkerJobs.up`)."""
        link = self._link_of(job_id)
        if link is not None:
            link.registration.up(job_id)

    def ended(self, job_id: str) -> None:
        """It is over (`WorkerJobs.ended`)."""
        link = self._link_of(job_id)
        self._jobs.pop(job_id, None)
        if link is not None:
            link.ended(job_id)

    def taken_away(self) -> None:
        """Another bridge has one of them now (`WorkerJobs.taken_away`): the next look finds out what that means."""

    def _link_of(self, job_id: str) -> ControlLink | None:
        record = self._jobs.get(job_id)
        return None if record is None else self._inherited.get(record.job.worker_id) or self._own(record.job.worker_id)

    def _look_after_inherited(self) -> None:
        holders: dict[str, set[str]] = {}
        for record, _ in self._records.all():
            if record.bridge == self._bridge_id or self._alive(record.bridge):
                holders.setdefault(record.job.worker_id, set()).add(record.bridge)
        wanted = {
            record.job.worker_id: record
            for record in self._jobs.values()
            if not self._alive(record.home) and min(holders.get(record.job.worker_id, {""})) == self._bridge_id
        }
        now = asyncio.get_running_loop().time()
        self._refused = {worker: refused for worker, refused in self._refused.items() if worker in wanted}
        for worker, record in wanted.items():
            if worker not in self._inherited and self._refused.get(worker, (0, now))[1] <= now:
                self._inherit(worker, record)
        for worker, link in tuple(self._inherited.items()):
            if worker not in wanted:
                self._let_go(worker, link)

    def _inherit(self, worker: str, record: JobRecord) -> None:
        logger.info("the jobs of the worker %s, whose bridge is gone, are called off here", worker)
        pool = Pool(record.job.agent_id, record.job.dev)
        link = self._inherited[worker] = self._make(pool, worker, _nothing)
        for job_id, each in self._jobs.items():
            if each.job.worker_id == worker:
                link.registration.enter(job_id)
        self._owed.pop(worker, None)  # the newest is forgotten last
        self._owed[worker] = record.home
        if len(self._owed) > _REMEMBERED:
            del self._owed[next(iter(self._owed))]
        self._runs[worker] = asyncio.create_task(self._run_inherited(worker, link), name="unpod-inherited-worker")

    def _let_go(self, worker: str, link: ControlLink) -> None:
        for job_id, record in self._jobs.items():
            if record.job.worker_id == worker:
                link.registration.ended(job_id)
        link.leave()
        del self._inherited[worker]

    async def _run_inherited(self, worker: str, link: ControlLink) -> None:
        try:
            await link.run()
        except ConnectionError as error:  # told by the links of our own workers, too
            logger.debug("the worker %s is not registered any more: %s", worker, type(error).__name__)
            times, _ = self._refused.get(worker, (0, 0.0))
            pause_s = self._backoff(times, random.random())  # noqa: S311 - spreads load
            self._refused[worker] = times + 1, asyncio.get_running_loop().time() + pause_s
        finally:
            if self._inherited.get(worker) is link:
                del self._inherited[worker]
            if self._runs.get(worker) is asyncio.current_task():
                del self._runs[worker]

    async def _give_back(self) -> None:
        """Tell those who are there again that their workers are registered by nobody, some at once in each look."""
        due = [(worker, home) for worker, home in self._owed.items() if worker not in self._runs and self._alive(home)]
        await asyncio.gather(*(self._give_one_back(worker, home) for worker, home in due[:AT_ONCE]))

    async def _give_one_back(self, worker: str, home: str) -> None:
        try:
            subject = f"{self._subjects.bridge(home)}.worker"
            await self._bus.request(subject, worker.encode(), timeout_s=self._answer_s)
        except LogError as error:
            logger.debug("%s cannot be told to register %s: %s", home, worker, type(error).__name__)
            if worker in self._owed:
                self._owed[worker] = self._owed.pop(worker)  # the others first
        else:
            logger.info("%s is there again, and has its worker %s back", home, worker)
            self._owed.pop(worker, None)


def _nothing() -> None:
    """Nobody is told how the registration of an inherited worker stands."""
