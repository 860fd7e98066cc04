"""What a client sends on its control socket, each field typed as the wire says. Pure."""

from typing import ClassVar, Final, Literal, TypeAlias, get_args

import msgspec

from unpod_orchestrator.wire.call_frames import FrameError, RawFrame, decode_object

_LONGEST_NAME: Final = 64


class ControlFrame(msgspec.Struct, frozen=True):
    """What all control frames of a client have in common: their `type`."""

    kind: ClassVar[str]


class WorkerCapabilities(msgspec.Struct, frozen=True):
    """What a worker can do and where it runs; it either dials out or serves."""

    voice_profiles: list[object]
    max_concurrent: int
    agent_id: str
    kind: Literal["brain"]
    transport: Literal["dial_out"] | None = None
    serving_url: str | None = None
    hostname: str | None = None
    address: str | None = None
    region: str | None = None
    deployment: Literal["cloud", "local"] | None = None


class RegisterFrame(ControlFrame, frozen=True):
    """A worker's first frame; it may come again when the capacity changes."""

    kind: ClassVar[str] = "register"
    worker_id: str
    pool: str
    capabilities: WorkerCapabilities


class HeartbeatFrame(ControlFrame, frozen=True):
    """The worker lives, and has `active_jobs` calls."""

    kind: ClassVar[str] = "heartbeat"
    active_jobs: int
    worker_id: str | None


class JobAckFrame(ControlFrame, frozen=True):
    """The worker takes the job, or says why not."""

    kind: ClassVar[str] = "job.ack"
    job_id: str
    assign_id: str
    accepted: bool
    reason: str | None = None


class StateChangedFrame(ControlFrame, frozen=True):
    """Optional news of a job."""

    kind: ClassVar[str] = "state.changed"
    job_id: str
    state: str


class JobCompletedFrame(ControlFrame, frozen=True):
    """Optional news of a job's end."""

    kind: ClassVar[str] = "job.completed"
    job_id: str
    final_state: str
    duration_s: float


AnyControlFrame: TypeAlias = RegisterFrame | HeartbeatFrame | JobAckFrame | StateChangedFrame | JobCompletedFrame

_TYPES: Final[dict[str, type[ControlFrame]]] = {kind.kind: kind for kind in get_args(AnyControlFrame)}


def parse_control_frame(data: str) -> tuple[AnyControlFrame, RawFrame]:
    """The typed control frame and its raw fields; `FrameError` says what breaks the protocol."""
    name, raw = decode_object(data, "type")
    kind = _TYPES.get(name)
    if kind is None:
        raise FrameError(f"unknown control frame {name[:_LONGEST_NAME]!r}")
    try:
        frame = msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FrameError(f"{name}: {error}") from None
    if isinstance(frame, RegisterFrame):
        _check_register(frame)
    if isinstance(frame, HeartbeatFrame) and frame.active_jobs < 0:
        raise FrameError("heartbeat: active_jobs below 0")
    return frame, raw  # type: ignore[return-value]  # every type in _TYPES is one of the union


def _check_register(frame: RegisterFrame) -> None:
    agent_id = frame.capabilities.agent_id
    if not agent_id or not frame.worker_id:
        raise FrameError("register: an empty agent_id or worker_id")
    if frame.pool not in {agent_id, f"{agent_id}@dev"}:
        raise FrameError("register: `pool` is neither the agent_id nor <agent_id>@dev")
    if (frame.capabilities.transport is None) == (frame.capabilities.serving_url is None):
        raise FrameError("register: either `transport` or `serving_url` is needed")
    if frame.capabilities.max_concurrent < 0:
        raise FrameError("register: max_concurrent below 0")
