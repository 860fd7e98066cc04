"""The frames of the control socket, as bytes and as values. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec raises at hostile input."""

Reason = Literal["agent_id_mismatch", "at_capacity", "draining", "rate_limited"]
"""Why a job is refused."""

HEARTBEAT_S = 30.0
DEADLINE_MS = 2000.0
TRANSPORT = "dial_out"


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a worker can take and where it runs; with a `serving_url` calls are dialled in there, and not out."""

    voice_profiles: tuple[str, ...] = ()
    max_concurrent: int
    agent_id: str
    transport: str | UnsetType = TRANSPORT
    serving_url: str | UnsetType = UNSET
    kind: str = "brain"
    hostname: str | None = None
    address: str | None = None
    region: str | None = None
    deployment: Literal["cloud", "local"] = "local"


class Register(Struct, frozen=True, tag="register", tag_field="type"):
    """Our first frame on a control socket."""

    worker_id: str
    pool: str
    capabilities: Capabilities


class Heartbeat(Struct, frozen=True, tag="heartbeat", tag_field="type"):
    """We live, and this many calls are up."""

    active_jobs: int
    worker_id: str | None


class JobAck(Struct, frozen=True, tag="job.ack", tag_field="type"):
    """We take the job, or say why not."""

    job_id: str
    assign_id: str
    accepted: bool
    reason: Reason | None = None


class RegisteredFrame(Struct, frozen=True):
    """The orchestrator knows us."""

    heartbeat_interval_s: float | None = HEARTBEAT_S
    transport_ack: str | None = None


class AssignFrame(Struct, frozen=True, kw_only=True):
    """A job for us."""

    job_id: str
    agent_id: str
    bridge_url: str
    call_token: str
    call_id: str = ""
    assign_id: str | None = ""
    deadline_ms: float | None = DEADLINE_MS
    metadata: dict[str, object] | None = None


class CancelFrame(Struct, frozen=True):
    """Abandon the job."""

    job_id: str


class UnknownFrame(Struct, frozen=True):
    """A frame of a type that we do not know."""

    type: str


class _Head(Struct, frozen=True):
    type: str


ControlFrame = RegisteredFrame | AssignFrame | CancelFrame | UnknownFrame

_encode = msgspec.json.Encoder().encode
_head = msgspec.json.Decoder(_Head).decode
_decoders: dict[str, msgspec.json.Decoder[RegisteredFrame | AssignFrame | CancelFrame]] = {
    "registered": msgspec.json.Decoder(RegisteredFrame),
    "job.assign": msgspec.json.Decoder(AssignFrame),
    "job.cancel": msgspec.json.Decoder(CancelFrame),
}


def encode(frame: Register | Heartbeat | JobAck) -> bytes:
    """Return a frame's text."""
    return _encode(frame)


def decode(text: bytes) -> ControlFrame:
    """Return what a frame says.

    Raises:
        MALFORMED: it cannot be read.
    """
    kind = _head(text).type
    decoder = _decoders.get(kind)
    return UnknownFrame(kind) if decoder is None else decoder.decode(text)
