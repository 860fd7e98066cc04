"""The workers of bridges that are gone: the orchestrator must find their jobs, which go on here, under their old names.

While any job of such a worker lives, one of the bridges that have them keeps a control socket under the worker's id,
with no room for new jobs: the one with the smallest id, as all can see in the records. A bridge that is there after all
gets its worker back: it is told when the socket here is closed, and registers anew, since the orchestrator knows one
socket of a worker. A job that is called off here and lives elsewhere is passed on (`Orphans.forward_cancel`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from unpod.errors import LogError
from unpod_bridge.jobs.store import JobRecord, JobRecords
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.registration import backoff_s

logger = logging.getLogger("unpod.bridge")

LOOK_S: Final = 1.0
AT_ONCE: Final = 16
_REMEMBERED: Final = 1_000


class Books(Protocol):
    """Where a job is entered while it lives."""

    def up(self, job_id: str) -> None:
        """Its call has begun."""
        ...

    def ended(self, job_id: str) -> None:
        """It is over."""
        ...

    def taken_away(self) -> None:
        """Another bridge has taken one of them for a dead bridge's."""
        ...


class InheritedWorkers:
    """Keeps the control sockets of workers whose bridges are gone.

    `make` returns a link for a job's worker; `give_back` tells a bridge that a worker of its own is registered by
    nobody else any more, and raises LogError where it does not hear that; `own` returns the link of a worker of ours.
    """

    def __init__(
        self,
        bridge_id: str,
        records: JobRecords,
        alive: Callable[[str], bool],
        *,
        make: Callable[[Job], ControlLink],
        give_back: Callable[[str, str], Awaitable[object]],
        own: Callable[[str], ControlLink | None],
        look_s: float = LOOK_S,
        backoff: Callable[[int, float], float] = backoff_s,
    ) -> None:
        self._bridge_id = bridge_id
        self._records = records
        self._alive = alive
        self._make = make
        self._give_back = give_back
        self._own = own
        self._look_s = look_s
        self._backoff = backoff
        self._owed: dict[str, str] = {}  # workers that were registered here, and whose they are
        self._jobs: dict[str, JobRecord] = {}
        self._links: dict[str, ControlLink] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, tuple[int, float]] = {}
        """How often in a row a worker's registration was refused, and before when it is not tried again."""

    def enter(self, record: JobRecord) -> None:
        """Another bridge's job goes on here, or one of our own comes home."""
        self._jobs[record.job.job_id] = record
        link = self._own(record.job.worker_id)
        if link is not None:
            link.registration.enter(record.job.job_id)

    def up(self, job_id: str) -> None:
        """Its call has begun (`Books.up`)."""
        link = self._link_of(job_id)
        if link is not None:
            link.registration.up(job_id)

    def ended(self, job_id: str) -> None:
        """It is over (`Books.ended`)."""
        link = self._link_of(job_id)
        self._jobs.pop(job_id, None)
        if link is not None:
            link.ended(job_id)

    def taken_away(self) -> None:
        """Another bridge has one of them now (`Books.taken_away`): the next look finds out what that means."""

    def _link_of(self, job_id: str) -> ControlLink | None:
        record = self._jobs.get(job_id)
        return None if record is None else self._links.get(record.job.worker_id) or self._own(record.job.worker_id)

    async def run(self) -> None:
        """See to it that each worker has its socket, until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._look_s)
                if self._jobs or self._links:
                    self._look()
                await self._return()
        finally:
            for run in tuple(self._runs.values()):
                run.cancel()
            await asyncio.gather(*self._runs.values(), return_exceptions=True)

    def _look(self) -> None:
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
            if worker not in self._links and self._refused.get(worker, (0, now))[1] <= now:
                self._open(worker, record)
        for worker, link in tuple(self._links.items()):
            if worker not in wanted:
                self._close(worker, link)

    async def _return(self) -> None:
        """Tell those who are there again that their workers are registered by nobody, some at once in each look."""
        due = [(worker, home) for worker, home in self._owed.items() if worker not in self._runs and self._alive(home)]
        await asyncio.gather(*(self._return_one(worker, home) for worker, home in due[:AT_ONCE]))

    async def _return_one(self, worker: str, home: str) -> None:
        try:
            await self._give_back(home, worker)
        except LogError as error:
            logger.debug("%s cannot be told to register %s: %s", home, worker, type(error).__name__)
            if worker in self._owed:
                self._owed[worker] = self._owed.pop(worker)  # the others first
        else:
            logger.info("%s is there again, and has its worker %s back", home, worker)
            self._owed.pop(worker, None)

    def _open(self, worker: str, record: JobRecord) -> None:
        logger.info("the jobs of the worker %s, whose bridge is gone, are called off here", worker)
        link = self._links[worker] = self._make(record.job)
        for job_id, each in self._jobs.items():
            if each.job.worker_id == worker:
                link.registration.enter(job_id)
        self._owed.pop(worker, None)  # the newest is forgotten last
        self._owed[worker] = record.home
        if len(self._owed) > _REMEMBERED:
            del self._owed[next(iter(self._owed))]
        self._runs[worker] = asyncio.create_task(self._run(worker, link), name="unpod-inherited-worker")

    def _close(self, worker: str, link: ControlLink) -> None:
        for job_id, record in self._jobs.items():
            if record.job.worker_id == worker:
                link.registration.ended(job_id)
        link.leave()
        del self._links[worker]

    async def _run(self, worker: str, link: ControlLink) -> None:
        try:
            await link.run()
        except ConnectionError as error:  # told by the links of our own workers, too
            logger.debug("the worker %s is not registered any more: %s", worker, type(error).__name__)
            times, _ = self._refused.get(worker, (0, 0.0))
            pause_s = self._backoff(times, random.random())  # noqa: S311 - spreads load
            self._refused[worker] = times + 1, asyncio.get_running_loop().time() + pause_s
        finally:
            if self._links.get(worker) is link:
                del self._links[worker]
            if self._runs.get(worker) is asyncio.current_task():
                del self._runs[worker]
