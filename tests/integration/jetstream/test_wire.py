"""Bytes in, messages out; no server needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod.errors import ProtocolViolation
from unpod.jetstream.connection.wire import Framing, decode_headers, encode_headers, encode_publish, status_of

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
Got = tuple[int, bytes, bytes, bytes, bytes]


class Taker:
    def __init__(self) -> None:
        self.got: list[Got] = []

    def __call__(self, sid: int, subject: bytes, reply: bytes, block: bytes, data: bytes, /) -> None:
        self.got.append((sid, subject, reply, block, data))


@given(st.dictionaries(NAMES, VALUES, max_size=12))
def test_headers_come_back_as_they_went(headers: dict[str, str]) -> None:
    block = encode_headers(headers)
    assert decode_headers(block) == headers if headers else block == b""


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_header_adds_another(name: str, value: str) -> None:
    try:
        block = encode_headers({name: value})
    except ProtocolViolation:
        return
    assert decode_headers(block) == {name: value}


MESSAGES = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from([b"a", b"a.b.c", "ä".encode()]),
        st.sampled_from([b"", b"_INBOX.x.1"]),
        st.sampled_from([b"", encode_headers({"a": "b"}), b"NATS/1.0 503\r\n\r\n"]),
        st.binary(max_size=60),
    ),
    max_size=8,
)


def on_the_wire(messages: list[Got]) -> bytes:
    out = b""
    for sid, subject, reply, block, data in messages:
        words = [b"HMSG" if block else b"MSG", subject, b"%d" % sid]
        words += [reply] if reply else []
        words += [b"%d" % len(block)] if block else []
        out += b" ".join([*words, b"%d" % (len(block) + len(data))]) + b"\r\n" + block + data + b"\r\n"
        out += b"PING\r\n"
    return out


@given(MESSAGES, st.integers(1, 50))
def test_however_it_is_cut_the_same_messages_come(messages: list[Got], size: int) -> None:
    taker = Taker()
    framing = Framing(taker)
    stream = on_the_wire(messages)
    control = [line for at in range(0, len(stream), size) for line in framing.feed(stream[at : at + size])]
    assert taker.got == messages
    assert control == [b"PING"] * len(messages)


@pytest.mark.parametrize("line", [b"MSG a b c\r\n", b"HMSG a 1 x 5\r\nhello\r\n", b"MSG a 1\r\n"])
def test_what_is_not_nats_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Framing(Taker()).feed(line + b"more\r\n")


def test_a_publish() -> None:
    assert encode_publish("a", "", b"", b"x") == b"PUB a  1\r\nx\r\n"
    block = encode_headers({"k": "v"})
    assert encode_publish("a", "r", block, b"x") == b"HPUB a r 18 19\r\nNATS/1.0\r\nk: v\r\n\r\nx\r\n"


def test_a_status() -> None:
    assert status_of(b"NATS/1.0 503\r\n\r\n") == "503"
    assert status_of(b"NATS/1.0 204 EOB\r\nA: b\r\n\r\n") == "204"
    assert not status_of(b"NATS/1.0\r\nStatus: 404\r\n\r\n")
    assert not status_of(b"")
