"""One call's state machine, on a clock that the test sets."""

import json
from typing import Any

import pytest

from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.wire.constants import ALL_VERBS, EVENTS, WIRE_VERBS
from unpod_orchestrator.wire.outgoing import CallIdentity
from unpod_orchestrator.worker.conversation import HeardPrefix
from unpod_orchestrator.worker.happenings import CallStateChanged, Ended, Transferred
from unpod_orchestrator.worker.speech_worker import (
    REFUSED_TRANSFER_TEXT,
    AbortLine,
    CloseLine,
    Effect,
    Phase,
    SpeechWorker,
    Transmit,
    WorkerOptions,
)
from unpod_orchestrator.worker.transfers import TransferRecord

HELLO: dict[str, Any] = {
    "event": "hello",
    "protocol_version": 2,
    "supported_events": list(EVENTS),
    "supported_verbs": list(ALL_VERBS),
}


OPTIONS = WorkerOptions(offers=ALL_VERBS, chars_per_s=10.0)


class Bench:
    """A worker, its clock, and what came out of it."""

    def __init__(
        self,
        options: WorkerOptions = OPTIONS,
        *,
        metadata: dict[str, Any] | None = None,
        faults: CallFaults | None = None,
    ) -> None:
        who = CallIdentity(
            session_id="s", job_id="j", call_id="c", room_id="r", agent_id="desk", metadata=metadata or {}
        )
        self.now = 1000.0
        self.effects: list[Effect] = []
        self.worker = SpeechWorker(who, options, faults or CallFaults(), token="t0ken", now=self.now)
        self.worker.dispatched(self.now)

    def dial(self, token: str | None = None) -> int | None:
        return self.worker.dialled(self.worker.pairing.token if token is None else token, self.now)

    def send(self, event: str, **fields: object) -> list[dict[str, Any]]:
        self.worker.received(json.dumps({"event": event, **fields}), self.now)
        return self.frames()

    def hello(self, **changes: object) -> list[dict[str, Any]]:
        self.worker.received(json.dumps({**HELLO, **changes}), self.now)
        return self.frames()

    def after(self, seconds: float) -> list[dict[str, Any]]:
        """Lets time pass, waking the worker whenever it asks to be."""
        end = self.now + seconds
        while (at := self.worker.next_wakeup()) is not None and at <= end:
            self.now = max(self.now, at)
            self.worker.tick(self.now)
        self.now = end
        self.worker.tick(self.now)
        return self.frames()

    def frames(self) -> list[dict[str, Any]]:
        self.effects = self.worker.take_effects()
        return [json.loads(effect.data) for effect in self.effects if isinstance(effect, Transmit)]

    def say(self, text: str) -> list[dict[str, Any]]:
        self.worker.caller_says(text, final=True, language=None, extra=None, now=self.now)
        return self.frames()

    def barge_in(self, prefix: str | HeardPrefix | None = HeardPrefix.AUTOMATIC) -> str | None:
        heard = self.worker.caller_interrupts(prefix, self.now)
        self.frames()
        return heard

    def states(self, frames: list[dict[str, Any]]) -> list[str]:
        return [frame["state"] for frame in frames if frame["event"] == "state"]

    @property
    def outcome(self) -> str:
        return str(self.worker.outcome)

    @property
    def heard(self) -> list[tuple[str, str]]:
        return [(line.role, line.text) for line in self.worker.talk.transcript]

    def closed_with(self) -> int | None:
        codes = [effect.code for effect in self.effects if isinstance(effect, CloseLine)]
        return codes[0] if codes else None


@pytest.fixture
def bench() -> Bench:
    """A call that has just begun."""
    bench = Bench()
    assert bench.dial() is None
    bench.hello()
    return bench


# ---- pairing


def test_the_pairing_is_held_for_a_while_after_the_dispatch() -> None:
    bench = Bench()
    bench.after(19.9)
    assert bench.dial() is None
    bench.worker.line_lost(None, bench.now)
    bench.after(0.2)
    assert bench.dial() == 4003
    assert bench.outcome == "failed: nobody dialled within 20 s"


