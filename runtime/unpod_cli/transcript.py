"""From what happens on a call to what one reads of it: who said what, how much of it was heard, who did what. Pure."""

from __future__ import annotations

from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from unpod_orchestrator import (
    AnyHappening,
    CallerSaid,
    CallStateChanged,
    Connected,
    DeltaCame,
    Ended,
    Interrupted,
    LineDropped,
    ReplyEnded,
    SpeechProgress,
    TransferRecord,
    Transferred,
    VerbDone,
    VerbOutcome,
    Violated,
)

Who = Literal["caller", "agent", "worker"]

_ENDINGS = {
    "hangup": "the caller hung up",
    "ended_by_agent": "the agent ended the call",
    "transferred": "the caller was connected",
    "cancelled": "the call was called off",
    "dropped": "the line was lost",
    "failed": "the call failed",
}


class SpokenLine(Struct, frozen=True):
    """Something that was said: `text` is what was heard, `unheard` what was written and then cut off.

    `recorded` is False while the recording is paused.
    """

    who: Who
    text: str
    unheard: str = ""
    cut: bool = False
    recorded: bool = True


class Speaking(Struct, frozen=True):
    """Something is being said; `text` was heard so far."""

    who: Who
    text: str


class Done(Struct, frozen=True):
    """Something happened other than speech; `bad` where it should not have."""

    text: str
    bad: bool = False


class CallOver(Struct, frozen=True):
    """The call is over."""

    outcome: VerbOutcome
    text: str


Item = SpokenLine | Speaking | Done | CallOver


class Transcriber:
    """Turns one call's happenings into what is shown of it."""

    def __init__(self) -> None:
        self._written: dict[int, str] = {}
        self._cut: set[int] = set()
        self._recorded = True
        self._pending: SpokenLine | None = None

    def take(self, happening: AnyHappening) -> list[Item]:
        """Return what is to be shown now."""
        return [*self._take_pending(cut=isinstance(happening, Interrupted | Ended)), *self._items(happening)]

    def _items(self, happening: AnyHappening) -> list[Item]:
        match happening:
            case CallerSaid(text=text, is_final=final):
                return [self._spoken("caller", text) if final else Speaking("caller", text)]
            case DeltaCame(text=text, turn_id=turn):
                if turn not in self._cut:
                    self._written[turn] = self._written.get(turn, "") + text
                return []
            case SpeechProgress():
                return self._progress(happening)
            case Interrupted(turn_id=turn):
                self._written.pop(turn, None)
                self._cut.add(turn)
                return []
            case VerbDone(frame=frame):
                return self._verb(frame)
            case _:
                return _told(happening)

    def _progress(self, progress: SpeechProgress) -> list[Item]:
        if not progress.done:
            return [Speaking(progress.role, progress.heard)] if progress.heard else []
        if not progress.heard:
            return []
        if progress.role != "agent":
            return [self._spoken(progress.role, progress.heard)]
        # Whether it was cut off is known with the next happening.
        self._pending = self._spoken("agent", progress.heard, self._unheard(progress.heard))
        return []

    def _unheard(self, heard: str) -> str:
        """Return what was written of the reply that `heard` belongs to, and not heard."""
        for turn, written in self._written.items():
            if written.startswith(heard):
                del self._written[turn]
                return written[len(heard) :]
        return ""

    def _take_pending(self, *, cut: bool) -> list[Item]:
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        unheard = pending.unheard.strip()
        return [replace(pending, text=pending.text.strip(), unheard=unheard, cut=cut or bool(unheard))]

    def _spoken(self, who: Who, text: str, unheard: str = "") -> SpokenLine:
        return SpokenLine(who, text, unheard, recorded=self._recorded)

    def _verb(self, frame: dict[str, object]) -> list[Item]:
        match frame.get("event"):
            case "recording.pause":
                self._recorded = False
                reason = frame.get("reason")
                return [Done(f"recording paused ({reason})" if reason else "recording paused")]
            case "recording.resume":
                self._recorded = True
                return [Done("recording goes on")]
            case "agent.end_call":
                return [Done(f"the agent ends the call ({frame.get('reason')})")]
            case "agent.transfer":
                return []  # what became of it comes by itself
            case event:
                return [Done(str(event))]


def _told(
    happening: Connected | LineDropped | Transferred | Violated | Ended | CallStateChanged | ReplyEnded,
) -> list[Item]:
    match happening:
        case Connected(again=again):
            return [Done("the line is back" if again else "connected")]
        case LineDropped():
            return [Done("the line was dropped", bad=True)]
        case Transferred(transfer=transfer):
            return [_transferred(transfer)]
        case Violated(reason=reason):
            return [Done(f"protocol: {reason}", bad=True)]
        case Ended(outcome=outcome):
            return [CallOver(outcome, _ending(outcome))]
        case CallStateChanged() | ReplyEnded():
            return []
        case _:
            assert_never(happening)


def _transferred(transfer: TransferRecord) -> Done:
    to = f"{transfer.transfer_type} {transfer.target}"
    if transfer.refused is not None:
        return Done(f"transfer to {to} refused: {transfer.refused}", bad=True)
    return Done(f"{transfer.mode} transfer to {to}")


def _ending(outcome: VerbOutcome) -> str:
    text = _ENDINGS[outcome.reason]
    return f"{text}: {outcome.detail}" if outcome.detail else text
