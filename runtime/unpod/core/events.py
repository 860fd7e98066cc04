"""Facts: what stands in the log, in the past tense.

Four families, one for each place in the log. `CallerEvent` (`evt`) is what the caller's side did: the frames of the
speech worker as they came, and what the bridge knows beside them. `Receipt` (`ack`) is what became of commands and
speech. `SessionEvent` (`run`) is what the session did. `Placement` (`line`, `own`) says who holds the call.

Times are seconds since 1970 in the log's time; `_ms` are milliseconds; costs are US dollars. `withheld` marks a fact
whose texts are not kept, since the recording was paused.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unpod.core.controls import AnyControl

EndReason = str
"""One of `END_REASONS`, or what an agent passed to `end`."""

END_REASONS = ("completed", "no_response", "error", "transferred", "max_duration", "hangup", "cancelled", "lost")

FAILED_REASONS = frozenset({"error", "lost"})


class Fact(Struct, frozen=True, tag_field="event", omit_defaults=True, kw_only=True):
    """The root of all facts."""


# --- evt: the caller's side -------------------------------------------------------------------------------------------


class WorkerFact(Fact, frozen=True, kw_only=True):
    """What a frame of the speech worker says.

    Of one that could be read in part, `flaws` says what was wrong (it quotes nothing), and `as_sent` is the frame as it
    came: fields that could not be read are left out, and half a character is U+FFFD.
    """

    flaws: tuple[str, ...] = ()
    as_sent: str = ""


class HelloAcked(WorkerFact, frozen=True, tag="hello.ack"):
    """The speech worker has answered our hello; `unpod.core.verbs` says what `negotiated_verbs` comes to."""

    protocol_version: int = 2
    negotiated_events: tuple[str, ...] = ()
    negotiated_verbs: tuple[str, ...] = ()
    call_id: str = ""
    session_id: str = ""
    job_id: str = ""
    room_id: str = ""


class CallStarted(WorkerFact, frozen=True, tag="call.started"):
    """The call is up; `metadata` is what the dispatcher said of it."""

    session_id: str
    job_id: str = ""
    room_id: str = ""
    metadata: dict[str, object] = {}
    voice_profile_id: str | None = None
    agent_id: str | None = None


class CallReattached(Fact, frozen=True, tag="call.reattached"):
    """A new socket to the same call is up, after a drop or a change of bridge; `metadata` is not looked at again."""

    session_id: str = ""
    attempt: int = 1


class UserText(WorkerFact, frozen=True, tag="user.text"):
    """The caller said something; a partial is `is_final=False`."""

    text: str = ""
    is_final: bool = True
    language: object = None
    extra: object = None
    withheld: bool = False

    @property
    def language_tag(self) -> str | None:
        """The turn's language tag, from `extra.language` or `language`."""
        inner = self.extra.get("language") if isinstance(self.extra, dict) else None
        for candidate in (inner, self.language):
            if isinstance(candidate, str) and candidate:
                return candidate
        return None


class UserInterrupted(WorkerFact, frozen=True, tag="user.interrupted"):
    """The caller cut in; `heard_prefix` is what they had heard of the reply, where the worker knows."""

    turn_id: int = 0
    heard_prefix: str | None = None
    withheld: bool = False


class WorkerError(WorkerFact, frozen=True, tag="error"):
    """The speech worker reports an error; only severity `fatal` ends the call."""

    severity: str = "error"
    source: str = "internal"
    code: str = ""
    message: str = ""


class CallMetric(WorkerFact, frozen=True, tag="metric"):
    """Figures of the call so far, as the worker measures them."""

    ttfa_ms: float | None = None
    asr_p95_ms: float | None = None
    tts_p95_ms: float | None = None
    turns: int | None = None
    cost_usd_so_far: float | None = None


class TurnMetrics(WorkerFact, frozen=True, tag="turn.metrics"):
    """Figures of one turn, as the worker measures them."""

    call_id: str = ""
    turn_id: object = None
    ttfa_ms: float | None = None
    asr_ms: float | None = None
    llm_ttft_ms: float | None = None
    tts_ttfb_ms: float | None = None
    llm_total_ms: float | None = None
    llm_call_count: int | None = None
    from_node: str | None = None
    to_node: str | None = None


class StateChanged(WorkerFact, frozen=True, tag="state"):
    """The worker is idle, listening, thinking, speaking or interrupted."""

    state: str = ""
    turn_id: int | None = None


class FrameUnknown(WorkerFact, frozen=True, tag="unknown"):
    """A frame of a type that we do not know, as it came in `frame`."""

    type: str = ""
    frame: object = None
    withheld: bool = False


class FrameRejected(Fact, frozen=True, tag="rejected"):
    """A frame that could not be taken: `reason` says why, `head` is its beginning, `size` its length in bytes."""

    reason: str
    size: int
    head: str = ""
    withheld: bool = False


