"""The orchestrator's frames as pydantic models, as a vendor's SDK has them: what *direct* validates and sends.

Fields and defaults are those of the wire; what is not named here is ignored. `None` stands for null.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter

# --------------------------------------------------------------------------------------------------- the control socket


class Register(BaseModel):
    """Offers this process for calls."""

    type: Literal["register"] = "register"
    worker_id: str
    pool: str


class JobAck(BaseModel):
    """Takes a job."""

    type: Literal["job.ack"] = "job.ack"
    job_id: str
    assign_id: str
    accepted: bool = True
    reason: str | None = None


class Registered(BaseModel):
    """The offer is taken."""

    type: Literal["registered"]
    heartbeat_interval_s: int = 30
    transport_ack: str | None = None


class JobAssign(BaseModel):
    """A call to be dialled."""

    type: Literal["job.assign"]
    job_id: str
    call_id: str
    agent_id: str
    bridge_url: str
    call_token: str
    assign_id: str = ""
    deadline_ms: int = 2_000
    metadata: dict[str, object] = Field(default_factory=dict)


class JobCancel(BaseModel):
    """The job is withdrawn."""

    type: Literal["job.cancel"]
    job_id: str


Control = Annotated[Registered | JobAssign | JobCancel, Field(discriminator="type")]
CONTROL: Final[TypeAdapter[Control]] = TypeAdapter(Control)

# ------------------------------------------------------------------------------------------------ the call socket: in


class HelloAck(BaseModel):
    """What both sides can."""

    event: Literal["hello.ack"]
    protocol_version: int
    negotiated_events: list[str]
    negotiated_verbs: list[str]
    call_id: str
    session_id: str
    job_id: str
    room_id: str


class CallStarted(BaseModel):
    """The call is up."""

    event: Literal["call.started"]
    session_id: str
    job_id: str
    room_id: str
    metadata: dict[str, object] = Field(default_factory=dict)
    voice_profile_id: str | None = None
    agent_id: str | None = None


class UserText(BaseModel):
    """What the caller has said."""

    event: Literal["user.text"]
    text: str
    is_final: bool = True
    language: str | None = None


class UserInterrupted(BaseModel):
    """The caller has cut in."""

    event: Literal["user.interrupted"]
    turn_id: int
    heard_prefix: str | None = None


class CallError(BaseModel):
    """Something has failed over there."""

    event: Literal["error"]
    severity: str
    source: str
    code: str
    message: str


class Metric(BaseModel):
    """The call's figures."""

    event: Literal["metric"]
    ttfa_ms: int | None = None
    asr_p95_ms: int | None = None
    tts_p95_ms: int | None = None
    turns: int = 0
    cost_usd_so_far: float | None = None


class TurnMetrics(BaseModel):
    """One turn's figures."""

    event: Literal["turn.metrics"]
    call_id: str
    turn_id: int
    ttfa_ms: float | None = None
    asr_ms: float | None = None
    llm_ttft_ms: float | None = None
    tts_ttfb_ms: float | None = None
    llm_total_ms: float | None = None
    llm_call_count: int = 0
    from_node: str | None = None
    to_node: str | None = None


class State(BaseModel):
    """What the speech worker is doing."""

    event: Literal["state"]
    state: Literal["idle", "listening", "thinking", "speaking", "interrupted"]
    turn_id: int


Event = Annotated[
    HelloAck | CallStarted | UserText | UserInterrupted | CallError | Metric | TurnMetrics | State,
    Field(discriminator="event"),
]
EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Event)

# ----------------------------------------------------------------------------------------------- the call socket: out


class Hello(BaseModel):
    """Says what this side can."""

    event: Literal["hello"] = "hello"
    protocol_version: int = 2
    supported_events: tuple[str, ...]
    supported_verbs: tuple[str, ...]


class TextDelta(BaseModel):
    """A piece of the reply."""

    event: Literal["agent.text.delta"] = "agent.text.delta"
    text: str


class TextEnd(BaseModel):
    """The reply's end."""

    event: Literal["agent.text.end"] = "agent.text.end"


__all__ = [
    "CONTROL",
    "EVENT",
    "CallError",
    "CallStarted",
    "Control",
    "Event",
    "Hello",
    "HelloAck",
    "JobAck",
    "JobAssign",
    "JobCancel",
    "Metric",
    "Register",
    "Registered",
    "State",
    "TextDelta",
    "TextEnd",
    "TurnMetrics",
    "UserInterrupted",
    "UserText",
]
