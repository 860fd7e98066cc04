"""What a client may send: every field typed, everything else refused with a reason that quotes no value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod_orchestrator.wire.call_frames import FrameError, HelloFrame, TextDeltaFrame, check_hello, parse_call_frame
from unpod_orchestrator.wire.constants import ALL_VERBS, EVENTS
from unpod_orchestrator.wire.control_frames import HeartbeatFrame, RegisterFrame, parse_control_frame

GOOD: dict[str, dict[str, Any]] = {
    "hello": {"protocol_version": 2, "supported_events": list(EVENTS), "supported_verbs": list(ALL_VERBS)},
    "agent.text.delta": {"text": "hi"},
    "agent.text.end": {},
    "agent.say": {"text": "hi"},
    "agent.transfer": {"transfer_type": "number", "target": "+15551230000", "mode": "cold", "announcement": None},
    "agent.end_call": {"reason": "completed"},
    "agent.dispatch": {"agent_id": "other", "metadata": {}},
    "agent.add_participant": {"participant_type": "human", "config": {"queue": "x"}},
    "agent.remove_participant": {"participant_id": "p"},
    "agent.merge": {"source_session_id": "s"},
    "agent.interrupt": {},
    "agent.filler": {"text": "hm"},
    "recording.pause": {"reason": "PII"},
    "recording.resume": {},
}

CAPABILITIES: dict[str, Any] = {
    "voice_profiles": [],
    "max_concurrent": 3,
    "agent_id": "desk",
    "transport": "dial_out",
    "kind": "brain",
    "hostname": None,
    "address": "10.0.0.1",
    "region": None,
    "deployment": "local",
}

REGISTER: dict[str, Any] = {
    "type": "register",
    "worker_id": "desk#00000001",
    "pool": "desk",
    "capabilities": CAPABILITIES,
}


def frame(event: str, **fields: object) -> str:
    return json.dumps({"event": event, **fields})


def test_every_verb_has_an_example() -> None:
    assert set(GOOD) == {"hello", *ALL_VERBS}


@pytest.mark.parametrize("event", GOOD)
def test_a_good_frame_is_typed_and_keeps_what_it_does_not_know(event: str) -> None:
    typed, raw = parse_call_frame(frame(event, **GOOD[event], brand_new=[1]))
    assert typed.verb == event
    assert raw["brand_new"] == [1]


@pytest.mark.parametrize(("event", "field"), [(event, field) for event, fields in GOOD.items() for field in fields])
def test_a_field_of_the_wrong_type_is_refused(event: str, field: str) -> None:
    with pytest.raises(FrameError, match=field):
        parse_call_frame(frame(event, **{**GOOD[event], field: 1.5}))


@pytest.mark.parametrize(
    ("event", "field"),
    [(event, field) for event, fields in GOOD.items() for field in fields if field != "announcement"],
)
def test_a_missing_field_is_refused(event: str, field: str) -> None:
    with pytest.raises(FrameError, match=field):
        parse_call_frame(frame(event, **{name: value for name, value in GOOD[event].items() if name != field}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "without `event`"),
        ('{"event": 7}', "without `event`"),
        ('{"type": "agent.say", "text": "hi"}', "without `event`"),
        ('{"event": "agent.sing"}', "unknown verb 'agent.sing'"),
        ('{"event": "user.text", "text": "hi"}', "unknown verb"),
        ('{"event": "agent.text.delta", "text": ""}', "an empty delta"),
        ("[" * 1_000_000, "not JSON"),
        ('{"event": "agent.say", "text": "\\ud800"}', "not JSON"),
        ('{"event": "agent.say", "text": "' + "x" * (1 << 20) + '"}', "more than 1 MiB"),
        ('{"event": "agent.say", "text": "' + "ä" * (1 << 19) + '"}', "more than 1 MiB"),
        ('{"event": "agent.transfer", "transfer_type": "fax", "target": "", "mode": "cold"}', "transfer_type"),
        ('{"event": "agent.transfer", "transfer_type": "human", "target": "", "mode": "hot"}', "mode"),
    ],
)
def test_what_is_no_frame_is_refused(data: str, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        parse_call_frame(data)


@pytest.mark.slow
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nothing_but_a_frame_error_comes_of_nonsense(data: str) -> None:
    with pytest.raises(FrameError):
        parse_call_frame(data)
    with pytest.raises(FrameError):
        parse_control_frame(data)


@given(st.sampled_from(sorted(GOOD)), st.dictionaries(st.text(max_size=12), st.text() | st.integers() | st.floats()))
def test_no_combination_of_fields_breaks_the_check(event: str, fields: dict[str, Any]) -> None:
    try:
        typed, _ = parse_call_frame(json.dumps({**fields, "event": event}))
    except FrameError:
        return
    assert typed.verb == event


def test_a_reason_quotes_no_text() -> None:
    with pytest.raises(FrameError) as refused:
        parse_call_frame(frame("agent.say", text=["my card number is 42"]))
    assert "42" not in str(refused.value)


def test_another_protocol_version_is_refused() -> None:
    with pytest.raises(FrameError, match="protocol_version 1, not 2"):
        check_hello(HelloFrame(1, list(EVENTS), []), all_events=True)


def test_a_hello_lacks_an_event() -> None:
    hello = HelloFrame(2, [event for event in EVENTS if event != "metric"], [])
    with pytest.raises(FrameError, match="lacks metric"):
        check_hello(hello, all_events=True)
    check_hello(hello, all_events=False)


def test_a_frame_of_exactly_one_mebibyte_is_good() -> None:
    empty = frame("agent.text.delta", text="")
    typed, _ = parse_call_frame(frame("agent.text.delta", text="x" * ((1 << 20) - len(empty))))
    assert isinstance(typed, TextDeltaFrame)


def test_a_registration_ignores_capabilities_that_it_does_not_know() -> None:
    typed, _ = parse_control_frame(json.dumps({**REGISTER, "capabilities": {**CAPABILITIES, "colour": "red"}}))
    assert isinstance(typed, RegisterFrame)
    assert typed.capabilities.max_concurrent == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"worker_id": 7}, "worker_id"),
        ({"worker_id": ""}, "empty"),
        ({"pool": "other"}, "pool"),
        ({"pool": "desk@prod"}, "pool"),
        ({"capabilities": None}, "capabilities"),
        ({"capabilities": {**CAPABILITIES, "max_concurrent": -1}}, "below 0"),
        ({"capabilities": {**CAPABILITIES, "max_concurrent": 1.5}}, "max_concurrent"),
        ({"capabilities": {**CAPABILITIES, "transport": "carrier pigeon"}}, "transport"),
        ({"capabilities": {**CAPABILITIES, "kind": "stomach"}}, "kind"),
        ({"capabilities": {**CAPABILITIES, "deployment": "moon"}}, "deployment"),
        ({"capabilities": {**CAPABILITIES, "region": 3}}, "region"),
        ({"capabilities": {**CAPABILITIES, "agent_id": ""}}, "agent_id"),
    ],
)
def test_a_wrong_registration_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        parse_control_frame(json.dumps({**REGISTER, **changes}))


def test_a_worker_may_be_in_the_development_pool() -> None:
    parse_control_frame(json.dumps({**REGISTER, "pool": "desk@dev"}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"type": "greetings"}, "unknown control frame"),
        ({"event": "heartbeat"}, "without `type`"),
        ({"type": "heartbeat", "active_jobs": "1", "worker_id": "w"}, "active_jobs"),
        ({"type": "heartbeat", "active_jobs": -1, "worker_id": "w"}, "below 0"),
        ({"type": "heartbeat", "active_jobs": 1, "worker_id": 4}, "worker_id"),
        ({"type": "job.ack", "job_id": "j", "assign_id": "a", "accepted": 1, "reason": None}, "accepted"),
        ({"type": "job.ack", "job_id": "j", "accepted": True, "reason": None}, "assign_id"),
        ({"type": "job.ack", "job_id": "j", "assign_id": "a", "accepted": False, "reason": 4}, "reason"),
        ({"type": "job.completed", "job_id": "j", "final_state": "done", "duration_s": "1"}, "duration_s"),
        ({"type": "state.changed", "job_id": "j"}, "state"),
    ],
)
def test_a_wrong_control_frame_is_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        parse_control_frame(json.dumps(data))


def test_a_heartbeat_is_typed() -> None:
    typed, _ = parse_control_frame('{"type": "heartbeat", "active_jobs": 2, "worker_id": "w"}')
    assert typed == HeartbeatFrame(active_jobs=2, worker_id="w")
