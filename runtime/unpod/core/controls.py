"""Controls: what somebody outside a call wants done with it. Each is a record on `ctl`, written by whoever may.

A control does nothing by itself. The bridge that carries the call admits or refuses it; an admitted one is copied into
the bridge's own sequence and counts from there, live and on replay alike. Those that have a command here are performed
by the bridge, as if the session had asked for it; the others by the session's owner.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from unpod.core import commands as cmd

DEADLINE_S: Final = 10.0
MAX_TEXT: Final = 4_000
"""How many characters may be said or whispered at once."""


class Control(Struct, frozen=True, tag_field="control", omit_defaults=True, kw_only=True):
    """The root of all controls.

    `actor` is who asks, `reason` why. What cannot be done within `deadline_s` of its being stored is refused, never
    done late.
    """

    actor: str = ""
    reason: str = ""
    deadline_s: float = DEADLINE_S


class EndSession(Control, frozen=True, tag="end"):
    """Hang up; `reason` is the call's end reason, `completed` where it is empty."""


class TransferSession(Control, frozen=True, tag="transfer"):
    """Connect the caller to somebody else: `sip` with a `number`, `agent` with an `agent_id`, `human` with a `queue`.

    `warm_handoff_ms` is kept for the record: a call's socket has no place for it.
    """

    to_type: str
    to_config: dict[str, object] = {}
    mode: cmd.TransferMode = "cold"
    warm_handoff_ms: int = 0
    announcement: str | None = None


class MergeSession(Control, frozen=True, tag="merge"):
    """Join another session's call into this one."""

    source_session_id: str


class SaySomething(Control, frozen=True, tag="say"):
    """Speak `text` to the caller, verbatim."""

    text: str


class InterruptAgent(Control, frozen=True, tag="interrupt"):
    """Stop the reply that is being spoken."""


class PauseSessionRecording(Control, frozen=True, tag="recording.pause"):
    """Stop recording, and keep no text until it is resumed."""


class ResumeSessionRecording(Control, frozen=True, tag="recording.resume"):
    """Record again."""


class Whisper(Control, frozen=True, tag="whisper"):
    """Tell the adapter something that the caller does not hear."""

    text: str


class PauseAgent(Control, frozen=True, tag="pause"):
    """Let the agent answer nothing until it is resumed."""


class ResumeAgent(Control, frozen=True, tag="resume"):
    """Let the agent answer again."""


class TakeOver(Control, frozen=True, tag="takeover"):
    """A supervisor talks to the caller; the adapter is not asked until the call is handed back."""


class HandBack(Control, frozen=True, tag="handback"):
    """The agent has the call again, and its adapter is told what was said."""


AnyControl = (
    EndSession
    | TransferSession
    | MergeSession
    | SaySomething
    | InterruptAgent
    | PauseSessionRecording
    | ResumeSessionRecording
    | Whisper
    | PauseAgent
    | ResumeAgent
    | TakeOver
    | HandBack
)

OwnerControl = Whisper | PauseAgent | ResumeAgent | TakeOver | HandBack
"""Those that the session's owner performs."""

OWNER_CONTROLS: Final = (Whisper, PauseAgent, ResumeAgent, TakeOver, HandBack)


class Impossible(Struct, frozen=True):
    """A control that nobody can perform, and why."""

    reason: str


_TARGETS: Final[dict[str, tuple[cmd.TransferType, tuple[str, ...]]]] = {
    "sip": ("number", ("number",)),
    "number": ("number", ("number",)),
    "agent": ("agent", ("agent_id", "id")),
    "human": ("human", ("queue",)),
}


def command_of(control: AnyControl) -> cmd.AnyCommand | Impossible | None:
    """Return what the bridge does for a control; None for one that is the owner's."""
    match control:
        case SaySomething():
            return cmd.Say(text=control.text)
        case TransferSession():
            return _transfer(control)
        case EndSession():
            return cmd.EndCall(reason=control.reason or "completed")
        case MergeSession():
            return cmd.Merge(source_session_id=control.source_session_id)
        case _:
            return _plain(control)


def _plain(control: AnyControl) -> cmd.AnyCommand | None:
    match control:
        case InterruptAgent():
            return cmd.Interrupt()
        case PauseSessionRecording():
            return cmd.PauseRecording(reason=control.reason)
        case ResumeSessionRecording():
            return cmd.ResumeRecording()
        case _:
            return None


def problem_with(control: AnyControl) -> str:
    """Return why a control makes no sense whatever the call is like; "" where it may."""
    if isinstance(control, (SaySomething, Whisper)) and not 0 < len(control.text.strip()) <= MAX_TEXT:
        return f"the text must have between 1 and {MAX_TEXT} characters"
    if isinstance(control, MergeSession) and not control.source_session_id:
        return "there is no session to merge"
    command = command_of(control)
    return command.reason if isinstance(command, Impossible) else ""


def has_text(control: AnyControl) -> bool:
    """Whether a control carries what is said on the call."""
    return isinstance(control, (SaySomething, Whisper))


def ends_session(control: AnyControl) -> bool:
    """Whether the agent has no call any more once this is done."""
    return isinstance(control, EndSession) or (isinstance(control, TransferSession) and control.mode == "cold")


def _transfer(control: TransferSession) -> cmd.Transfer | Impossible:
    known = _TARGETS.get(control.to_type)
    if known is None:
        return Impossible(
            f"to_type {control.to_type[:40]!r}: a call's own socket transfers to sip, agent or human; webrtc and"
            " livekit go through the orchestrator's REST API (AsyncClient(nats_url=False))"
        )
    kind, keys = known
    values = [control.to_config.get(key) for key in keys]
    target = next((value for value in values if isinstance(value, str) and value), None)
    if target is None:
        return Impossible(f"a transfer to {control.to_type} needs {keys[0]!r} in to_config")
    return cmd.Transfer(transfer_type=kind, target=target, mode=control.mode, announcement=control.announcement)
