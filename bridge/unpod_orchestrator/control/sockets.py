"""The control sockets: registrations, heartbeats, and the acknowledgements of jobs."""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from typing import Final, Literal, assert_never

from unpod_orchestrator.control.registry import Registry
from unpod_orchestrator.faults import ControlFaults
from unpod_orchestrator.notifier import Notifier
from unpod_orchestrator.socket_link import SocketLink
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import FrameError, RawFrame
from unpod_orchestrator.wire.constants import GOING_AWAY, PROTOCOL_ERROR
from unpod_orchestrator.wire.control_frames import (
    AnyControlFrame,
    HeartbeatFrame,
    JobAckFrame,
    JobCompletedFrame,
    RegisterFrame,
    StateChangedFrame,
    parse_control_frame,
)
from unpod_orchestrator.wire.frame_log import LoggedFrame

_log = logging.getLogger("unpod.orchestrator")

_DEFAULT_INTERVAL_S: Final = 30
_BEATS: Final = 3.5  # three, and time for the last of them to come
_MAX_KEPT: Final = 5_000
_MAX_VIOLATIONS: Final = 1_000
_REMEMBERED_ASSIGNMENTS: Final = 10_000


class ControlSockets:
    """All control sockets, who is registered over them, and the answers that jobs wait for."""

    def __init__(self, heartbeat_interval_s: int, faults: ControlFaults) -> None:
        self.heartbeat_interval_s = heartbeat_interval_s
        self.faults = faults
        self.registry = Registry()
        self.changed = Notifier()
        self.sockets: set[ControlSocket] = set()
        self.frames: deque[LoggedFrame] = deque(maxlen=_MAX_KEPT)
        self.violations: deque[str] = deque(maxlen=_MAX_VIOLATIONS)
        self._awaited: dict[tuple[str, str], asyncio.Future[JobAckFrame]] = {}
        self._assigned: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._made_s = time.monotonic()

    @property
    def patience_s(self) -> float:
        """How long a worker may be without a heartbeat before it is forgotten."""
        return _BEATS * (_DEFAULT_INTERVAL_S if self.faults.omit_heartbeat_interval else self.heartbeat_interval_s)

    def expect_ack(self, job_id: str, assign_id: str) -> asyncio.Future[JobAckFrame]:
        """A job is about to be assigned: the future gets the first answer to it."""
        key = (job_id, assign_id)
        self._assigned[key] = None
        if len(self._assigned) > _REMEMBERED_ASSIGNMENTS:
            self._assigned.popitem(last=False)
        self._awaited[key] = asyncio.get_running_loop().create_future()
        return self._awaited[key]

    def acknowledged(self, ack: JobAckFrame) -> bool:
        """An answer has come; false where nothing was assigned under its ids. A late one is no fault."""
        key = (ack.job_id, ack.assign_id)
        awaited = self._awaited.pop(key, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(ack)
            self.changed.notify()
        return key in self._assigned

    def give_up_ack(self, job_id: str, assign_id: str) -> None:
        """Nobody waits for this answer any more."""
        self._awaited.pop((job_id, assign_id), None)

    def record(self, direction: Literal["in", "out"], name: str, raw: RawFrame) -> None:
        """Keeps a control frame, its token masked."""
        shown = {**raw, "call_token": "***"} if "call_token" in raw else raw
        self.frames.append(LoggedFrame(direction, time.monotonic() - self._made_s, name, shown))

    def violated(self, reason: str) -> None:
        """A control socket's client broke the protocol."""
        self.violations.append(reason)
        _log.warning("control socket closed: %s", reason)


class ControlSocket:
    """One control socket, from its upgrade to its end."""

    def __init__(self, shared: ControlSockets, link: SocketLink) -> None:
        self._shared = shared
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._forget: asyncio.TimerHandle | None = None
        self._failed = False
        self.worker_id: str | None = None

    async def run(self) -> None:
        """Serves the socket until it ends; its worker is forgotten then."""
        self._shared.sockets.add(self)
        self._rearm()
        try:
            await self.link.run(self._on_text, self._fail)
        finally:
            self._leave()

    def send(self, frame: RawFrame) -> None:
        """Sends a control frame."""
        self._shared.record("out", str(frame["type"]), frame)
        self.link.send(outgoing.encode(frame))

    def _leave(self) -> None:
        if self._forget is not None:
            self._forget.cancel()
        self._shared.sockets.discard(self)
        self._shared.registry.lost(self)
        self._shared.changed.notify()

    def _on_text(self, data: str) -> None:
        if self._failed:
            return
        try:
            frame, raw = parse_control_frame(data)
            self._shared.record("in", frame.kind, raw)
            self._accept(frame)
        except FrameError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._shared.violated(reason)
            self.link.close(PROTOCOL_ERROR, reason)

    def _accept(self, frame: AnyControlFrame) -> None:
        if isinstance(frame, RegisterFrame):
            self._register(frame)
            return
        if self.worker_id is None:
            raise FrameError(f"{frame.kind} before register")
        match frame:
            case HeartbeatFrame():
                self._heartbeat(frame)
            case JobAckFrame():
                if not self._shared.acknowledged(frame):
                    raise FrameError("job.ack: no such job was assigned under this assign_id")
            case StateChangedFrame() | JobCompletedFrame():
                pass  # optional news; nothing waits for it
            case _:
                assert_never(frame)

    def _register(self, frame: RegisterFrame) -> None:
        if self.worker_id not in {None, frame.worker_id}:
            raise FrameError("register: another worker_id on the same socket")
        self.worker_id = frame.worker_id
        worker = self._shared.registry.register(frame, self)
        worker.last_heartbeat_s = self._loop.time()
        faults = self._shared.faults
        interval = None if faults.omit_heartbeat_interval else self._shared.heartbeat_interval_s
        self.send(outgoing.registered(interval, faults.transport_ack))
        self._rearm()
        self._shared.changed.notify()
        _log.info("worker registered: pool %s, room for %d", frame.pool, frame.capabilities.max_concurrent)

    def _heartbeat(self, frame: HeartbeatFrame) -> None:
        worker = self._shared.registry.get(self.worker_id)
        serves = worker is not None and worker.socket is self and worker.capabilities.serving_url is not None
        if frame.worker_id != (None if serves else self.worker_id):
            raise FrameError("heartbeat: the worker_id is not the registered one (null from one that serves)")
        if worker is not None and worker.socket is self:
            worker.heartbeats += 1
            worker.active_jobs = frame.active_jobs
            worker.last_heartbeat_s = self._loop.time()
        self._rearm()
        self._shared.changed.notify()

    def _rearm(self) -> None:
        if self._forget is not None:
            self._forget.cancel()
        self._forget = self._loop.call_later(self._shared.patience_s, self._on_silence)

    def _on_silence(self) -> None:
        _log.warning("worker forgotten: no heartbeat for %g s", self._shared.patience_s)
        self._shared.registry.lost(self)
        self._shared.changed.notify()
        self.link.close(GOING_AWAY, "no heartbeat")
