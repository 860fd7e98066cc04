"""Envelopes: what headers say of a record, and what they cannot be made to say."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from unpod.core.envelope import Envelope, Letterhead, format_time, from_headers, parse_time, to_headers
from unpod.core.headers import HeaderText, msg_id_of
from unpod.core.ids import record_id
from unpod.errors import ProtocolViolation
from unpod.jetstream.connection.wire import decode_headers, encode_headers

ENVELOPE = Envelope(
    id="0123456789abcdef",
    type="evt.user.text",
    source="/unpod/bridge/bridge-1",
    session="call 1/☎",
    time=1_700_000_000.25,
    epoch=7,
    index=3,
    seen=2,
    settled=1,
    cause="fedcba",
    handler="user_turn:handle.<locals>.on_text:0",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def well_formed() -> dict[str, str]:
    return dict(to_headers(ENVELOPE))


def test_an_envelope_survives_the_wire() -> None:
    assert from_headers(decode_headers(encode_headers(to_headers(ENVELOPE)))) == ENVELOPE


def test_headers_are_cloudevents_and_ours() -> None:
    headers = to_headers(ENVELOPE)
    assert headers["Nats-Msg-Id"] == "0123456789abcdef@7"
    assert headers["ce-type"] == "io.unpod.evt.user.text.v1"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-time"] == "2023-11-14T22:13:20.250000Z"
    assert headers["ce-subject"] == "call%201%2F%E2%98%8E"
    assert (headers["Unpod-Epoch"], headers["Unpod-Index"]) == ("7", "3")
    assert (headers["Unpod-Seen"], headers["Unpod-Settled"]) == ("2", "1")


@pytest.mark.parametrize("cause", ["", "c" * 32])
@pytest.mark.parametrize(("session", "source"), [("call 1/\N{BLACK TELEPHONE}", "unpod/b 1"), ("s\r\nA: b", "b")])
def test_a_letterhead_says_what_each_record_would(session: str, source: str, cause: str) -> None:
    envelope = Envelope(
        id=record_id(session, "bridge", 41), type="evt.user.text", source=source, session=session,
        time=1_700_000_000.25, epoch=7, index=41, cause=cause,
    )  # fmt: skip
    headers = Letterhead(session, "bridge", source, 7).headers("evt.user.text", 41, 1_700_000_000.25, cause)
    assert headers.text == to_headers(envelope).text
    assert encode_headers(headers) == encode_headers(to_headers(envelope))
    assert msg_id_of(headers) == msg_id_of(dict(headers)) == headers["Nats-Msg-Id"]


def test_a_cause_that_would_add_a_header_is_not_sent() -> None:
    with pytest.raises(ProtocolViolation):
        encode_headers(Letterhead("s", "bridge", "b", 1).headers("evt.state", 1, 0.0, INJECTION))


def test_the_fence_behind_the_headers_changes_nothing() -> None:
    fence = "\r\nNats-Expected-Last-Subject-Sequence: 9\r\nNats-Expected-Last-Subject-Sequence-Subject: a.b.own"
    for envelope in (ENVELOPE, replace(ENVELOPE, session="s1", handler="user_turn:0", traceparent="")):
        assert from_headers(HeaderText(to_headers(envelope).text + fence)) == envelope


def test_what_is_nothing_takes_no_header() -> None:
    bare = Envelope(id="x", type="evt.state", source="/s", session="s", time=0.0, epoch=0, index=1)
    assert not {"Unpod-Seen", "Unpod-Settled", "Unpod-Cause", "Unpod-Handler", "traceparent"} & set(to_headers(bare))
    assert from_headers(to_headers(bare)) == bare


INJECTION = "x\r\nNats-Expected-Last-Sequence: 0\r\nUnpod-Epoch: 99"


@pytest.mark.parametrize("field", ["source", "session", "handler"])
def test_a_field_that_comes_from_outside_cannot_add_a_header(field: str) -> None:
    hostile = replace(ENVELOPE, **{field: INJECTION})
    headers = decode_headers(encode_headers(to_headers(hostile)))
    assert "Nats-Expected-Last-Sequence" not in headers
    assert from_headers(headers) == hostile


@pytest.mark.parametrize("field", ["id", "type", "cause", "traceparent"])
def test_a_field_of_our_own_that_would_add_a_header_is_not_sent(field: str) -> None:
    with pytest.raises(ProtocolViolation) as raised:
        encode_headers(to_headers(replace(ENVELOPE, **{field: INJECTION})))
    assert raised.value.whose == "local"


def test_forged_headers_of_the_server_have_no_effect() -> None:
    forged = {
        **well_formed(),
        "Nats-Msg-Id": "another@99",
        "Nats-Stream": "OTHER",
        "Nats-Sequence": "1",
        "Nats-Time-Stamp": "1999-01-01T00:00:00Z",
        "Nats-Expected-Last-Subject-Sequence": "0",
    }
    assert from_headers(forged) == ENVELOPE


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce-id", ""),
        ("ce-id", "a b"),
        ("ce-id", "x" * 129),
        ("ce-id", "é"),
        ("ce-type", ""),
        ("ce-type", "evt.user.text.v1"),
        ("ce-type", "io.unpod.evt.user.text"),
        ("ce-type", "io.unpod.evt.user.text.v12345"),
        ("ce-type", "io.unpod.EVT.v1"),
        ("ce-type", "io.unpod.evt.user.text.v1\n"),
        ("ce-time", ""),
        ("ce-time", "yesterday"),
        ("ce-time", "1700000000"),
        ("ce-time", "0001-01-01T00:00:00"),
        ("ce-time", "2023-11-14T22:13:20"),
        ("ce-time", "2023-11-14"),
        ("ce-subject", "%FF"),
        ("Unpod-Epoch", "-1"),
        ("Unpod-Epoch", "1.0"),
        ("Unpod-Epoch", "9" * 19),
        ("Unpod-Epoch", "٣"),
        ("Unpod-Index", "0x1"),
        ("Unpod-Index", ""),
        ("Unpod-Seen", " 1"),
        ("Unpod-Settled", "1\n"),
    ],
)
def test_a_malformed_header_is_a_violation(header: str, value: str) -> None:
    with pytest.raises(ProtocolViolation):
        from_headers({**well_formed(), header: value})


@pytest.mark.parametrize("header", ["ce-id", "ce-type", "ce-time"])
def test_a_header_that_must_be_there_is_missed(header: str) -> None:
    headers = well_formed()
    del headers[header]
    with pytest.raises(ProtocolViolation):
        from_headers(headers)


def test_a_malformed_trace_is_dropped_and_nothing_else() -> None:
    assert from_headers({**well_formed(), "traceparent": "00-zz"}).traceparent == ""


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    assert parse_time("2023-11-15T03:43:20.250000+05:30") == parse_time("2023-11-14T22:13:20.250000Z")


def test_a_time_has_microseconds() -> None:
    assert parse_time(format_time(1_700_000_000.123456)) == 1_700_000_000.123456
