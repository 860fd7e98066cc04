from __future__ import annotations

import json

import msgspec
import pytest

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod_bridge.wire import call_frames
from unpod_bridge.wire.call_frames import Ignored, Unsupported, head_of, negotiated, read_frame, to_wire

ALL = frozenset(call_frames.VERBS + call_frames.OWN_VERBS)


def text(event: str, **fields: object) -> bytes:
    return json.dumps({"event": event, **fields}).encode()


def reason(data: bytes | str, *, binary: bool = False) -> str:
    frame = read_frame(data, binary=binary)
    assert isinstance(frame.body, ev.FrameRejected)
    assert codec.decode("evt", "rejected", 1, frame.data) == frame.body
    return frame.body.reason


# --- what the worker says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (
            text("hello.ack", protocol_version=1, negotiated_verbs=["agent.say"], session_id="s", new=[1]),
            ev.HelloAcked(protocol_version=1, negotiated_verbs=("agent.say",), session_id="s"),
        ),
        (
            text("call.started", session_id="s", metadata={"a": {"b": 1}}, voice_profile_id=None),
            ev.CallStarted(session_id="s", metadata={"a": {"b": 1}}),
        ),
        (text("user.text", text="hé"), ev.UserText(text="hé")),
        (text("user.text", text="", is_final=False), ev.UserText(text="", is_final=False)),
        (text("user.text", text="a", extra={"language": "de"}), ev.UserText(text="a", extra={"language": "de"})),
        (text("user.interrupted", turn_id=3, heard_prefix=None), ev.UserInterrupted(turn_id=3)),
        (text("error", severity="odd", source="new", code="c"), ev.WorkerError(severity="odd", source="new", code="c")),
        (text("metric", ttfa_ms=1, turns=2, more=3.5), ev.CallMetric(ttfa_ms=1, turns=2)),
        (text("turn.metrics", turn_id="7", asr_ms=1.5), ev.TurnMetrics(turn_id="7", asr_ms=1.5)),
        (text("state", state="listening", turn_id=10**25), ev.StateChanged(state="listening", turn_id=10**25)),
        (b'{"event":"user.text","text":"first","text":"last"}', ev.UserText(text="last")),
    ],
)
def test_a_known_frame_is_what_it_says_and_stored_as_it_came(data: bytes, body: ev.CallerEvent) -> None:
    frame = read_frame(data)
    assert frame.body == body
    assert frame.data == data
    assert codec.decode("evt", frame.type, 1, frame.data) == body
    assert read_frame(data.decode()) == frame


@pytest.mark.parametrize("event", ["agent.wave", "call.ended", "call.reattached", "unknown", "rejected", "🦜", ""])
def test_a_frame_of_another_type_is_kept_whole(event: str) -> None:
    data = text(event, deep={"a": [1, {"b": "c"}]}, reason="x", size=1)
    frame = read_frame(data)
    assert isinstance(frame.body, ev.FrameUnknown)
    assert frame.body.type == event
    decoded = codec.decode("evt", "unknown", 1, frame.data)
    assert isinstance(decoded, ev.FrameUnknown)
    assert decoded.frame == json.loads(data)


