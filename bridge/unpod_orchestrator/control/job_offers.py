"""Finding a worker for a job: offers with a deadline, three tries in all, each under an assign id of its own."""

import asyncio
import logging
import uuid
from typing import Final

from unpod_orchestrator.calls.call import LocalCall
from unpod_orchestrator.control.registry import RegisteredWorker, WorkerSocket
from unpod_orchestrator.control.serve_dialer import ServeDialer
from unpod_orchestrator.control.sockets import ControlSockets
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.control_frames import JobAckFrame

_log = logging.getLogger("unpod.orchestrator")

TRIES: Final = 3


class CallRefused(Exception):  # noqa: N818 -- it is an answer like "busy", and the name says it in the field's words
    """Nobody takes the call: `reason` is the last one, `reasons` has one per try."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        self.reason = reasons[-1]
        super().__init__(f"nobody takes the call: {self.reason}")


class JobOffers:
    """Offers jobs to the registered workers, and dials those that serve."""

    def __init__(self, control: ControlSockets, dialer: ServeDialer, *, pause_s: float) -> None:
        self._control = control
        self._dialer = dialer
        self._pause_s = pause_s

    async def find_worker(self, call: LocalCall, assign: RawFrame, deadline_ms: int, *, even_if_full: bool) -> None:
        """Offers the job until a worker takes it; `CallRefused` after the last try."""
        tried: set[str] = set()
        reasons: list[str] = []
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(self._pause_s)
            worker = await self._pick(call, tried, deadline_ms / 1000, even_if_full=even_if_full)
            if call.over:
                raise CallRefused([*reasons, f"the call is over ({call.outcome})"])
            if worker is None:
                reasons.append(
                    "at_capacity" if self._control.registry.in_pool(call.pool) else "no worker is registered"
                )
                continue
            tried.add(worker.worker_id)
            refusal = await self._place(call, assign, worker, deadline_ms)
            if refusal is None:
                return
            reasons.append(refusal)
        raise CallRefused(reasons)

    async def _place(self, call: LocalCall, assign: RawFrame, worker: RegisteredWorker, deadline_ms: int) -> str | None:
        serving_url = worker.capabilities.serving_url
        if serving_url is None:
            return await self.offer(call, assign, worker, deadline_ms)
        call.worker_id = worker.worker_id
        self._control.registry.give(call.job_id, worker)
        refusal = await self._dialer.place(call, serving_url)
        if refusal is not None:
            call.worker_id = None
            self._control.registry.release(call.job_id)
            _log.info("a served worker cannot be dialled: %s", refusal)
        return refusal

    async def offer(self, call: LocalCall, assign: RawFrame, worker: RegisteredWorker, deadline_ms: int) -> str | None:
        """Offers the job to one worker; None if it takes it, else why not."""
        assign_id = "" if call.faults.omit_assign_id else uuid.uuid4().hex
        frame = assign if call.faults.omit_assign_id else {**assign, "assign_id": assign_id}
        ack = self._control.expect_ack(call.job_id, assign_id)
        was_with = call.worker_id
        call.worker_id = worker.worker_id
        self._control.registry.give(call.job_id, worker)
        call.dispatched_now()
        worker.socket.send(frame)
        refusal = await self._refusal(ack, worker.socket, deadline_ms)
        self._control.give_up_ack(call.job_id, assign_id)
        if refusal is not None:
            call.worker_id = was_with
            self._control.registry.release(call.job_id)
            before = self._control.registry.get(was_with)
            if before is not None:
                self._control.registry.give(call.job_id, before)
            _log.info("job refused by a worker: %s", refusal)
        return refusal

    async def _refusal(self, ack: asyncio.Future[JobAckFrame], socket: WorkerSocket, deadline_ms: int) -> str | None:
        def decided() -> bool:
            return ack.done() or socket not in self._control.sockets

        if not await self._control.changed.wait_for(decided, deadline_ms / 1000):
            return f"no ack within {deadline_ms} ms"
        if not ack.done():
            return "the worker's control socket was lost"
        answer = ack.result()
        return None if answer.accepted else answer.reason or "refused without a reason"

    async def _pick(
        self, call: LocalCall, tried: set[str], patience_s: float, *, even_if_full: bool
    ) -> RegisteredWorker | None:
        def pick() -> RegisteredWorker | None:
            return self._control.registry.pick(call.pool, tried, even_if_full=even_if_full)

        await self._control.changed.wait_for(lambda: call.over or pick() is not None, patience_s)
        return pick()