def test_a_handshake_that_began_in_time_may_end_after_the_window() -> None:
    bench = Bench()
    bench.after(19.0)
    bench.dial()
    bench.after(2.0)
    assert [frame["event"] for frame in bench.hello()][:2] == ["hello.ack", "call.started"]


@pytest.mark.parametrize("token", ["", "wrong", "\udcff", "é"])
def test_a_wrong_token_is_refused(token: str) -> None:
    assert Bench().dial(token) == 4003


def test_a_second_socket_is_refused_while_one_lives(bench: Bench) -> None:
    assert bench.dial() == 4009
    assert bench.dial("wrong") == 4003


@pytest.mark.parametrize("code", [None, 1006, 1011, 1012, 1013])
def test_after_a_drop_the_call_goes_on_under_the_same_token(bench: Bench, code: int | None) -> None:
    bench.worker.line_lost(code, bench.now)
    bench.after(59.0)
    assert bench.dial() is None
    assert [frame["event"] for frame in bench.hello()] == ["hello.ack", "call.started", "state"]


def test_without_a_redial_the_call_is_dropped(bench: Bench) -> None:
    bench.worker.line_lost(None, bench.now)
    bench.after(60.0)
    assert bench.outcome == "dropped: no redial within 60 s"
    assert bench.dial() == 4003


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_client_that_closes_ends_the_call(bench: Bench, code: int) -> None:
    bench.worker.line_lost(code, bench.now)
    assert bench.outcome == f"ended_by_agent: the client closed the socket with {code}"
    assert bench.dial() == 4003


def test_closing_in_the_middle_of_a_handshake_ends_nothing() -> None:
    bench = Bench(faults=CallFaults(stalled_handshakes=1))
    bench.dial()
    assert [frame["event"] for frame in bench.hello()] == ["hello.ack"]
    bench.worker.line_lost(1000, bench.now)
    assert bench.dial() is None
    bench.hello()
    assert bench.worker.phase is Phase.LIVE


def test_two_dials_are_refused_and_the_third_is_the_call() -> None:
    bench = Bench(faults=CallFaults(refuse_dials=2))
    assert [bench.dial() for _ in range(3)] == [4003, 4003, None]
    assert [code for _, code in bench.worker.dials] == [4003, 4003, None]


# ---- handshake


def test_the_handshake_negotiates_what_both_know() -> None:
    bench = Bench(WorkerOptions(offers=WIRE_VERBS))
    bench.dial()
    ack, started, state = bench.hello(supported_verbs=["agent.interrupt", "agent.say", "agent.dance"])
    assert ack["negotiated_verbs"] == ["agent.say"]
    assert ack["negotiated_events"] == list(EVENTS)
    assert [ack[name] for name in ("call_id", "session_id", "job_id", "room_id")] == ["c", "s", "j", "r"]
    assert started["metadata"] == {}
    assert state == {"event": "state", "state": "listening", "turn_id": 0}


def test_what_is_not_advertised_is_not_sent() -> None:
    bench = Bench(WorkerOptions(offers=ALL_VERBS, require_all_events=False))
    bench.dial()
    frames = bench.hello(supported_events=["user.text", "call.started", "weather"])
    assert frames[0]["negotiated_events"] == ["user.text", "call.started"]
    frames += bench.say("hi")
    frames += bench.send("agent.text.end")
    assert {frame["event"] for frame in frames} == {"hello.ack", "call.started", "user.text"}


def test_call_started_can_come_first() -> None:
    bench = Bench(faults=CallFaults(started_first=1))
    bench.dial()
    assert [frame["event"] for frame in bench.hello()] == ["call.started", "hello.ack"]
    bench.send("agent.say", text="hi")  # a client that takes it nevertheless
    assert bench.worker.phase is Phase.LIVE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": 1}, "hello: protocol_version 1, not 2"),
        ({"supported_events": ["user.text"]}, "hello: supported_events lacks"),
        ({"supported_verbs": None}, "hello: Expected `array`"),
    ],
)
def test_a_wrong_hello_fails_the_call(changes: dict[str, Any], reason: str) -> None:
    bench = Bench()
    bench.dial()
    bench.hello(**changes)
    assert bench.outcome.startswith(f"failed: {reason}")
    assert bench.closed_with() == 1002