class CallEnded(Fact, frozen=True, tag="call.ended"):
    """The call is over: the only end of a call. `detail` is for people; `close_code` is the socket's."""

    reason: EndReason
    detail: str = ""
    close_code: int | None = None
    by: Literal["agent", "caller", "operator", "system"] = "system"


CallerEvent = (
    HelloAcked
    | CallStarted
    | CallReattached
    | UserText
    | UserInterrupted
    | WorkerError
    | CallMetric
    | TurnMetrics
    | StateChanged
    | FrameUnknown
    | FrameRejected
    | CallEnded
)


# --- ack: receipts ----------------------------------------------------------------------------------------------------

CommandOutcome = Literal["claimed", "written", "delivered", "ignored", "refused", "unknown"]


class CommandAcknowledged(Fact, frozen=True, tag="command.acknowledged"):
    """What became of a command.

    `claimed`: about to be written, once and never again. `written`: handed to the socket. `delivered`: the worker has
    it. `ignored`: nothing had to be done. `refused`: the worker cannot do it, see `reason`. `unknown`: the bridge died
    between claim and receipt; it is not repeated.
    """

    command: str
    verb: str
    outcome: CommandOutcome
    owner_index: int
    reason: str = ""


class ReplySpoken(Fact, frozen=True, tag="reply.spoken"):
    """How much of a reply has been handed to the worker, cumulative; `ended` once its end has been sent.

    With `unread`, no more is said than that the socket was lost before the worker has shown that it had read that end.
    """

    turn: int
    part: int = 0
    deltas: int = 0
    chars: int = 0
    ended: bool = False
    unread: bool = False


class UnsettledCommand(Struct, frozen=True, omit_defaults=True):
    """A command of the former owner, and how far the bridge got with it; `none`: never seen."""

    command: str
    outcome: CommandOutcome | Literal["none"]


class EarlierReply(Struct, frozen=True, omit_defaults=True):
    """What was spoken of a reply before the last one; `text` as in `OwnerChanged`."""

    turn: int
    part: int = 0
    chars: int = 0
    text: str | None = None


class OwnerChanged(Fact, frozen=True, tag="owner.changed"):
    """A new owner's starting point.

    Owner records count up to `last_owner_index`; later ones of older epochs are void. `turn`, `part`, `deltas` and
    `chars` say how far the open reply was written; `text` is what was written, of a long reply only its end. `skip` is
    an input whose handlers must not run again.

    `unsure_until`: of the replies to texts up to this turn, a dead bridge may have written more than is told here, or
    anything at all. It died together with the former owner, and nobody knows how far it came.

    `unended`: from this turn on, the stored ends of replies were not carried out and will not be, since pieces of those
    replies were missing. 0: there is no such turn.

    `earlier` are the replies before that one whose turns may not be completed in the log.
    """

    epoch: int
    runner: str = ""
    last_owner_index: int = 0
    takeover: int = 0
    turn: int = 0
    part: int = 0
    deltas: int = 0
    chars: int = 0
    text: str | None = None
    unsure_until: int = 0
    unended: int = 0
    earlier: tuple[EarlierReply, ...] = ()
    unsettled: tuple[UnsettledCommand, ...] = ()
    skip: str = ""
    withheld: bool = False


class ControlAnswered(Fact, frozen=True, tag="control.answered"):
    """What became of a control from outside; an admitted one is copied here and counts from here."""

    control: str
    outcome: Literal["admitted", "refused", "applied", "failed"]
    reason: str = ""
    body: AnyControl | None = None


Receipt = CommandAcknowledged | ReplySpoken | OwnerChanged | ControlAnswered


# --- run: the session -------------------------------------------------------------------------------------------------

TurnOutcome = Literal["done", "empty", "interrupted", "failed", "ended", "unanswered"]


class TurnCompleted(Fact, frozen=True, tag="turn.completed"):
    """All that a turn's row needs.

    `heard_text` is what the caller heard: the whole reply unless they cut in, None where nobody knows. Figures come
    from the worker where `worker_metrics` is true, else the model's were measured by the session.
    """

    turn_id: int
    user_text: str | None = None
    agent_text: str | None = None
    heard_text: str | None = None
    interrupted: bool = False
    outcome: TurnOutcome = "done"
    language: str | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    ttfa_ms: float | None = None
    asr_ms: float | None = None
    llm_ttft_ms: float | None = None
    llm_total_ms: float | None = None
    llm_call_count: int = 0
    tts_ttfb_ms: float | None = None
    from_node: str | None = None
    to_node: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    model: str | None = None
    provider: str | None = None
    worker_metrics: bool = False
    withheld: bool = False


