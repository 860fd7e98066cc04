"""Every frame that the local orchestrator sends is well-typed, and small enough."""

import json

import pytest

from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.constants import EVENTS
from unpod_orchestrator.wire.frame_log import FrameLog, LoggedFrame
from unpod_orchestrator.wire.outgoing import CallIdentity, TurnTimes
from unpod_orchestrator.worker.deadlines import Deadlines
from unpod_orchestrator.worker.happenings import VerbOutcome
from unpod_orchestrator.worker.transfers import number_refusal

WHO = CallIdentity(session_id="s", job_id="j", call_id="c", room_id="r", agent_id="desk")


def times(turn_id: int, *, asr_ms: float = 10.0) -> TurnTimes:
    return TurnTimes(turn_id=turn_id, asr_ms=asr_ms, llm_ttft_ms=20.0, llm_total_ms=30.0, tts_ttfb_ms=40.0)


def test_absent_metadata_is_an_empty_object() -> None:
    assert outgoing.call_started(WHO)["metadata"] == {}
    assert outgoing.job_assign(WHO, agent_id="a", bridge_url="u", call_token="t", deadline_ms=1)["metadata"] == {}


def test_metadata_is_a_copy() -> None:
    frame = outgoing.call_started(WHO)
    frame["metadata"]["x"] = 1  # type: ignore[index]
    assert WHO.metadata == {}


def test_the_language_goes_into_extra() -> None:
    frame = outgoing.user_text("hi", is_final=True, language="de", extra={"confidence": 0.5})
    assert frame["extra"] == {"confidence": 0.5, "language": "de"}
    assert "extra" not in outgoing.user_text("hi", is_final=True, language=None, extra=None)


def test_a_call_without_turns_has_a_metric() -> None:
    assert outgoing.metric([], 0.0) == {
        "event": "metric",
        "ttfa_ms": None,
        "asr_p95_ms": None,
        "tts_p95_ms": None,
        "turns": 0,
        "cost_usd_so_far": 0.0,
    }


def test_the_95th_percentile_is_one_of_the_values() -> None:
    metric = outgoing.metric([times(turn, asr_ms=float(turn)) for turn in range(1, 101)], 0.1)
    assert (metric["asr_p95_ms"], metric["turns"], metric["ttfa_ms"]) == (96, 100, 160)


def test_a_frame_that_is_too_big_is_refused() -> None:
    with pytest.raises(ValueError, match="1 MiB at most"):
        outgoing.encode({"text": "ä" * (1 << 19)})
    with pytest.raises(ValueError, match="surrogates"):
        outgoing.encode({"text": "\ud800"})


def test_hostile_frames_are_what_no_worker_sends() -> None:
    unknown, ill_typed, *_ = map(json.loads, outgoing.hostile_frames(WHO)[:2])
    assert unknown["event"] not in EVENTS
    assert ill_typed["event"] in EVENTS
    assert any(isinstance(payload, bytes) for payload in outgoing.hostile_frames(WHO))


def test_the_registered_frame_can_leave_the_interval_out() -> None:
    assert outgoing.registered(None, None) == {"type": "registered", "transport_ack": None}


@pytest.mark.parametrize(
    ("number", "allowed", "refused"),
    [
        ("+15551230000", None, False),
        ("+15551230000", {"+15551230000"}, False),
        ("+15551230000", set(), True),
        ("+1", None, True),
        ("+15551230000\n", None, True),
    ],
)
def test_numbers_are_checked(number: str, allowed: set[str] | None, *, refused: bool) -> None:
    assert (number_refusal(number, allowed) is not None) is refused


def test_the_frame_log_is_bounded_by_number_and_by_size() -> None:
    log = FrameLog(max_frames=3, max_bytes=100)
    for number in range(5):
        log.add(LoggedFrame("in", float(number), "x", {}), 10)
    assert [frame.t_s for frame in log.frames] == [2.0, 3.0, 4.0]
    log.add(LoggedFrame("in", 9.0, "x", {}), 500)
    assert [frame.t_s for frame in log.frames] == [9.0]
    assert (len(log.frames), log.forgotten) == (1, 5)


def test_timers_are_due_once_and_in_order() -> None:
    timers = Deadlines()
    timers.set("late", 3.0)
    timers.set("early", 1.0)
    timers.set("moved", 1.0)
    timers.set("moved", 9.0)
    assert timers.next() == 1.0
    assert timers.due(5.0) == ["early", "late"]
    assert timers.due(5.0) == []
    timers.clear("moved")
    timers.clear("unknown")
    assert timers.next() is None


def test_faults_are_used_up_one_by_one() -> None:
    faults = CallFaults(silent_handshakes=1, stalled_handshakes=1, started_first=1)
    assert [faults.next_handshake() for _ in range(4)] == ["silent", "stalled", "started_first", "good"]


def test_an_outcome_reads_as_one_line() -> None:
    assert str(VerbOutcome("failed", "a binary frame")) == "failed: a binary frame"
    assert str(VerbOutcome("hangup")) == "hangup"
