"""What people outside a call have done with its agent: paused it, taken its place, told it something. Pure.

Part of the session's state: it follows from the controls that the bridge has admitted and from what their owner says to
have done, so that a runner which takes the call over finds the agent as paused, and the supervisor as present, as the
one before it.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from unpod.core.controls import (
    OWNER_CONTROLS,
    AnyControl,
    HandBack,
    OwnerControl,
    PauseAgent,
    ResumeAgent,
    TakeOver,
    Whisper,
)

MAX_KEPT = 200
"""How many lines, notes and controls are kept of each kind; the oldest go first."""
NOT_RECORDED = "(something that was not recorded)"


class Aside(Struct, frozen=True):
    """A line of the conversation that was said while the adapter was not asked."""

    who: str
    text: str | None


class Waiting(Struct, frozen=True):
    """An admitted control that the owner has not performed yet; with a `refusal`, one that it cannot."""

    id: str
    control: OwnerControl
    refusal: str = ""

    @property
    def cuts(self) -> bool:
        """Whether the reply that is open ends with it."""
        return isinstance(self.control, TakeOver) and not self.refusal


class Supervision(Struct, frozen=True, kw_only=True):
    """`supervisor` has the call, None where the agent has; `notes` is what the adapter was told, oldest first."""

    paused: bool = False
    supervisor: str | None = None
    asides: tuple[Aside, ...] = ()
    notes: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the adapter is not asked."""
        return self.paused or self.supervisor is not None


def admitted(state: Supervision, control_id: str, control: AnyControl) -> Supervision:
    """Return the supervision after the bridge has admitted a control."""
    if not isinstance(control, OWNER_CONTROLS):
        return state
    refusal = _refusal(state, control)
    waiting = Waiting(control_id, control, refusal)
    state = replace(state, waiting=(*state.waiting, waiting)[-MAX_KEPT:])
    return state if refusal else _in_force(state, control)


def said(state: Supervision, who: str, text: str | None, *, by_supervisor: bool = False) -> Supervision:
    """Return the supervision after something was said that the adapter has to be told; `text` is None if not kept."""
    if not state.held or (by_supervisor and state.supervisor is None):
        return state
    return replace(state, asides=(*state.asides, Aside(who, text))[-MAX_KEPT:])


def performed(state: Supervision, control_id: str) -> Supervision:
    """Return the supervision after the owner has performed a control."""
    done = next((waiting for waiting in state.waiting if waiting.id == control_id), None)
    if done is None:
        return state
    note = "" if done.refusal else note_for(state, done.control)
    told = note != "" and not isinstance(done.control, Whisper)
    return replace(
        state,
        waiting=tuple(waiting for waiting in state.waiting if waiting.id != control_id),
        notes=(*state.notes, note)[-MAX_KEPT:] if note else state.notes,
        asides=() if told else state.asides,
    )


def note_for(state: Supervision, control: OwnerControl) -> str:
    """Return what the adapter is told when a control is performed; "" for nothing."""
    if isinstance(control, Whisper):
        return control.text
    if not isinstance(control, (ResumeAgent, HandBack)) or state.held or not state.asides:
        return ""
    lines = "\n".join(f"{aside.who}: {NOT_RECORDED if aside.text is None else aside.text}" for aside in state.asides)
    return f"{_WHILE[type(control)]}\n{lines}"


_WHILE: dict[type[object], str] = {
    ResumeAgent: "You were paused, and are back on the call. Said meanwhile, and not answered by you:",
    HandBack: "A human supervisor had the call, and has handed it back to you. Said meanwhile:",
}


def _refusal(state: Supervision, control: OwnerControl) -> str:
    match control:
        case TakeOver() if state.supervisor is not None and state.supervisor != control.actor:
            return "another supervisor has the call already"
        case HandBack() if state.supervisor is None:
            return "nobody has taken the call over"
        case ResumeAgent() if not state.paused:
            return "the agent is not paused"
        case _:
            return ""


def _in_force(state: Supervision, control: OwnerControl) -> Supervision:
    match control:
        case PauseAgent():
            return replace(state, paused=True)
        case ResumeAgent():
            return replace(state, paused=False)
        case TakeOver():
            return replace(state, supervisor=control.actor)
        case HandBack():
            return replace(state, supervisor=None)
        case _:
            return state
