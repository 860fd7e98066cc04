"""Finding a worker for a job: offers with a deadline, three tries in all, each under an assign id of its own."""

import asyncio
import logging
import uuid
from collections import OrderedDict
from typing import Final

from unpod_orchestrator.calls.call import Call
from unpod_orchestrator.control.dial_in import DialIn
from unpod_orchestrator.control.registry import RegisteredWorker
from unpod_orchestrator.control.sockets import ControlDesk, ControlSocket, socket_of
from unpod_orchestrator.faults import ControlFaults
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.control_frames import JobAck

_log = logging.getLogger("unpod.orchestrator")

TRIES: Final = 3
_REMEMBERED_OFFERS: Final = 10_000


class CallRefused(Exception):  # noqa: N818 -- it is an answer like "busy", and the name says it in the field's words
    """Nobody takes the call: `reason` is the last one, `reasons` has one per try."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        self.reason = reasons[-1]
        super().__init__(f"nobody takes the call: {self.reason}")


class Dispatcher:
    """Offers jobs to the workers of the desk."""

    def __init__(self, heartbeat_interval_s: int, faults: ControlFaults, dial_in: DialIn, *, pause_s: float) -> None:
        self._dial_in = dial_in
        self.desk = ControlDesk(heartbeat_interval_s, faults, self._acknowledged)
        self._pause_s = pause_s
        self._waiting: dict[tuple[str, str], asyncio.Future[JobAck]] = {}
        self._offered: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def find_worker(self, call: Call, assign: RawFrame, deadline_ms: int, *, even_if_full: bool) -> None:
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
                reasons.append("at_capacity" if self.desk.registry.in_pool(call.pool) else "no worker is registered")
                continue
            tried.add(worker.worker_id)
            refusal = await self._place(call, assign, worker, deadline_ms)
            if refusal is None:
                return
            reasons.append(refusal)
        raise CallRefused(reasons)

    async def _place(self, call: Call, assign: RawFrame, worker: RegisteredWorker, deadline_ms: int) -> str | None:
        serving_url = worker.capabilities.serving_url
        if serving_url is None:
            return await self.offer(call, assign, worker, deadline_ms)
        call.worker_id = worker.worker_id
        self.desk.registry.give(call.job_id, worker)
        refusal = await self._dial_in.place(call, serving_url)
        if refusal is not None:
            call.worker_id = None
            self.desk.registry.release(call.job_id)
            _log.info("a served worker cannot be dialled: %s", refusal)
        return refusal

    async def offer(self, call: Call, assign: RawFrame, worker: RegisteredWorker, deadline_ms: int) -> str | None:
        """Offers the job to one worker; None if it takes it, else why not."""
        assign_id = "" if call.faults.omit_assign_id else uuid.uuid4().hex
        key = (call.job_id, assign_id)
        frame = assign if call.faults.omit_assign_id else {**assign, "assign_id": assign_id}
        waiting: asyncio.Future[JobAck] = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiting
        self._remember(key)
        was_with = call.worker_id
        call.worker_id = worker.worker_id
        self.desk.registry.give(call.job_id, worker)
        call.dispatched_now()
        socket = socket_of(worker)
        socket.send(frame)
        refusal = await self._answer(waiting, socket, deadline_ms)
        del self._waiting[key]
        if refusal is not None:
            call.worker_id = was_with
            self.desk.registry.release(call.job_id)
            before = self.desk.registry.get(was_with)
            if before is not None:
                self.desk.registry.give(call.job_id, before)
            _log.info("job refused by a worker: %s", refusal)
        return refusal

    async def _answer(self, waiting: asyncio.Future[JobAck], socket: ControlSocket, deadline_ms: int) -> str | None:
        deadline = asyncio.get_running_loop().time() + deadline_ms / 1000
        while not waiting.done():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return f"no ack within {deadline_ms} ms"
            if socket not in self.desk.sockets:
                return "the worker's control socket was lost"
            await self.desk.changed.wait(left)
        ack = waiting.result()
        return None if ack.accepted else ack.reason or "refused without a reason"

    def _acknowledged(self, ack: JobAck, _socket: ControlSocket) -> bool:
        key = (ack.job_id, ack.assign_id)
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_result(ack)
            self.desk.changed.beat()
        return key in self._offered  # a late answer is no fault

    def _remember(self, key: tuple[str, str]) -> None:
        self._offered[key] = None
        if len(self._offered) > _REMEMBERED_OFFERS:
            self._offered.popitem(last=False)

    async def _pick(
        self, call: Call, tried: set[str], patience_s: float, *, even_if_full: bool
    ) -> RegisteredWorker | None:
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            worker = self.desk.registry.pick(call.pool, tried, even_if_full=even_if_full)
            left = deadline - asyncio.get_running_loop().time()
            if worker is not None or left <= 0 or call.over:
                return worker
            await self.desk.changed.wait(left)
