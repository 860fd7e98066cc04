"""Imperatives: what shall be done. Each is a record on `cmd`, written by the session's owner.

The names are unpod's; `unpod_bridge.wire.call_frames` turns them into verbs of the wire. A control never travels in
spoken text.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

TransferType = Literal["number", "agent", "human"]
TransferMode = Literal["cold", "warm"]
ReplyEndReason = Literal["done", "empty", "interrupted", "failed", "ended", "unanswered"]


class Command(Struct, frozen=True, tag_field="verb", omit_defaults=True, kw_only=True):
    """The root of all commands."""


class Say(Command, frozen=True, tag="say"):
    """Speak `text` verbatim, at once."""

    text: str | None
    withheld: bool = False


class EndReply(Command, frozen=True, tag="reply.end"):
    """End a reply: it has `deltas` pieces with `chars` characters in all, and each must have been written before.

    `closing`: the adapter has nothing more to say on this call, or has failed where that ends it; an `EndCall` follows.
    """

    turn: int
    part: int = 0
    deltas: int = 0
    chars: int = 0
    reason: ReplyEndReason = "done"
    closing: bool = False


class Interrupt(Command, frozen=True, tag="interrupt"):
    """Stop what is playing."""


class SetFiller(Command, frozen=True, tag="filler.set"):
    """Say `text` when the caller would else wait in silence."""

    text: str | None
    withheld: bool = False


class Transfer(Command, frozen=True, tag="transfer"):
    """Connect the caller to somebody else; a `cold` one ends the call for the session, unless it is refused."""

    transfer_type: TransferType
    target: str
    mode: TransferMode = "cold"
    announcement: str | None = None


class EndCall(Command, frozen=True, tag="call.end"):
    """Hang up when what is being said is said; the reply to `turn`, where it is not 0, comes to its end first."""

    reason: str = "completed"
    turn: int = 0


class PauseRecording(Command, frozen=True, tag="recording.pause"):
    """Stop recording, and keep no text until it is resumed."""

    reason: str = ""


class ResumeRecording(Command, frozen=True, tag="recording.resume"):
    """Record again."""


class DispatchAgent(Command, frozen=True, tag="dispatch"):
    """Bring another agent into the call."""

    agent_id: str
    metadata: dict[str, object] = {}


class AddParticipant(Command, frozen=True, tag="participant.add"):
    """Bring a participant into the call."""

    participant_type: str
    config: dict[str, object] = {}


class RemoveParticipant(Command, frozen=True, tag="participant.remove"):
    """Take a participant out of the call."""

    participant_id: str


class Merge(Command, frozen=True, tag="merge"):
    """Join another session's call into this one."""

    source_session_id: str


AnyCommand = (
    Say
    | EndReply
    | Interrupt
    | SetFiller
    | Transfer
    | EndCall
    | PauseRecording
    | ResumeRecording
    | DispatchAgent
    | AddParticipant
    | RemoveParticipant
    | Merge
)

IRREVERSIBLE = (EndCall, Transfer, DispatchAgent, Merge, AddParticipant, RemoveParticipant)
"""Claimed before they are written, and never repeated."""