def test_no_hello_fails_the_call() -> None:
    bench = Bench()
    bench.dial()
    bench.after(10.0)
    assert bench.outcome == "failed: no hello within 10 s"


def test_a_verb_before_hello_fails_the_call() -> None:
    bench = Bench()
    bench.dial()
    bench.send("agent.text.delta", text="hi")
    assert bench.outcome == "failed: agent.text.delta before hello"


def test_a_verb_before_call_started_fails_the_call() -> None:
    bench = Bench(faults=CallFaults(stalled_handshakes=1))
    bench.dial()
    bench.hello()
    bench.send("agent.say", text="hi")
    assert bench.outcome == "failed: agent.say before call.started"


def test_a_second_hello_fails_the_call(bench: Bench) -> None:
    bench.hello()
    assert bench.worker.violations == ["hello: a second one on one socket"]


def test_a_verb_that_was_not_negotiated_fails_the_call() -> None:
    bench = Bench(WorkerOptions(offers=WIRE_VERBS))
    bench.dial()
    bench.hello()
    bench.send("recording.pause", reason="PII")
    assert bench.outcome == "failed: recording.pause: a verb that was not negotiated"


def test_a_frame_that_breaks_the_protocol_is_kept_and_ends_the_call_once(bench: Bench) -> None:
    bench.worker.received('{"event": "agent.say", "text": 1}', bench.now)
    bench.worker.received('{"event": "agent.say", "text": 2}', bench.now)
    bench.worker.received_nonsense("a binary frame", bench.now)
    assert len(bench.worker.violations) == 1
    assert bench.worker.frames.frames[-1].event == "(invalid)"
    assert bench.worker.outcome is not None
    assert bench.worker.outcome.violations == tuple(bench.worker.violations)


def test_a_binary_frame_fails_the_call(bench: Bench) -> None:
    bench.worker.received_nonsense("a binary frame", bench.now)
    assert bench.outcome == "failed: a binary frame"


# ---- talk


def test_a_turn_goes_through_its_states(bench: Bench) -> None:
    assert bench.states(bench.say("hi")) == ["thinking"]
    bench.send("agent.text.delta", text="0123456789")
    assert bench.states(bench.after(0.2)) == ["speaking"]
    bench.send("agent.text.end")
    assert bench.states(bench.after(1.0)) == ["listening"]
    assert bench.heard == [("caller", "hi"), ("agent", "0123456789")]


def test_between_the_end_of_the_text_and_the_first_audio_nothing_changes(bench: Bench) -> None:
    bench.say("hi")
    bench.send("agent.text.delta", text="x")
    assert bench.states(bench.send("agent.text.end")) == []
    assert bench.states(bench.after(1.0)) == ["speaking", "listening"]


def test_an_empty_turn_goes_back_to_listening(bench: Bench) -> None:
    bench.say("hi")
    assert bench.states(bench.send("agent.text.end")) == ["listening"]


def test_the_turn_is_measured(bench: Bench) -> None:
    bench.say("hi")
    bench.after(0.5)
    bench.send("agent.text.delta", text="x")
    bench.after(0.25)
    turn, metric, *_ = (frame for frame in bench.send("agent.text.end") if frame["event"] in {"turn.metrics", "metric"})
    assert turn["llm_ttft_ms"] == 500.0
    assert turn["llm_total_ms"] == 750.0
    assert turn["ttfa_ms"] == turn["asr_ms"] + 500.0 + turn["tts_ttfb_ms"]
    assert (turn["call_id"], turn["turn_id"], turn["llm_call_count"], turn["from_node"]) == ("c", 1, 1, None)
    assert all(type(metric[name]) is int for name in ("ttfa_ms", "asr_p95_ms", "tts_p95_ms", "turns"))
    assert type(metric["cost_usd_so_far"]) is float