def test_a_long_type_is_cut() -> None:
    frame = read_frame(text("x" * 5_000))
    assert isinstance(frame.body, ev.FrameUnknown)
    assert len(frame.body.type) == call_frames.MAX_TYPE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"event":"user.text","text":"a"} {}', "not JSON"),
        (b'["event"]', "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"text":"a"}', "Object missing required field `event`"),
        (b'{"event":7}', "Expected `str`, got `int` - at `$.event`"),
        (b'{"event":"user.text","text":1}', "user.text: Expected `str`, got `int` - at `$.text`"),
        (b'{"event":"user.text","text":NaN}', "not JSON"),
        (b'{"event":"user.text","text":"a\xff', "not UTF-8"),
        (
            b'{"event":"hello.ack","negotiated_verbs":5}',
            "hello.ack: Expected `array`, got `int` - at `$.negotiated_verbs`",
        ),
        (
            b'{"event":"error","code":7,"message":"%b"}' % (b"a" * call_frames.MAX_MENDED),
            "error: Expected `str`, got `int` - at `$.code`",
        ),
        (b'{"event":"user.text"}', "user.text: Object missing required field `text`"),
        (b'{"event":"call.started"}', "call.started: Object missing required field `session_id`"),
        (b'{"event":"call.started","metadata":[]}', "call.started: Expected `object`, got `array` - at `$.metadata`"),
        (b'{"event":"user.text","text":"a","x":%b}' % (b"[" * 400_000 + b"]" * 400_000), "nested too deeply"),
        (b'{"event":"wave","x":%b}' % (b'{"a":' * 100_000), "nested too deeply"),
        (b'{"event":"wave","x":%b}' % (b"[" * 100 + b"]" * 100), "nested too deeply"),
        (b'{"event":"state","x":%b}' % (b'[{"a":' * 50 + b"1" + b"}]" * 50), "nested too deeply"),
        (b'{"event":"user.text","text":"%b"}' % (b"a" * 1024 * 1024), "over 1048576 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_rejected_with_a_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize(
    "inner",
    [
        b"[" * 99 + b"]" * 99,
        b"[" + b",".join([b'{"a":[]}'] * 20_000) + b"]",
        b'"' + b"[{" * 50_000 + b'\\\\"',
        b'"' + b'\\"[' * 50_000 + b'"',
    ],
)
def test_what_is_wide_is_not_deep(inner: bytes) -> None:
    assert isinstance(read_frame(b'{"event":"wave","x":%b}' % inner).body, ev.FrameUnknown)


def test_a_binary_frame_is_rejected() -> None:
    assert reason(b'{"event":"user.text","text":"a"}', binary=True) == "a binary frame"


def test_a_rejected_frame_keeps_its_size_and_a_printable_head() -> None:
    frame = read_frame(b"\x00\x1b[31m" + b"z" * 4_000)
    assert isinstance(frame.body, ev.FrameRejected)
    assert frame.body.size == 4_006
    assert frame.body.head.startswith("..[31mzzz")
    assert len(frame.body.head) == 200
    assert frame.body.head.isprintable()


def test_a_reason_quotes_nothing_of_the_frame() -> None:
    secret = "+49 171 1234567"
    for data in (
        text("user.text", text=[secret]),
        text("call.started", session_id=5, metadata={secret: secret}),
    ):
        assert secret not in reason(data)
    for data in (
        text("user.text", text="a", is_final=secret),
        text("call.started", session_id="s", metadata=secret),
        text("error", code={secret: 1}),
    ):
        assert secret not in "".join(flawed(data).flaws)


# --- frames with flaws ------------------------------------------------------------------------------------------------


def flawed(data: bytes) -> ev.WorkerFact:
    """Return what is read of a frame with flaws, which is what any reader of its record reads."""
    frame = read_frame(data)
    assert isinstance(frame.body, ev.WorkerFact)
    assert codec.decode("evt", ev.tag_of(frame.body), 1, frame.data) == frame.body
    assert frame.body.flaws
    return frame.body


HALF, NONE = "half a character", "a number that is none"


@pytest.mark.parametrize(
    ("data", "body", "flaws"),
    [
        (rb'{"event":"user.text","text":"well \ud83d"}', ev.UserText(text="well \ufffd"), (HALF,)),
        (rb'{"event":"user.text","text":"\udc00\ud83d\ude00"}', ev.UserText(text="\ufffd\U0001f600"), (HALF,)),
        (rb'{"event":"error","message":"\ud800","code":"c"}', ev.WorkerError(message="\ufffd", code="c"), (HALF,)),
        (b'{"event":"user.text","text":"a\xf0\x9f"}', ev.UserText(text="a\ufffd"), ("not UTF-8",)),
        (
            b'{"event":"user.text","text":"a","extra":{"x":[NaN,-Infinity,1e999,7]}}',
            ev.UserText(text="a", extra={"x": [None, None, None, 7]}),
            (NONE,),
        ),
        (b'{"event":"user.text","text":"a","new":NaN}', ev.UserText(text="a"), (NONE,)),
        (b'{"event":"metric","ttfa_ms":NaN,"turns":2}', ev.CallMetric(turns=2), (NONE,)),
        (b'{"event":"state","state":"idle","turn_id":%b}' % (b"9" * 5_000), ev.StateChanged(state="idle"), (NONE,)),
        (
            b'{"event":"user.interrupted","turn_id":null,"heard_prefix":"we"}',
            ev.UserInterrupted(heard_prefix="we"),
            ("Expected `int`, got `null` - at `$.turn_id`",),
        ),
        (
            b'{"event":"error","code":42,"message":"m","severity":"warn"}',
            ev.WorkerError(message="m", severity="warn"),
            ("Expected `str`, got `int` - at `$.code`",),
        ),
        (
            b'{"event":"call.started","session_id":"s","metadata":[],"agent_id":{"a":1}}',
            ev.CallStarted(session_id="s"),
            (
                "Expected `object`, got `array` - at `$.metadata`",
                "Expected `str | null`, got `object` - at `$.agent_id`",
            ),
        ),
        (
            b'{"event":"call.started","session_id":"s","metadata":{"n":"\\ud800","x":NaN}}',
            ev.CallStarted(session_id="s", metadata={"n": "\ufffd", "x": None}),
            (NONE, HALF),
        ),
    ],
)
def test_a_frame_with_flaws_counts_for_the_rest(data: bytes, body: ev.WorkerFact, flaws: tuple[str, ...]) -> None:
    as_sent = data.decode("utf-8", "backslashreplace")
    assert flawed(data) == msgspec.structs.replace(body, flaws=flaws, as_sent=as_sent)


@pytest.mark.parametrize(("name", "value"), [("flaws", ["a secret"]), ("as_sent", "a secret"), ("flaws", "a secret")])
def test_what_was_wrong_with_a_frame_is_not_for_its_sender_to_say(name: str, value: object) -> None:
    data = msgspec.json.encode({"event": "user.text", "text": "hi", name: value})
    flaws = (f"{name} is not a worker's field",)
    assert flawed(data) == ev.UserText(text="hi", flaws=flaws, as_sent=data.decode())


def test_a_frame_of_another_type_with_flaws_is_kept_with_them() -> None:
    data = b'{"event":"wave","x":[NaN,"a"]}'
    assert flawed(data) == ev.FrameUnknown(
        type="wave", frame={"event": "wave", "x": [None, "a"]}, flaws=(NONE,), as_sent=data.decode()
    )


@pytest.mark.parametrize("figure", [1_700_000_000_000, 1e18, 1e308, -1, -0.001])
@pytest.mark.parametrize("name", ["ttfa_ms", "asr_ms", "llm_ttft_ms", "tts_ttfb_ms", "llm_total_ms"])
def test_a_figure_that_cannot_be_is_left_out(name: str, figure: float) -> None:
    data = text("turn.metrics", turn_id=1, from_node="a", **{name: figure})
    assert flawed(data) == ev.TurnMetrics(turn_id=1, from_node="a", flaws=(f"{name} cannot be",), as_sent=data.decode())


def test_of_several_figures_those_that_can_be_count() -> None:
    data = text("metric", ttfa_ms=1e18, asr_p95_ms=120, turns=-4, cost_usd_so_far=1e308)
    flaws = ("ttfa_ms cannot be", "turns cannot be", "cost_usd_so_far cannot be")
    assert flawed(data) == ev.CallMetric(asr_p95_ms=120, flaws=flaws, as_sent=data.decode())


@pytest.mark.parametrize(
    "text_",
    [
        '{"token":"SECRET"}',
        '{"call_token": "SECRET", ',
        "token=SECRET&b=1",
        '{"url":"ws://x/?a=1&token=SECRET"}',
        "api_key=SECRET",
        '"apikey" : "SECRET"',
        "X-Api-Key: SECRET",
        "Authorization: Bearer SECRET",
        '{"authorization":"Bearer SECRET"}',
        "Bearer SECRET",
        "sk-SECRET",
        "signature=SECRET",
        "client_secret='SECRET'",
        '"password":"SECRET"',
    ],
)
def test_a_head_shows_no_secret(text_: str) -> None:
    assert "SECRET" not in head_of(f"<{text_}".encode())
    assert "SECRET" not in head_of((" " * 195 + text_).encode())


# --- what we say ------------------------------------------------------------------------------------------------------


def test_hello_advertises_everything() -> None:
    assert json.loads(call_frames.hello()) == {
        "event": "hello",
        "protocol_version": 2,
        "supported_events": [
            "user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started",
        ],
        "supported_verbs": [
            "agent.text.delta", "agent.text.end", "agent.say", "agent.end_call", "agent.transfer", "agent.dispatch",
            "agent.add_participant", "agent.remove_participant", "agent.merge",
            "agent.interrupt", "agent.filler", "recording.pause", "recording.resume",
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "wire"),
    [
        (cmd.Say(text="hi"), '{"event":"agent.say","text":"hi"}'),
        (cmd.EndReply(turn=3, deltas=2), '{"event":"agent.text.end"}'),
        (cmd.Interrupt(), '{"event":"agent.interrupt"}'),
        (cmd.SetFiller(text="mhm"), '{"event":"agent.filler","text":"mhm"}'),
        (cmd.SetFiller(text=None), '{"event":"agent.filler","text":""}'),
        (
            cmd.Transfer(transfer_type="number", target="+1"),
            '{"event":"agent.transfer","transfer_type":"number","target":"+1","mode":"cold","announcement":""}',
        ),
        (
            cmd.Transfer(transfer_type="human", target="q", mode="warm", announcement="one moment"),
            '{"event":"agent.transfer","transfer_type":"human","target":"q","mode":"warm","announcement":"one moment"}',
        ),
        (cmd.EndCall(reason="completed"), '{"event":"agent.end_call","reason":"completed"}'),
        (cmd.PauseRecording(reason="pci"), '{"event":"recording.pause","reason":"pci"}'),
        (cmd.ResumeRecording(), '{"event":"recording.resume"}'),
        (cmd.DispatchAgent(agent_id="b"), '{"event":"agent.dispatch","agent_id":"b","metadata":{}}'),
        (
            cmd.AddParticipant(participant_type="sip", config={"a": 1}),
            '{"event":"agent.add_participant","participant_type":"sip","config":{"a":1}}',
        ),
        (cmd.AddParticipant(participant_type="sip"),
         '{"event":"agent.add_participant","participant_type":"sip","config":{}}'),
        (cmd.RemoveParticipant(participant_id="p"), '{"event":"agent.remove_participant","participant_id":"p"}'),
        (cmd.Merge(source_session_id="s2"), '{"event":"agent.merge","source_session_id":"s2"}'),
    ],
)  # fmt: skip
def test_each_command_as_a_verb_with_every_field_that_the_wire_has(command: cmd.AnyCommand, wire: str) -> None:
    assert to_wire(command, ALL) == wire.encode()


def test_the_hello() -> None:
    assert call_frames.hello() == (
        b'{"event":"hello","protocol_version":2,"supported_events":["user.text","user.interrupted","error","metric",'
        b'"turn.metrics","state","call.started"],"supported_verbs":["agent.text.delta","agent.text.end","agent.say",'
        b'"agent.end_call","agent.transfer","agent.dispatch","agent.add_participant","agent.remove_participant",'
        b'"agent.merge","agent.interrupt","agent.filler","recording.pause","recording.resume"]}'
    )


def test_deltas_and_texts_are_utf_8() -> None:
    assert call_frames.text_delta("hé 🦜\n") == '{"event":"agent.text.delta","text":"hé 🦜\\n"}'.encode()


def test_what_was_not_negotiated_is_not_sent() -> None:
    nine = frozenset(call_frames.VERBS)
    assert to_wire(cmd.Interrupt(), nine) == Ignored()
    assert to_wire(cmd.SetFiller(text="mhm"), nine) == Ignored()
    assert to_wire(cmd.PauseRecording(), nine) == Unsupported("recording.pause")
    assert to_wire(cmd.ResumeRecording(), nine) == Unsupported("recording.resume")
    assert to_wire(cmd.Merge(source_session_id="s"), frozenset(call_frames.SPEECH_VERBS)) == Unsupported("agent.merge")
    assert to_wire(cmd.Say(text=""), ALL) == Ignored("there is no text to say")


def test_negotiation() -> None:
    assert negotiated(ev.HelloAcked()) == frozenset(call_frames.VERBS)
    few = negotiated(ev.HelloAcked(negotiated_verbs=("agent.merge", "recording.pause", "agent.fly")))
    assert few == {*call_frames.SPEECH_VERBS, "agent.merge", "recording.pause"}


def test_every_command_has_a_verb() -> None:
    for kind in msgspec.inspect.multi_type_info([cmd.AnyCommand])[0].types:  # type: ignore[attr-defined]
        assert kind.cls in call_frames._BUILD
