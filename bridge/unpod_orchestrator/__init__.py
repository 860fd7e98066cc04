"""A local orchestrator with its speech worker: the other side of the wire, for development, demos and tests.

The wire calls two things a worker. The *speech worker* is played here, one for each call (`SpeechWorker`); it hears and
speaks. The *workers* are the clients that register over control sockets and take calls (`RegisteredWorker`).
"""

from unpod_orchestrator.calls.call import CallOverError, LocalCall
from unpod_orchestrator.calls.happening_stream import HappeningStream
from unpod_orchestrator.control.job_offers import CallRefused
from unpod_orchestrator.faults import CallFaults, ControlFaults
from unpod_orchestrator.script.scenario import Scenario, ScenarioResult
from unpod_orchestrator.script.steps import (
    AnyStep,
    BargesIn,
    Drops,
    ExpectationFailed,
    ExpectsEnd,
    ExpectsRecording,
    ExpectsRecordingPaused,
    ExpectsRecordingResumed,
    ExpectsTransfer,
    HangsUp,
    HearsAll,
    HearsReply,
    HearsSpeech,
    Says,
    Sends,
    Waits,
)
from unpod_orchestrator.server import LocalOrchestrator, serve_forever
from unpod_orchestrator.wire.constants import ALL_VERBS, EVENTS, OWN_VERBS, WIRE_VERBS
from unpod_orchestrator.wire.frame_log import LoggedFrame
from unpod_orchestrator.worker.conversation import HeardPrefix
from unpod_orchestrator.worker.happenings import (
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
    TranscriptEntry,
    Transferred,
    VerbDone,
    VerbOutcome,
    Violated,
)
from unpod_orchestrator.worker.transfers import TransferRecord

__all__ = [
    "ALL_VERBS",
    "EVENTS",
    "OWN_VERBS",
    "WIRE_VERBS",
    "AnyHappening",
    "AnyStep",
    "BargesIn",
    "CallFaults",
    "CallOverError",
    "CallRefused",
    "CallStateChanged",
    "CallerSaid",
    "Connected",
    "ControlFaults",
    "DeltaCame",
    "Drops",
    "Ended",
    "ExpectationFailed",
    "ExpectsEnd",
    "ExpectsRecording",
    "ExpectsRecordingPaused",
    "ExpectsRecordingResumed",
    "ExpectsTransfer",
    "HangsUp",
    "HappeningStream",
    "HeardPrefix",
    "HearsAll",
    "HearsReply",
    "HearsSpeech",
    "Interrupted",
    "LineDropped",
    "LocalCall",
    "LocalOrchestrator",
    "LoggedFrame",
    "ReplyEnded",
    "Says",
    "Scenario",
    "ScenarioResult",
    "Sends",
    "SpeechProgress",
    "TranscriptEntry",
    "TransferRecord",
    "Transferred",
    "VerbDone",
    "VerbOutcome",
    "Violated",
    "Waits",
    "serve_forever",
]