def test_a_turn_without_a_word_has_no_first_audio(bench: Bench) -> None:
    bench.say("hi")
    turn, metric = (frame for frame in bench.send("agent.text.end") if "metric" in frame["event"])
    assert (turn["llm_ttft_ms"], turn["tts_ttfb_ms"], turn["ttfa_ms"]) == (None, None, None)
    assert (metric["ttfa_ms"], metric["tts_p95_ms"], metric["turns"]) == (None, None, 1)


def test_an_unsolicited_reply_is_not_measured(bench: Bench) -> None:
    bench.send("agent.text.delta", text="x")
    assert bench.send("agent.text.end") == []


def test_a_second_end_fails_the_call(bench: Bench) -> None:
    bench.say("hi")
    bench.send("agent.text.end")
    bench.send("agent.text.end")
    assert bench.outcome == "failed: agent.text.end: no reply is open"


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5, 1.0, 2.0, 30.0])
def test_a_barge_in_at_any_moment_leaves_one_end_owed(bench: Bench, seconds: float) -> None:
    bench.say("hi")
    bench.send("agent.text.delta", text="one two three four five")
    bench.after(seconds)
    bench.barge_in()
    bench.send("agent.text.delta", text=" six")  # was on its way
    bench.say("wait")
    bench.send("agent.text.end")
    bench.send("agent.text.delta", text="ok")
    bench.send("agent.text.end")
    bench.after(10.0)
    assert not bench.worker.violations
    assert bench.heard[-1] == ("agent", "ok")
    assert not any("six" in text for _, text in bench.heard)
    bench.send("agent.text.end")
    assert bench.worker.violations


def test_a_barge_in_reports_what_was_heard_and_cuts_the_transcript(bench: Bench) -> None:
    bench.say("hi")
    bench.send("agent.text.delta", text="one two three")
    bench.send("agent.text.end")
    bench.after(0.12 + 0.95)
    bench.worker.caller_interrupts(HeardPrefix.AUTOMATIC, bench.now)
    frames = bench.frames()
    assert frames[0] == {"event": "user.interrupted", "turn_id": 1, "heard_prefix": "one two"}
    assert bench.states(frames) == ["interrupted"]
    assert bench.states(bench.say("wait")) == ["thinking"]
    assert bench.heard == [("caller", "hi"), ("agent", "one two"), ("caller", "wait")]


def test_a_barge_in_between_replies_has_no_prefix(bench: Bench) -> None:
    assert bench.barge_in() is None
    bench.send("agent.text.delta", text="Yes?")
    bench.send("agent.text.end")
    assert not bench.worker.violations


def test_a_prefix_can_be_claimed(bench: Bench) -> None:
    assert bench.barge_in("as I said") == "as I said"
    bench.say("hi")
    bench.send("agent.text.delta", text="hello there")
    bench.after(1.0)
    assert bench.barge_in(None) is None


def test_an_event_due_before_a_barge_in_is_told_before_it(bench: Bench) -> None:
    bench.send("agent.say", text="0123456789")
    bench.now += 0.5  # nobody has looked at the clock since
    bench.worker.caller_interrupts(HeardPrefix.AUTOMATIC, bench.now)
    told = [effect.state for effect in (bench.frames() and bench.effects) if isinstance(effect, CallStateChanged)]
    assert told == ["speaking", "interrupted"]


def test_an_interrupt_stops_speech_and_keeps_the_gate(bench: Bench) -> None:
    bench.say("hi")
    bench.send("agent.text.delta", text="one two three")
    bench.after(0.12 + 0.55)
    bench.send("agent.interrupt")
    assert bench.worker.voice.silent
    assert bench.worker.talk.replies.owed == 1
    bench.send("agent.text.end")
    assert bench.heard[-1] == ("agent", "one")
    assert not bench.worker.violations


