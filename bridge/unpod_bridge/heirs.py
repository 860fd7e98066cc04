"""The workers of bridges that are gone: the orchestrator must find their jobs, which go on here, under their old names.

While any job of such a worker lives, one of the bridges that have them keeps a control socket under the worker's id,
with no room for new jobs: the one with the smallest id, as all can see in the records. A bridge that is there after all
keeps its worker. A job that is called off here and lives elsewhere is passed on (`Neighbours.forward_cancel`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from unpod_bridge.control import ControlLink
from unpod_bridge.job_records import JobRecord, Records

logger = logging.getLogger("unpod.bridge")

LOOK_S: Final = 1.0


class Books(Protocol):
    """Where a job is entered while it lives."""

    def up(self, job_id: str) -> None:
        """Its call has begun."""
        ...

    def ended(self, job_id: str) -> None:
        """It is over."""
        ...


class Heirs:
    """Keeps the control sockets of workers whose bridges are gone. `make` returns a link for a job's worker."""

    def __init__(
        self,
        bridge_id: str,
        records: Records,
        alive: Callable[[str], bool],
        make: Callable[[JobRecord], ControlLink],
    ) -> None:
        self._bridge_id = bridge_id
        self._records = records
        self._alive = alive
        self._make = make
        self._jobs: dict[str, JobRecord] = {}
        self._links: dict[str, ControlLink] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}

    def enter(self, record: JobRecord) -> None:
        """Another bridge's job goes on here."""
        self._jobs[record.job] = record

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

    def _link_of(self, job_id: str) -> ControlLink | None:
        record = self._jobs.get(job_id)
        return None if record is None else self._links.get(record.worker)

    async def run(self) -> None:
        """See to it that each worker has its socket, until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                if self._jobs or self._links:
                    self._look()
        finally:
            for run in tuple(self._runs.values()):
                run.cancel()
            await asyncio.gather(*self._runs.values(), return_exceptions=True)

    def _look(self) -> None:
        holders: dict[str, set[str]] = {}
        for record, _ in self._records.all():
            if record.bridge == self._bridge_id or self._alive(record.bridge):
                holders.setdefault(record.worker, set()).add(record.bridge)
        wanted = {
            record.worker: record
            for record in self._jobs.values()
            if not self._alive(record.home) and min(holders.get(record.worker, {""})) == self._bridge_id
        }
        for worker, record in wanted.items():
            if worker not in self._links:
                self._open(worker, record)
        for worker, link in tuple(self._links.items()):
            if worker not in wanted:
                self._close(worker, link)

    def _open(self, worker: str, record: JobRecord) -> None:
        logger.info("the jobs of the worker %s, whose bridge is gone, are called off here", worker)
        link = self._links[worker] = self._make(record)
        for job_id, each in self._jobs.items():
            if each.worker == worker:
                link.registration.enter(job_id)
        self._runs[worker] = asyncio.create_task(self._run(worker, link), name="unpod-heir")

    def _close(self, worker: str, link: ControlLink) -> None:
        for job_id, record in self._jobs.items():
            if record.worker == worker:
                link.registration.ended(job_id)
        link.leave()
        del self._links[worker]

    async def _run(self, worker: str, link: ControlLink) -> None:
        try:
            await link.run()
        except ConnectionError as error:  # told by the links of our own workers, too
            logger.debug("the worker %s is not registered any more: %s", worker, type(error).__name__)
        finally:
            if self._links.get(worker) is link:
                del self._links[worker]
            if self._runs.get(worker) is asyncio.current_task():
                del self._runs[worker]
