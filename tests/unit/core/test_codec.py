"""The codec: what comes in is a record, or a `ProtocolViolation`, and never anything else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.controls import EndSession
from unpod.core.envelope import Envelope, to_headers
from unpod.core.events import tag_of
from unpod.core.subjects import Channel, Subjects
from unpod.errors import ProtocolViolation

SUBJECTS = Subjects()
CALL = SUBJECTS.call("a", "s")


def headers(record_type: str, *, version: int = 1) -> Mapping[str, str]:
    envelope = Envelope(id="x", type=record_type, source="/s", session="s", time=1.0, epoch=1, index=1, version=version)
    return to_headers(envelope)


def text(payload: bytes) -> codec.Body:
    return codec.decode("evt", "user.text", 1, payload)


def test_a_record_is_subject_envelope_and_payload() -> None:
    data = b'{"event":"user.text","text":"hi","x":1}'
    record = codec.read(SUBJECTS, CALL.evt("user.text"), headers("evt.user.text"), data, 7)
    assert record == Record("evt", record.envelope, ev.UserText(text="hi"), 7, data)


@pytest.mark.parametrize(
    ("channel", "body"),
    [
        ("evt", ev.UserText(text="hi")),
        ("ack", ev.ReplySpoken(turn=1, deltas=2)),
        ("run", ev.SilenceNoticed(seconds=10.0)),
        ("cmd", cmd.Say(text="hi")),
        ("line", ev.LineTaken(bridge="b")),
        ("own", ev.OwnerAppointed(runner="r")),
    ],
)
def test_every_channel_has_its_decoder(channel: Channel, body: ev.CallerEvent | cmd.Say) -> None:
    assert codec.decode(channel, tag_of(body), 1, codec.encode(body)) == body


def test_an_unknown_type_passes_with_its_bytes() -> None:
    data = b"\xff not even JSON"
    assert codec.decode("evt", "user.emotion", 1, data) == ev.Unknown("user.emotion", data)
    record = codec.read(SUBJECTS, CALL.evt("user.emotion"), headers("evt.user.emotion"), data)
    assert record.body == ev.Unknown("user.emotion", data)


def test_a_newer_version_passes_with_its_bytes() -> None:
    data = b'{"event":"user.text","text":["another","shape"]}'
    record = codec.read(SUBJECTS, CALL.evt("user.text"), headers("evt.user.text", version=2), data)
    assert record.body == ev.Unknown("user.text", data)


def test_a_control_from_outside() -> None:
    assert codec.decode("ctl", "end", 1, b'{"control":"end"}') == EndSession()
    assert codec.decode("ctl", "levitate", 1, b"{}") == ev.Unknown("levitate", b"{}")


def test_a_type_of_another_channel_is_unknown_here() -> None:
    assert codec.decode("ack", "user.text", 1, b'{"event":"user.text"}') == ev.Unknown(
        "user.text", b'{"event":"user.text"}'
    )


def test_an_older_version_is_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    def said_is_text_now(payload: dict[str, object]) -> dict[str, object]:
        return {"event": "user.text", "text": payload["said"]}

    monkeypatch.setitem(codec.UPCASTS, ("user.text", 0), said_is_text_now)
    assert codec.decode("evt", "user.text", 0, b'{"event":"user.text","said":"hi"}') == ev.UserText(text="hi")


def test_a_field_that_nobody_knows_is_passed_over() -> None:
    assert text(b'{"event":"user.text","text":"a","new":{"deep":[1]}}') == ev.UserText(text="a")


def test_of_duplicate_keys_the_last_counts() -> None:
    assert text(b'{"event":"user.text","text":"a","text":"b"}') == ev.UserText(text="b")


MALFORMED = {
    "nothing": b"",
    "no object": b"null",
    "an array": b"[]",
    "no tag": b"{}",
    "a number for a tag": b'{"event":5}',
    "an unknown tag": b'{"event":"nope"}',
    "the tag of another event": b'{"event":"metric","turns":1}',
    "another type": b'{"event":"user.text","text":5}',
    "a number for a flag": b'{"event":"user.text","is_final":1}',
    "cut off": b'{"event":"user.text","text":"a',
    "trailing": b'{"event":"user.text"} x',
    "bad UTF-8": b'{"event":"user.text","text":"\xff\xfe"}',
    "bad UTF-8 in a key": b'{"event":"user.text","extra":{"\xff":1}}',
    "a lone surrogate": b'{"event":"user.text","text":"\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"event":"user.text"}',
    "not a number": b'{"event":"user.text","extra":NaN}',
    "infinity": b'{"event":"user.text","extra":1e999}',
    "a huge int": b'{"event":"user.text","extra":' + b"9" * 5_000 + b"}",
    "a million arrays": b'{"event":"user.text","extra":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "a million arrays, open": b'{"event":"user.text","extra":' + b"[" * 1_000_000,
    "a nesting bomb in a field nobody knows": b'{"event":"user.text","x":' + b'{"a":' * 500_000 + b"1" + b"}" * 500_000,
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_payload_is_a_violation_of_the_other_side(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation) as raised:
        text(payload)
    assert raised.value.whose == "remote"
    assert len(str(raised.value)) < 500


def test_four_megabytes_of_small_keys_are_read() -> None:
    keys = b",".join(b'"k%d":%d' % (n, n) for n in range(300_000))
    assert len(keys) > 4_000_000
    assert text(b'{"event":"user.text","text":"a",' + keys + b"}") == ev.UserText(text="a")


def test_a_violation_does_not_quote_the_payload() -> None:
    with pytest.raises(ProtocolViolation) as raised:
        text(b'{"event":"user.text","text":["4111 1111 1111 1111"]}')
    assert "4111" not in str(raised.value)


@pytest.mark.parametrize(
    ("subject", "record_type"),
    [
        (CALL.evt("user.text"), "evt.state"),
        (CALL.evt("user.text"), "run.user.text"),
        (CALL.ack, "evt.user.text"),
        (CALL.cmd, "run.say"),
    ],
)
def test_subject_and_envelope_must_agree(subject: str, record_type: str) -> None:
    with pytest.raises(ProtocolViolation):
        codec.read(SUBJECTS, subject, headers(record_type), b'{"event":"user.text"}')


def test_nobody_can_write_a_command_under_the_envelope_of_another() -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode("cmd", "say", 1, codec.encode(cmd.EndCall()))


def test_what_is_not_of_the_log_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        codec.read(SUBJECTS, CALL.delta, headers("evt.user.text"), b"{}")


@pytest.mark.parametrize(
    ("frame", "language"),
    [
        (b'{"event":"user.text"}', None),
        (b'{"event":"user.text","language":"de"}', "de"),
        (b'{"event":"user.text","extra":{"language":"fr"}}', "fr"),
        (b'{"event":"user.text","language":"de","extra":{"language":"fr"}}', "fr"),
        (b'{"event":"user.text","language":"de","extra":{"language":""}}', "de"),
        (b'{"event":"user.text","language":"de","extra":{"language":7}}', "de"),
        (b'{"event":"user.text","language":"de","extra":"fr"}', "de"),
        (b'{"event":"user.text","language":["de"],"extra":null}', None),
        (b'{"event":"user.text","language":""}', None),
    ],
)
def test_the_language_is_the_extras_or_the_frames_own(frame: bytes, language: str | None) -> None:
    body = text(frame)
    assert isinstance(body, ev.UserText)
    assert body.language_tag == language
