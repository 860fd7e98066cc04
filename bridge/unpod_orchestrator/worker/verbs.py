"""What the worker does for each verb of the client. Pure."""

from collections import deque
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

from unpod_orchestrator.wire import call_frames as frames
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.worker.happenings import Transferred, VerbDone
from unpod_orchestrator.worker.transfers import TransferMode, TransferRecord, number_refusal

if TYPE_CHECKING:
    from unpod_orchestrator.worker.speech_worker import SpeechWorker

_Speech: TypeAlias = frames.TextDelta | frames.TextEnd | frames.Say | frames.Filler | frames.Interrupt
_People: TypeAlias = frames.Dispatch | frames.AddParticipant | frames.RemoveParticipant | frames.Merge

RecordingState: TypeAlias = Literal["on", "paused", "off"]

REFUSED_TRANSFER_TEXT: Final = "I am sorry, I cannot connect you to that number."
_MAX_KEPT: Final = 1_000


class Performer:
    """Carries out verbs, and remembers what of them can be seen from outside."""

    def __init__(self, worker: "SpeechWorker") -> None:
        self._worker = worker
        self._transferring: TransferRecord | None = None
        self._handoff_s = 0.0
        self._end_detail: str | None = None
        self._participants_made = 0
        self.recording: RecordingState = "off" if worker.who.metadata.get("recording") is False else "on"
        self.transfers: deque[TransferRecord] = deque(maxlen=_MAX_KEPT)
        self.dispatched: deque[str] = deque(maxlen=_MAX_KEPT)
        self.merged: deque[str] = deque(maxlen=_MAX_KEPT)
        self.participants: dict[str, str] = {"caller": "caller", "agent": "agent"}

    def perform(self, verb: frames.Verb, now: float) -> None:
        """Carries out one verb; `FrameError` where it comes at a time when it may not."""
        if isinstance(verb, _Speech):
            self._speech(verb, now)
            return
        self._worker.tell(VerbDone(_as_raw(verb)))
        match verb:
            case frames.EndCall():
                self.end_when_spoken(verb.reason)
            case frames.Transfer():
                self._transfer(verb, now)
            case frames.RecordingPause():
                self._record("paused")
            case frames.RecordingResume():
                self._record("on")
            case frames.Dispatch() | frames.AddParticipant() | frames.RemoveParticipant() | frames.Merge():
                self._people(verb)
            case _:
                assert_never(verb)

    def reached(self, name: str, now: float) -> None:
        """What was queued before an end or a transfer has been spoken, or a handoff's moment is over."""
        if name == "end":
            self._worker.over("ended_by_agent", self._end_detail or "")
        elif name == "announced":
            self._worker.timers.set("handoff", now + self._handoff_s)
        elif name == "handoff" and self._transferring is not None:
            self._connect_away(self._transferring)

    def end_when_spoken(self, detail: str) -> None:
        """The call ends when what is being said is said."""
        if self._end_detail is None:
            self._end_detail = detail
            self._worker.voice.mark("end")

    def transfer_to(self, transfer: TransferRecord, announcement: str | None, handoff_s: float, now: float) -> None:
        """Connects the caller away: cold at once, warm after the announcement and a moment of `handoff_s`."""
        self.transfers.append(transfer)
        self._worker.tell(Transferred(transfer))
        if transfer.mode == "cold":
            self._connect_away(transfer)
        elif self._transferring is None:
            self._transferring = transfer
            self._handoff_s = handoff_s / self._worker.options.speed
            if announcement:
                self._worker.talk.say("announcement", announcement, now)
            self._worker.voice.mark("announced")

    def add_participant(self, kind: str) -> str:
        """Somebody joins; returns their id."""
        self._participants_made += 1
        participant_id = f"participant-{self._participants_made}"
        if len(self.participants) < _MAX_KEPT:
            self.participants[participant_id] = kind
        return participant_id

    def _connect_away(self, transfer: TransferRecord) -> None:
        self._worker.over("transferred", transfer.target)

    def _speech(self, verb: _Speech, now: float) -> None:
        talk = self._worker.talk
        match verb:
            case frames.TextDelta(text):
                talk.delta(text, now)
            case frames.TextEnd():
                talk.end(now)
            case frames.Say(text):
                talk.say("say", text, now)
            case frames.Filler(text):
                talk.say_if_idle(text, now)
            case frames.Interrupt():
                talk.stop_speech(now)
            case _:
                assert_never(verb)

    def _transfer(self, verb: frames.Transfer, now: float) -> None:
        options = self._worker.options
        mode: TransferMode = verb.mode
        transfer = TransferRecord(transfer_type=verb.transfer_type, target=verb.target, mode=mode)
        refused = number_refusal(verb.target, options.allowed_numbers) if verb.transfer_type == "number" else None
        if refused is None:
            self.transfer_to(transfer, verb.announcement, options.warm_handoff_s, now)
            return
        refusal = TransferRecord(transfer_type="number", target=verb.target, mode=mode, refused=refused)
        self.transfers.append(refusal)
        self._worker.tell(Transferred(refusal))
        self._worker.talk.say("worker", REFUSED_TRANSFER_TEXT, now)

    def _record(self, state: RecordingState) -> None:
        if self.recording != "off":
            self.recording = state

    def _people(self, verb: _People) -> None:
        match verb:
            case frames.Dispatch():
                self.dispatched.append(verb.agent_id)
            case frames.AddParticipant():
                self.add_participant(verb.participant_type)
            case frames.RemoveParticipant():
                self.participants.pop(verb.participant_id, None)
            case frames.Merge():
                self.merged.append(verb.source_session_id)
            case _:
                assert_never(verb)


def _as_raw(verb: frames.Verb) -> RawFrame:
    raw: RawFrame = {"event": verb.verb}
    raw.update({name: getattr(verb, name) for name in verb.__struct_fields__})
    return raw
