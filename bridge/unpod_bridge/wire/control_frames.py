"""The frames of the control socket, as bytes and as values. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from unpod.core.dispatch_messages import Refusal
from unpod_bridge.wire.call_frames import JSON_STRING, MAX_FRAME, too_deep

MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec raises at hostile input."""

Reason = Literal["agent_id_mismatch", "at_capacity", "draining", "rate_limited"]
"""Why a job is refused, as the orchestrator is told."""
_SAID: Final[dict[Refusal, Reason]] = {
    "log_full": "at_capacity",
    "jobs_full": "at_capacity",
    "jobs_away": "at_capacity",
    "metadata": "at_capacity",
}
LONGEST_ASSIGN: Final = MAX_FRAME - 16 * 1024
"""How long a `job.assign` may be: `call.started` brings the same metadata, and has to fit into a frame and a record."""

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
    """A job for us. Its metadata is not read: what `call.started` says counts."""

    job_id: str
    agent_id: str
    bridge_url: str
    call_token: str
    call_id: str = ""
    assign_id: str | None = ""
    deadline_ms: float | None = DEADLINE_MS


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


def said(refusal: Refusal) -> Reason:
    """Return what the orchestrator is told of a refusal."""
    return _SAID.get(refusal) or cast("Reason", refusal)


def decode(text: bytes) -> ControlFrame:
    """Return what a frame says, whatever its metadata is.

    Raises:
        MALFORMED: it cannot be read.
    """
    try:
        return _decode(text)
    except MALFORMED:
        return _decode(_bare(text))


def is_excessive(text: bytes) -> bool:
    """Whether the metadata of a `job.assign` is more, or nested more deeply, than `call.started` could bring."""
    return len(text) > LONGEST_ASSIGN or too_deep(text)


def _decode(text: bytes) -> ControlFrame:
    kind = _head(text).type
    decoder = _decoders.get(kind)
    return UnknownFrame(kind) if decoder is None else decoder.decode(text)


_TOKEN: Final = re.compile(JSON_STRING + rb"|[{}\[\],:]", re.DOTALL)


def _bare(text: bytes) -> bytes:
    """Return a frame with `null` for its metadata: a value of which a part cannot be read must not cost the rest."""
    depth, key, begin = 0, b"", -1
    for token in _TOKEN.finditer(text):
        what = token[0]
        depth += (what in b"{[") - (what in b"}]")
        if begin >= 0:
            if (what == b"," and depth == 1) or depth == 0:
                return text[:begin] + b"null" + text[token.start() :]
        elif what == b":" and depth == 1 and key == b'"metadata"':
            begin = token.end()
        key = what
    return text
