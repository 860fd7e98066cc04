"""What can be read of a call at any time, without waiting and without changing it."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.outgoing import CallIdentity, CallState
from unpod_orchestrator.worker.happenings import Frame, Outcome, TranscriptLine
from unpod_orchestrator.worker.replies import Reply
from unpod_orchestrator.worker.speech_worker import Phase, SpeechWorker
from unpod_orchestrator.worker.transfers import TransferRecord
from unpod_orchestrator.worker.verbs import RecordingState

_SHOWN_WHOLE: Final = 40


class CallView:
    """The readable side of a call."""

    def __init__(self, worker: SpeechWorker, *, agent_id: str, pool: str) -> None:
        self._worker = worker
        self.agent_id = agent_id
        self.pool = pool
        self.worker_id: str | None = None
        self.placed_at = dt.datetime.now(dt.UTC)
        self.ended_at: dt.datetime | None = None

    def __repr__(self) -> str:
        return f"<Call {self.session_id[:_SHOWN_WHOLE]!r} {self._worker.phase.value}>"

    @property
    def identity(self) -> CallIdentity:
        """All its ids."""
        return self._worker.who

    @property
    def speed(self) -> float:
        """How much faster than real speech is."""
        return self._worker.options.speed

    @property
    def allowed_numbers(self) -> frozenset[str] | None:
        """Where callers may be transferred to; None for anywhere."""
        return self._worker.options.allowed_numbers

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._worker.who.session_id

    @property
    def job_id(self) -> str:
        """The job's id, as in `job.assign`."""
        return self._worker.who.job_id

    @property
    def call_id(self) -> str:
        """The call's id, as in `job.assign` and `turn.metrics`."""
        return self._worker.who.call_id

    @property
    def token(self) -> str:
        """The pairing's token: a secret."""
        return self._worker.pairing.token

    @property
    def metadata(self) -> RawFrame:
        """What the call was placed with."""
        return self._worker.who.metadata

    @property
    def faults(self) -> CallFaults:
        """How this call misbehaves; may be changed at any time."""
        return self._worker.faults

    @property
    def frames(self) -> list[Frame]:
        """Every frame both ways, in order (the oldest are forgotten beyond the bound)."""
        return self._worker.frames.all()

    @property
    def transcript(self) -> list[TranscriptLine]:
        """What was heard, by whom it was said."""
        return list(self._worker.talk.transcript)

    @property
    def violations(self) -> list[str]:
        """How the client broke the protocol."""
        return self._worker.violations

    @property
    def outcome(self) -> Outcome | None:
        """How the call ended; None while it lives."""
        return self._worker.outcome

    @property
    def live(self) -> bool:
        """Whether the handshake is done and the line up."""
        return self._worker.phase is Phase.LIVE

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._worker.phase is Phase.OVER

    @property
    def state(self) -> CallState:
        """What the call is doing, as last told to the client."""
        return self._worker.talk.state

    @property
    def turn_id(self) -> int:
        """The caller's last turn; 0 before the first."""
        return self._worker.talk.turn_id

    @property
    def recording(self) -> RecordingState:
        """`off` where the metadata says `recording: false`."""
        return self._worker.performer.recording

    @property
    def transfers(self) -> list[TransferRecord]:
        """The transfers that were asked for, the refused ones included."""
        return list(self._worker.performer.transfers)

    @property
    def dispatched(self) -> list[str]:
        """The agents that were asked to join."""
        return list(self._worker.performer.dispatched)

    @property
    def merged(self) -> list[str]:
        """The sessions that were merged into this one."""
        return list(self._worker.performer.merged)

    @property
    def participants(self) -> dict[str, str]:
        """Who takes part, by id: their kind."""
        return dict(self._worker.performer.participants)

    @property
    def negotiated_verbs(self) -> tuple[str, ...]:
        """What the last handshake settled on."""
        return self._worker.negotiated_verbs

    @property
    def replies(self) -> list[Reply]:
        """The complete replies, interrupted ones included."""
        return list(self._worker.talk.replies.completed)

    @property
    def ends_owed(self) -> int:
        """How many `agent.text.end` the client still owes."""
        return self._worker.talk.replies.owed

    @property
    def dials(self) -> Sequence[tuple[float, int | None]]:
        """Every dial: when (seconds since the placing), and the close code that refused it."""
        return tuple(self._worker.dials)
