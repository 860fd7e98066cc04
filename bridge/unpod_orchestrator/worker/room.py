"""Who takes part in a call, whether it is recorded, and which transfers and other agents were asked for. Pure."""

from typing import Final, Literal, TypeAlias, assert_never

from unpod_orchestrator.wire.call_frames import (
    AddParticipantFrame,
    DispatchFrame,
    MergeFrame,
    RecordingPauseFrame,
    RecordingResumeFrame,
    RemoveParticipantFrame,
)
from unpod_orchestrator.worker.bounded import keep
from unpod_orchestrator.worker.transfers import TransferRecord

RecordingState: TypeAlias = Literal["on", "paused", "off"]

RoomFrame: TypeAlias = (
    AddParticipantFrame
    | DispatchFrame
    | MergeFrame
    | RecordingPauseFrame
    | RecordingResumeFrame
    | RemoveParticipantFrame
)
"""The frames that change the room and nothing else."""

_MAX_KEPT: Final = 1_000


class Room:
    """The room of one call; each list is bounded. `recorded` false: recording is off, and stays off."""

    def __init__(self, *, recorded: bool) -> None:
        self._participants_made = 0
        self.recording: RecordingState = "on" if recorded else "off"
        self.transfers: list[TransferRecord] = []
        self.dispatched: list[str] = []
        self.merged: list[str] = []
        self.participants: dict[str, str] = {"caller": "caller", "agent": "agent"}

    def carry_out(self, verb: RoomFrame) -> None:
        """Does what one verb asks for."""
        match verb:
            case RecordingPauseFrame():
                self._record("paused")
            case RecordingResumeFrame():
                self._record("on")
            case DispatchFrame():
                keep(self.dispatched, verb.agent_id, _MAX_KEPT)
            case AddParticipantFrame():
                self.add_participant(verb.participant_type)
            case RemoveParticipantFrame():
                self.remove_participant(verb.participant_id)
            case MergeFrame():
                self.merge(verb.source_session_id)
            case _:
                assert_never(verb)

    def transfer(self, transfer: TransferRecord) -> None:
        """A transfer was asked for, carried out or refused."""
        keep(self.transfers, transfer, _MAX_KEPT)

    def merge(self, session_id: str) -> None:
        """Another session is merged into this one."""
        keep(self.merged, session_id, _MAX_KEPT)

    def add_participant(self, kind: str) -> str:
        """Somebody joins; returns their id."""
        self._participants_made += 1
        participant_id = f"participant-{self._participants_made}"
        if len(self.participants) < _MAX_KEPT:
            self.participants[participant_id] = kind
        return participant_id

    def remove_participant(self, participant_id: str) -> bool:
        """Somebody leaves; false where nobody of that id takes part."""
        return self.participants.pop(participant_id, None) is not None

    def _record(self, state: RecordingState) -> None:
        if self.recording != "off":
            self.recording = state