def test_a_filler_is_said_only_into_silence(bench: Bench) -> None:
    bench.send("agent.filler", text="One moment")
    bench.send("agent.filler", text="Another")
    bench.after(10.0)
    assert bench.heard == [("agent", "One moment")]


def test_recording_is_paused_and_goes_on(bench: Bench) -> None:
    bench.send("recording.pause", reason="PII")
    bench.send("recording.pause", reason="PII")
    seen = [bench.worker.room.recording]
    bench.worker.line_lost(None, bench.now)
    bench.dial()
    bench.hello()
    seen.append(bench.worker.room.recording)
    bench.send("recording.resume")
    seen.append(bench.worker.room.recording)
    assert seen == ["paused", "paused", "on"]


def test_what_is_not_recorded_stays_so() -> None:
    bench = Bench(metadata={"recording": False})
    bench.dial()
    bench.hello()
    bench.send("recording.resume")
    assert bench.worker.room.recording == "off"


# ---- ends


def test_the_call_ends_when_what_is_being_said_is_said(bench: Bench) -> None:
    bench.say("bye")
    bench.send("agent.text.delta", text="0123456789")
    bench.send("agent.text.end")
    bench.send("agent.end_call", reason="completed")
    bench.after(1.0)
    assert bench.worker.outcome is None
    bench.after(0.2)
    assert bench.outcome == "ended_by_agent: completed"
    assert bench.closed_with() == 1000
    assert bench.heard[-1] == ("agent", "0123456789")


def test_with_nothing_to_say_the_call_ends_at_once(bench: Bench) -> None:
    bench.send("agent.end_call", reason="completed")
    assert bench.outcome == "ended_by_agent: completed"


def test_a_barge_in_does_not_undo_the_end(bench: Bench) -> None:
    bench.send("agent.say", text="goodbye then")
    bench.send("agent.end_call", reason="completed")
    bench.after(0.5)
    bench.barge_in()
    assert bench.outcome == "ended_by_agent: completed"


def test_a_cold_transfer_is_done_at_once(bench: Bench) -> None:
    bench.send("agent.transfer", transfer_type="number", target="+15551230000", mode="cold", announcement="")
    assert bench.outcome == "transferred: +15551230000"
    assert bench.closed_with() == 1000


def test_a_warm_transfer_is_announced_first(bench: Bench) -> None:
    bench.send("agent.transfer", transfer_type="human", target="tier-2", mode="warm", announcement="0123456789")
    bench.after(0.12 + 1.0 + 0.9)
    assert bench.worker.outcome is None
    bench.after(0.2)
    assert bench.outcome == "transferred: tier-2"
    assert bench.heard == [("agent", "0123456789")]


@pytest.mark.parametrize("target", ["", "5551230000", "+0555", "+1555123000012345", "+1 555", "sip:x@y", "+١٢٣٤٥"])
def test_a_refused_transfer_gives_no_frame_and_the_caller_is_told(bench: Bench, target: str) -> None:
    frames = bench.send("agent.transfer", transfer_type="number", target=target, mode="cold", announcement=None)
    assert frames == []
    bench.after(30.0)
    assert bench.heard == [("worker", REFUSED_TRANSFER_TEXT)]
    assert bench.worker.outcome is None
    assert bench.worker.room.transfers[0].refused == "not an E.164 number"


def test_a_number_that_is_not_on_the_list_is_refused() -> None:
    bench = Bench(WorkerOptions(offers=ALL_VERBS, allowed_numbers=frozenset({"+15550000000"})))
    bench.dial()
    bench.hello()
    bench.send("agent.transfer", transfer_type="number", target="+15551230000", mode="warm", announcement=None)
    (told,) = [effect for effect in bench.effects if isinstance(effect, Transferred)]
    assert told.transfer == TransferRecord(
        transfer_type="number", target="+15551230000", mode="warm", refused="not on the list of allowed numbers"
    )


