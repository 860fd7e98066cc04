"""The control sockets: registrations, heartbeats, and the acknowledgements of jobs."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, assert_never

from unpod_orchestrator.control.registry import RegisteredWorker, Registry
from unpod_orchestrator.faults import ControlFaults
from unpod_orchestrator.pulse import Pulse
from unpod_orchestrator.socket_link import SocketLink
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import FrameError, RawFrame
from unpod_orchestrator.wire.constants import GOING_AWAY, PROTOCOL_ERROR
from unpod_orchestrator.wire.control_frames import (
    AnyControlFrame,
    Heartbeat,
    JobAck,
    JobCompleted,
    Register,
    StateChanged,
    parse_control_frame,
)
from unpod_orchestrator.worker.happenings import Frame

_log = logging.getLogger("unpod.orchestrator")

_DEFAULT_INTERVAL_S: Final = 30
_BEATS: Final = 3.5  # three, and time for the last of them to come
_MAX_KEPT: Final = 5_000
_MAX_VIOLATIONS: Final = 1_000


class ControlDesk:
    """What all control sockets share; `on_ack` returns false for an acknowledgement of nothing that was assigned."""

    def __init__(
        self, heartbeat_interval_s: int, faults: ControlFaults, on_ack: Callable[[JobAck, "ControlSocket"], bool]
    ) -> None:
        self.heartbeat_interval_s = heartbeat_interval_s
        self.faults = faults
        self.on_ack = on_ack
        self.registry = Registry()
        self.changed = Pulse()
        self.sockets: set[ControlSocket] = set()
        self.frames: deque[Frame] = deque(maxlen=_MAX_KEPT)
        self.violations: deque[str] = deque(maxlen=_MAX_VIOLATIONS)
        self._started_s = asyncio.get_running_loop().time()

    @property
    def patience_s(self) -> float:
        """How long a worker may be without a heartbeat before it is forgotten."""
        return _BEATS * (_DEFAULT_INTERVAL_S if self.faults.omit_heartbeat_interval else self.heartbeat_interval_s)

    def record(self, direction: Literal["in", "out"], name: str, raw: RawFrame) -> None:
        """Keeps a control frame, its token masked."""
        shown = {**raw, "call_token": "***"} if "call_token" in raw else raw
        now = asyncio.get_running_loop().time()
        self.frames.append(Frame(direction, now - self._started_s, name, shown))

    def violated(self, reason: str) -> None:
        """A control socket's client broke the protocol."""
        self.violations.append(reason)
        _log.warning("control socket closed: %s", reason)


class ControlSocket:
    """One control socket, from its upgrade to its end."""

    def __init__(self, desk: ControlDesk, link: SocketLink) -> None:
        self._desk = desk
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._forget: asyncio.TimerHandle | None = None
        self._failed = False
        self.worker_id: str | None = None

    async def run(self) -> None:
        """Serves the socket until it ends; its worker is forgotten then."""
        self._desk.sockets.add(self)
        self._rearm()
        try:
            await self._link.run(self._on_text, self._fail)
        finally:
            self._leave()

    def send(self, frame: RawFrame) -> None:
        """Sends a control frame."""
        self._desk.record("out", str(frame["type"]), frame)
        self._link.send(outgoing.encode(frame))

    def send_raw(self, payload: str | bytes) -> None:
        """Sends anything: a fault, for tests of clients."""
        self._link.send(payload, text=isinstance(payload, str))

    def close(self, code: int, reason: str = "") -> None:
        """Closes the socket."""
        self._link.close(code, reason)

    def drop(self) -> None:
        """Cuts the TCP connection without a close frame."""
        self._link.abort()

    def pause_reading(self) -> None:
        """Stops reading: half-open."""
        self._link.pause_reading()

    def _leave(self) -> None:
        if self._forget is not None:
            self._forget.cancel()
        self._desk.sockets.discard(self)
        self._desk.registry.lost(self)
        self._desk.changed.beat()

    def _on_text(self, data: str) -> None:
        if self._failed:
            return
        try:
            frame, raw = parse_control_frame(data)
            self._desk.record("in", frame.kind, raw)
            self._accept(frame)
        except FrameError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._desk.violated(reason)
            self._link.close(PROTOCOL_ERROR, reason)

    def _accept(self, frame: AnyControlFrame) -> None:
        if isinstance(frame, Register):
            self._register(frame)
            return
        if self.worker_id is None:
            raise FrameError(f"{frame.kind} before register")
        match frame:
            case Heartbeat():
                self._heartbeat(frame)
            case JobAck():
                if not self._desk.on_ack(frame, self):
                    raise FrameError("job.ack: no such job was assigned under this assign_id")
            case StateChanged() | JobCompleted():
                pass  # optional news; nothing waits for it
            case _:
                assert_never(frame)

    def _register(self, frame: Register) -> None:
        if self.worker_id not in {None, frame.worker_id}:
            raise FrameError("register: another worker_id on the same socket")
        self.worker_id = frame.worker_id
        worker = self._desk.registry.register(frame, self)
        worker.last_heartbeat_s = self._loop.time()
        faults = self._desk.faults
        interval = None if faults.omit_heartbeat_interval else self._desk.heartbeat_interval_s
        self.send(outgoing.registered(interval, faults.transport_ack))
        self._rearm()
        self._desk.changed.beat()
        _log.info("worker registered: pool %s, room for %d", frame.pool, frame.capabilities.max_concurrent)

    def _heartbeat(self, frame: Heartbeat) -> None:
        worker = self._desk.registry.get(self.worker_id)
        serves = worker is not None and worker.link is self and worker.capabilities.serving_url is not None
        if frame.worker_id != (None if serves else self.worker_id):
            raise FrameError("heartbeat: the worker_id is not the registered one (null from one that serves)")
        if worker is not None and worker.link is self:
            worker.heartbeats += 1
            worker.active_jobs = frame.active_jobs
            worker.last_heartbeat_s = self._loop.time()
        self._rearm()
        self._desk.changed.beat()

    def _rearm(self) -> None:
        if self._forget is not None:
            self._forget.cancel()
        self._forget = self._loop.call_later(self._desk.patience_s, self._on_silence)

    def _on_silence(self) -> None:
        _log.warning("worker forgotten: no heartbeat for %g s", self._desk.patience_s)
        self._desk.registry.lost(self)
        self._desk.changed.beat()
        self._link.close(GOING_AWAY, "no heartbeat")


def socket_of(worker: RegisteredWorker) -> ControlSocket:
    """The control socket that a worker registered over."""
    if not isinstance(worker.link, ControlSocket):
        raise TypeError("a worker without a control socket")
    return worker.link
