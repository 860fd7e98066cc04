"""What can be seen of a call from outside: its transcript, its outcome, and what happens live. Pure."""

from typing import Literal, TypeAlias

import msgspec

from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.outgoing import CallState
from unpod_orchestrator.worker.transfers import TransferRecord

Role: TypeAlias = Literal["caller", "agent", "worker"]
EndReason: TypeAlias = Literal["hangup", "ended_by_agent", "transferred", "cancelled", "dropped", "failed"]


class TranscriptEntry(msgspec.Struct, frozen=True):
    """What was really heard, and by whom it was said."""

    role: Role
    text: str
    t_s: float


class VerbOutcome(msgspec.Struct, frozen=True):
    """How a call ended: `detail` is the agent's reason, the transfer's target, or the fault."""

    reason: EndReason
    detail: str = ""
    violations: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Happening(msgspec.Struct, frozen=True, tag_field="happening"):
    """Something that happened in a call, for whoever watches it live."""


class Connected(Happening, frozen=True, tag="connected"):
    """The handshake is done; `again` after a drop."""

    again: bool


class LineDropped(Happening, frozen=True, tag="line_dropped"):
    """The socket is gone without a hang-up; the call waits for a redial."""

    code: int | None


class CallerSaid(Happening, frozen=True, tag="caller_said"):
    """The caller said something, or is saying it."""

    text: str
    is_final: bool
    turn_id: int


class Interrupted(Happening, frozen=True, tag="interrupted"):
    """The caller cut in."""

    turn_id: int
    heard_prefix: str | None


class CallStateChanged(Happening, frozen=True, tag="state"):
    """The call is doing something else now."""

    state: CallState
    turn_id: int


class DeltaCame(Happening, frozen=True, tag="delta"):
    """The agent has written a piece of a reply, which is not spoken yet."""

    text: str
    turn_id: int


class ReplyEnded(Happening, frozen=True, tag="reply_ended"):
    """A reply is written to its end."""

    text: str
    turn_id: int
    interrupted: bool


class SpeechProgress(Happening, frozen=True, tag="speech"):
    """What has been heard so far of what is being spoken; `done` with its last."""

    role: Role
    heard: str
    done: bool


class VerbDone(Happening, frozen=True, tag="verb"):
    """The client asked for something other than speech."""

    frame: RawFrame


class Transferred(Happening, frozen=True, tag="transfer"):
    """A transfer was asked for, carried out or refused."""

    transfer: TransferRecord


class Violated(Happening, frozen=True, tag="violation"):
    """The client broke the protocol."""

    reason: str


class Ended(Happening, frozen=True, tag="ended"):
    """The call is over; nothing happens after that."""

    outcome: VerbOutcome


AnyHappening: TypeAlias = (
    Connected
    | LineDropped
    | CallerSaid
    | Interrupted
    | CallStateChanged
    | DeltaCame
    | ReplyEnded
    | SpeechProgress
    | VerbDone
    | Transferred
    | Violated
    | Ended
)