def test_participants_come_and_go(bench: Bench) -> None:
    bench.send("agent.add_participant", participant_type="human", config={})
    assert bench.worker.room.participants["participant-1"] == "human"
    bench.send("agent.remove_participant", participant_id="participant-1")
    bench.send("agent.remove_participant", participant_id="nobody")
    bench.send("agent.dispatch", agent_id="billing", metadata={})
    bench.send("agent.merge", source_session_id="other")
    assert set(bench.worker.room.participants) == {"caller", "agent"}
    assert list(bench.worker.room.dispatched) == ["billing"]
    assert list(bench.worker.room.merged) == ["other"]


def test_after_a_cancel_the_client_closes_with_1000(bench: Bench) -> None:
    bench.worker.cancel(bench.now)
    assert bench.worker.outcome is None
    bench.worker.line_lost(1000, bench.now)
    assert bench.outcome == "cancelled"
    assert not bench.worker.violations
    assert bench.dial() == 1000


def test_after_a_cancel_any_other_close_is_a_fault(bench: Bench) -> None:
    bench.worker.cancel(bench.now)
    bench.worker.line_lost(1011, bench.now)
    assert bench.worker.violations == ["after job.cancel the socket closed with 1011, not 1000"]


def test_a_client_that_ignores_a_cancel_is_closed(bench: Bench) -> None:
    bench.worker.cancel(bench.now)
    bench.after(5.0)
    assert bench.outcome == "cancelled: the worker had to close the socket"
    assert bench.closed_with() == 1000


def test_a_cancel_before_anybody_dialled() -> None:
    bench = Bench()
    bench.worker.cancel(bench.now)
    assert bench.outcome == "cancelled"
    assert bench.dial() == 1000


def test_a_drop_and_a_raw_close_are_no_end(bench: Bench) -> None:
    bench.worker.drop(bench.now, for_good=False)
    bench.frames()
    assert isinstance(bench.effects[-2], AbortLine)
    bench.dial()
    bench.hello()
    bench.worker.close_line(1012, bench.now)
    bench.frames()
    assert bench.closed_with() == 1012
    assert bench.dial() is None


def test_a_drop_for_good_refuses_the_redial(bench: Bench) -> None:
    bench.worker.drop(bench.now, for_good=True)
    assert bench.outcome == "dropped: redials are refused"
    assert bench.dial() == 4003


def test_only_the_first_end_counts(bench: Bench) -> None:
    bench.worker.hang_up(bench.now)
    bench.worker.cancel(bench.now)
    bench.worker.drop(bench.now, for_good=True)
    bench.worker.fail("too late")
    bench.frames()
    assert bench.outcome == "hangup"
    assert len([effect for effect in bench.effects if isinstance(effect, Ended)]) == 1
    assert bench.worker.next_wakeup() is None


def test_what_was_heard_at_a_hang_up_is_in_the_transcript(bench: Bench) -> None:
    bench.send("agent.say", text="one two three")
    bench.after(0.12 + 0.75)
    bench.worker.hang_up(bench.now)
    assert bench.heard == [("agent", "one two")]


def test_a_text_that_no_frame_can_hold_changes_nothing(bench: Bench) -> None:
    with pytest.raises(ValueError, match="1 MiB"):
        bench.say("x" * (1 << 20))
    assert bench.worker.talk.turn_id == 0
    assert bench.worker.talk.replies.owed == 0


def test_a_hostile_worker_sends_what_none_should() -> None:
    bench = Bench(faults=CallFaults(hostile=True))
    bench.dial()
    bench.worker.received(json.dumps(HELLO), bench.now)
    sent = [effect for effect in bench.worker.take_effects() if isinstance(effect, Transmit)]
    assert any(not effect.opcode_text for effect in sent)
    assert any("weather.changed" in str(effect.data) for effect in sent)


def test_the_token_is_in_no_repr(bench: Bench) -> None:
    assert bench.worker.pairing.token not in repr(vars(bench.worker))
