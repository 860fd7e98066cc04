"""The registered workers, and which of them gets the next job. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.control_frames import RegisterFrame, WorkerCapabilities


class WorkerSocket(Protocol):
    """What a worker has registered over."""

    def send(self, frame: RawFrame) -> None:
        """Sends a control frame."""
        ...


@dataclass(eq=False)
class RegisteredWorker:
    """One client that takes calls (the wire calls it a worker, too); `socket` is the one that it registered over."""

    worker_id: str
    pool: str
    capabilities: WorkerCapabilities
    socket: WorkerSocket
    heartbeats: int = 0
    last_heartbeat_s: float = 0.0
    active_jobs: int = 0
    assigned_total: int = 0
    jobs: set[str] = field(default_factory=set)

    @property
    def agent_id(self) -> str:
        """The agent that it answers for."""
        return self.capabilities.agent_id

    @property
    def free(self) -> int:
        """How many more calls it takes, dialling ones counted; its heartbeats would tell that too late."""
        return self.capabilities.max_concurrent - len(self.jobs)


class Registry:
    """Workers by id; a worker that registers again, from another socket too, keeps its jobs."""

    def __init__(self) -> None:
        self._workers: dict[str, RegisteredWorker] = {}
        self._jobs: dict[str, str] = {}

    def register(self, frame: RegisterFrame, socket: WorkerSocket) -> RegisteredWorker:
        """Adds a worker, or replaces what was known of it."""
        worker = RegisteredWorker(frame.worker_id, frame.pool, frame.capabilities, socket)
        worker.jobs = {job_id for job_id, worker_id in self._jobs.items() if worker_id == frame.worker_id}
        self._workers[frame.worker_id] = worker
        return worker

    def get(self, worker_id: str | None) -> RegisteredWorker | None:
        """The worker of that id, if it is registered now."""
        return None if worker_id is None else self._workers.get(worker_id)

    def all(self) -> list[RegisteredWorker]:
        """Every registered worker."""
        return list(self._workers.values())

    def in_pool(self, pool: str) -> list[RegisteredWorker]:
        """The workers of one pool."""
        return [worker for worker in self._workers.values() if worker.pool == pool]

    def lost(self, socket: WorkerSocket) -> None:
        """A control socket is gone; a worker that has registered over another one meanwhile stays."""
        for worker in self.all():
            if worker.socket is socket:
                del self._workers[worker.worker_id]

    def pick(self, pool: str, tried: Collection[str], *, even_if_full: bool) -> RegisteredWorker | None:
        """Who is asked next: those not tried yet first, of them who has the most room, of equals the least used."""
        candidates = [worker for worker in self.in_pool(pool) if even_if_full or worker.free > 0]
        return min(
            candidates,
            key=lambda worker: (worker.worker_id in tried, -worker.free, worker.assigned_total),
            default=None,
        )

    def give(self, job_id: str, worker: RegisteredWorker) -> None:
        """The job counts for this worker, and for no other."""
        self.release(job_id)
        self._jobs[job_id] = worker.worker_id
        worker.jobs.add(job_id)
        worker.assigned_total += 1

    def release(self, job_id: str) -> None:
        """The job is over, or refused."""
        worker = self.get(self._jobs.pop(job_id, None))
        if worker is not None:
            worker.jobs.discard(job_id)