class LLMCalled(Fact, frozen=True, tag="llm.call"):
    """One model call of the adapter."""

    turn_id: int = 0
    model: str | None = None
    provider: str | None = None
    call_type: str | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    cache_write: int = 0
    estimated: bool = False
    cost: float | None = None
    node_id: str | None = None
    edge_id: str | None = None
    prompt_messages: object = None
    response_json: object = None
    withheld: bool = False


class ToolCalled(Fact, frozen=True, tag="tool.call"):
    """The adapter has called a tool."""

    name: str
    call_id: str = ""
    arguments: object = None
    turn_id: int = 0
    withheld: bool = False


class ToolReturned(Fact, frozen=True, tag="tool.result"):
    """A tool has returned."""

    name: str
    call_id: str = ""
    result: object = None
    turn_id: int = 0
    withheld: bool = False


class StepCompleted(Fact, frozen=True, tag="step.completed"):
    """A journaled side effect has returned or raised; `value` is its result, `error` the exception's text."""

    step: str
    name: str
    value: object = None
    error: str | None = None
    error_type: str | None = None
    withheld: bool = False


class HookFailed(Fact, frozen=True, tag="hook.failed"):
    """A hook raised or took longer than its time; the call goes on."""

    hook: str
    function: str
    error: str = ""
    timed_out: bool = False


class HookPoisoned(Fact, frozen=True, tag="hook.poisoned"):
    """An input whose handlers are not run again, since they took their process down."""

    input: str


class AdapterFailed(Fact, frozen=True, tag="adapter.failed"):
    """The adapter raised, hung or said nothing where it should have; the reply was ended once."""

    turn_id: int
    code: str
    error: str = ""


class SilenceNoticed(Fact, frozen=True, tag="silence"):
    """Nobody has spoken for `seconds`."""

    seconds: float


class Diverged(Fact, frozen=True, tag="diverged"):
    """Replayed code did other than what the log says; what was new was suppressed."""

    expected: str = ""
    found: str = ""


class Settled(Fact, frozen=True, tag="settled"):
    """All handlers of the inputs up to the envelope's `settled` have returned."""


class ReplayCompleted(Fact, frozen=True, tag="replay.completed"):
    """A new owner has gone through the past of its session, so many `records`, and takes part in the call from here."""

    records: int = 0
    duration_ms: float = 0.0


class EntrypointFailed(Fact, frozen=True, tag="entrypoint.failed"):
    """The user's entrypoint raised; the call ends with `error`."""

    error: str = ""


class ControlPerformed(Fact, frozen=True, tag="control.performed"):
    """The owner has done what an admitted control asks for, or could not; `reason` says why."""

    control: str
    outcome: Literal["applied", "failed"] = "applied"
    reason: str = ""


class CallCompleted(Fact, frozen=True, tag="call.completed"):
    """All that a call's row needs; written once the call has ended."""

    call_id: str
    agent_id: str
    runner_id: str
    reason: EndReason
    direction: str = "inbound"
    started_at: float = 0.0
    ended_at: float = 0.0
    duration_s: float = 0.0
    turns: int = 0
    interruptions: int = 0
    avg_stt_ms: float | None = None
    avg_llm_ms: float | None = None
    avg_tts_ms: float | None = None
    stt_p95_ms: float | None = None
    llm_p95_ms: float | None = None
    tts_p95_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost_voice: float = 0.0
    cost_llm: float = 0.0
    model: str | None = None
    takeovers: int = 0


class SessionFinished(Fact, frozen=True, tag="session.closed"):
    """The entrypoint has returned after the call's end: nothing is left to do."""

    failed: bool = False


SessionEvent = (
    TurnCompleted
    | LLMCalled
    | ToolCalled
    | ToolReturned
    | StepCompleted
    | HookFailed
    | HookPoisoned
    | AdapterFailed
    | SilenceNoticed
    | Diverged
    | Settled
    | ReplayCompleted
    | EntrypointFailed
    | ControlPerformed
    | CallCompleted
    | SessionFinished
)


# --- line, own: placements --------------------------------------------------------------------------------------------


class LineTaken(Fact, frozen=True, tag="line.taken"):
    """A bridge holds the line from here on; the record's stream sequence is the line epoch."""

    bridge: str
    job_id: str = ""


class OwnerAppointed(Fact, frozen=True, tag="owner.appointed"):
    """A runner owns the session from here on; the record's stream sequence is the epoch.

    `waited_ms` is how long the bridge has looked for that runner, None where it is not known.
    """

    runner: str
    takeover: int = 0
    waited_ms: float | None = None


Placement = LineTaken | OwnerAppointed


class Unknown(Struct, frozen=True):
    """A record of a type or version that this build does not know; kept, passed through, without effect on the fold."""

    type: str
    data: bytes


def tag_of(fact: Struct) -> str:
    """Return the type token of a fact or command, as it stands in subjects and `ce-type`."""
    tag = fact.__struct_config__.tag
    return tag if isinstance(tag, str) else "unknown"
