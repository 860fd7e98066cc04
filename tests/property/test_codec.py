"""Round trips, and hostile bytes: what is read is what was written, or a `ProtocolViolation`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct
from tests.property.strategies import bodies, ids, of_struct, values

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.envelope import Envelope, format_time, from_headers, parse_time, to_headers
from unpod.core.events import tag_of
from unpod.core.headers import HeaderText
from unpod.core.live import AGAIN, DELTA, Again, Delta
from unpod.core.subjects import Channel, Subjects
from unpod.core.withhold import withhold
from unpod.errors import ProtocolViolation
from unpod.jetstream.connection.wire import decode_headers, encode_headers

numbers = st.integers(0, 10**18 - 1)
times = st.floats(0, 4_000_000_000).map(lambda at: parse_time(format_time(at)))
opaque = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
names = st.text(st.characters(codec="utf-8"), max_size=30)
envelopes = st.builds(
    Envelope,
    id=opaque,
    type=st.from_regex(r"\A[a-z][a-z_]{0,8}(\.[a-z][a-z_]{0,8}){1,3}\Z"),
    source=names.map(lambda name: f"/unpod/runner/{name}"),
    session=ids,
    time=times,
    epoch=numbers,
    index=numbers,
    version=st.integers(0, 9_999),
    seen=numbers,
    settled=numbers,
    cause=st.just("") | opaque,
    handler=st.text(st.characters(max_codepoint=0x7E), max_size=30),
    traceparent=st.just("") | st.from_regex(r"\A00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\Z"),
)


@pytest.mark.slow
@given(envelopes)
def test_an_envelope_survives_the_wire(envelope: Envelope) -> None:
    assert from_headers(decode_headers(encode_headers(to_headers(envelope)))) == envelope


def _envelope_of(headers: Mapping[str, str]) -> Envelope | None:
    try:
        return from_headers(headers)
    except ProtocolViolation:
        return None


@pytest.mark.slow
@given(envelopes, st.data())
def test_headers_mean_the_same_as_a_text_and_one_by_one(envelope: Envelope, data: st.DataObject) -> None:
    lines = [f"{name}: {value}" for name, value in to_headers(envelope).items()]
    fence = "Nats-Expected-Last-Subject-Sequence: 7"
    strange = ["Nats-Sequence: 7", fence, "Nats-Msg-Id: x", "who knows", "ce-id:", ""]
    extra = st.sampled_from(strange) | st.sampled_from(lines)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "put", "cut", "write"])):
            case "drop" if len(lines) > 1:
                del lines[at]
            case "put":
                lines.insert(at, data.draw(extra))
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
            case _:
                lines[at] += data.draw(st.sampled_from(["0", " ", "%41", "\n", "\r", "-", "\N{DEGREE SIGN}"]))
    headers = HeaderText("\r\n".join(lines))
    assert _envelope_of(headers) == _envelope_of(dict(headers))


@given(st.floats(0, 4_000_000_000))
def test_a_time_is_kept_to_the_microsecond(at: float) -> None:
    assert math.isclose(parse_time(format_time(at)), at, rel_tol=0, abs_tol=1e-6)


@pytest.mark.slow
@given(bodies)
def test_a_body_survives_the_codec(written: tuple[Channel, Struct]) -> None:
    channel, body = written
    assert codec.decode(channel, tag_of(body), 1, codec.encode(body)) == body


@pytest.mark.slow
@given(bodies)
def test_what_is_withheld_once_is_withheld(written: tuple[Channel, Struct]) -> None:
    channel, body = written
    once = withhold(body)
    assert withhold(once) == once
    assert codec.decode(channel, tag_of(body), 1, codec.encode(once)) == once


@given(of_struct(Delta) | of_struct(Again))
def test_what_is_live_survives_the_codec(message: Struct) -> None:
    decoder = DELTA if isinstance(message, Delta) else AGAIN
    assert decoder.decode(codec.encode(message)) == message


channels: st.SearchStrategy[Channel] = st.sampled_from(["line", "own", "evt", "ack", "run", "cmd", "ctl"])
tags = st.sampled_from(
    ["user.text", "turn.metrics", "owner.changed", "turn.completed", "say", "owner.appointed", "new"]
)
frames = st.dictionaries(
    st.sampled_from(["event", "verb", "text", "turn_id", "epoch", "unsettled", "runner", "language", "extra"]), values
).map(lambda frame: json.dumps(frame).encode())
mangled = st.tuples(frames, st.integers(0, 60), st.binary(max_size=3)).map(
    lambda given_: given_[0][: given_[1]] + given_[2] + given_[0][given_[1] :]
)


@given(channels, tags, st.integers(0, 3), st.binary(max_size=60) | frames | mangled)
@example("evt", "user.text", 1, b'{"event":"user.text","extra":' + b"[" * 100_000)
@example("evt", "user.text", 0, b"[" * 100_000)
@example("evt", "user.text", 0, b"\xff")
def test_bytes_are_a_body_or_a_violation(channel: Channel, tag: str, version: int, data: bytes) -> None:
    try:
        codec.decode(channel, tag, version, data)
    except ProtocolViolation:
        return


headers = st.dictionaries(
    st.sampled_from(
        ["ce-id", "ce-type", "ce-time", "ce-source", "ce-subject", "Unpod-Epoch", "Unpod-Index", "Unpod-Handler"]
    ),
    st.text(max_size=20)
    | st.sampled_from(["io.unpod.evt.user.text.v1", "x", "2023-11-14T22:13:20Z", "%FF", "%", "%ED%A0%80", "7"]),
)


@given(st.text(max_size=40) | st.just("unpod.call.a.s.evt.user.text"), headers, frames)
def test_a_message_is_a_record_or_a_violation(subject: str, given_headers: dict[str, str], data: bytes) -> None:
    well_formed = {"ce-id": "x", "ce-type": "io.unpod.evt.user.text.v1", "ce-time": "2023-11-14T22:13:20Z"}
    try:
        codec.read(Subjects(), subject, {**well_formed, **given_headers}, data)
    except ProtocolViolation:
        return


@given(values, values)
def test_any_language_of_a_frame_is_a_tag_or_none(language: object, extra: object) -> None:
    tag = ev.UserText(language=language, extra=extra).language_tag
    assert tag is None or tag
