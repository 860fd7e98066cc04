"""Our frames against those of the `websockets` library: the same is taken, the same is refused, however it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from unpod_bridge.transport import websocket_frames as frames

MAX: int = 300
Event = tuple[int, bytes]


def oracle(*, masked: bool) -> Protocol:
    """Return the library's side of an open connection that receives what is masked, or what is not."""
    if masked:
        return ServerProtocol(state=OPEN, max_size=MAX)
    return ClientProtocol(parse_uri("ws://h/"), state=OPEN, max_size=MAX)


def joined(events: list[Frame]) -> list[Event]:
    """Return whole messages and control frames, as a reader hands them over."""
    taken: list[Event] = []
    opcode, parts = 0, b""
    for event in events:
        if event.opcode >= Opcode.CLOSE:
            taken.append((int(event.opcode), bytes(event.data)))
            continue
        if event.opcode is not Opcode.CONT:
            opcode, parts = int(event.opcode), b""
        parts += bytes(event.data)
        if event.fin:
            taken.append((opcode, parts))
    return taken


def read(data: bytes, cuts: list[int], *, masked: bool) -> tuple[list[Event], int | None]:
    """Return what a reader takes of bytes that come in pieces, and with which code it gives up."""
    taken: list[Event] = []

    def take(opcode: int, payload: bytes) -> None:
        if opcode == frames.CLOSE:
            frames.goodbye(payload)
        taken.append((opcode, payload))

    reader = frames.Reader(masked=masked, max_size=MAX)
    try:
        for start, end in pairwise([0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]):
            reader.feed(data[start:end], take)
    except frames.Violation as violation:
        return [event for event in taken if event[0] != frames.CLOSE], violation.code
    return taken, None


def library(data: bytes, *, masked: bool) -> tuple[list[Event], int | None]:
    """Return the same of the library, and with which code it says that it gives up."""
    protocol = oracle(masked=masked)
    protocol.receive_data(data)
    events = [event for event in protocol.events_received() if isinstance(event, Frame)]
    failed = protocol.parser_exc is not None and protocol.close_sent is not None
    return joined(events), protocol.close_sent.code if failed and protocol.close_sent else None


def same(data: bytes, cuts: list[int], *, masked: bool) -> None:
    """Hold both against each other; what is refused by its head alone, the library refuses when all of it is there."""
    taken, code = read(data, cuts, masked=masked)
    filled = data + bytes(MAX + 14) if code is not None else data
    assert (taken, code) == library(filled, masked=masked)


def wire(opcode: int, payload: bytes, *, fin: bool, masked: bool) -> bytes:
    """Return a frame as the library writes it, whether it may be written at all or not."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=masked)


OPCODES = st.sampled_from([frames.CONTINUATION, frames.TEXT, frames.BINARY, frames.PING, frames.PONG])
CONTROLS = (frames.PING, frames.PONG)
CUTS = st.lists(st.integers(0, 5_000), max_size=8)
GOODBYES = st.one_of(
    st.just(b""),
    st.tuples(
        st.sampled_from([1000, 1001, 1005, 1006, 1012, 1015, 2999, 3000, 4999, 5000]), st.binary(max_size=20)
    ).map(lambda said: said[0].to_bytes(2, "big") + said[1]),
)


@given(
    said=st.lists(st.tuples(OPCODES, st.binary(max_size=200), st.booleans()), max_size=10),
    cuts=CUTS,
    ends=st.booleans(),
    masked=st.booleans(),
)
def test_any_frames_in_any_order_and_pieces(
    *, said: list[tuple[int, bytes, bool]], cuts: list[int], ends: bool, masked: bool
) -> None:
    data = b"".join(
        wire(opcode, payload[:125], fin=True, masked=masked)
        if opcode in CONTROLS
        else wire(opcode, payload, fin=fin, masked=masked)
        for opcode, payload, fin in said
    )
    if ends:
        data += wire(frames.CLOSE, b"", fin=True, masked=masked)
    same(data, cuts, masked=masked)


@given(payload=GOODBYES, more=st.binary(max_size=30), cuts=CUTS, masked=st.booleans())
def test_a_goodbye_and_what_comes_after_it(*, payload: bytes, more: bytes, cuts: list[int], masked: bool) -> None:
    same(wire(frames.CLOSE, payload, fin=True, masked=masked) + more, cuts, masked=masked)


@given(data=st.binary(max_size=600), cuts=CUTS, masked=st.booleans())
def test_hostile_bytes(*, data: bytes, cuts: list[int], masked: bool) -> None:
    same(data, cuts, masked=masked)


LENGTHS = st.one_of(st.integers(0, 400), st.sampled_from([125, 126, 127, MAX, MAX + 1, 65_535, 65_536, 2**64 - 1]))


@given(first=st.integers(0, 255), mask=st.booleans(), length=LENGTHS, width=st.sampled_from([1, 2, 8]), cuts=CUTS)
def test_hostile_heads(*, first: int, mask: bool, length: int, width: int, cuts: list[int]) -> None:
    bit = 0x80 if mask else 0
    if width == 1:
        size = bytes([bit | length % 126])
    else:
        size = bytes([bit | (126 if width == 2 else 127)]) + (length % (1 << 8 * width)).to_bytes(width, "big")
    for masked in (True, False):
        same(bytes([first]) + size + b"key!" + bytes(200), cuts, masked=masked)


PAYLOADS = st.one_of(st.binary(max_size=300), st.integers(60_000, 70_000).map(bytes))


@given(opcode=OPCODES, payload=PAYLOADS, masked=st.booleans())
def test_what_we_write_the_library_reads(*, opcode: int, payload: bytes, masked: bool) -> None:
    if opcode in CONTROLS:
        payload = payload[:125]
    protocol = Protocol(SERVER if masked else CLIENT, max_size=None)
    if opcode == frames.CONTINUATION:
        protocol.receive_data(wire(frames.TEXT, b"", fin=False, masked=masked))
        protocol.events_received()
    protocol.receive_data(frames.encode(opcode, payload, masked=masked))
    assert protocol.parser_exc is None
    assert protocol.events_received() == [Frame(Opcode(opcode), payload)]


@given(st.sampled_from([1000, 1001, 1002, 1007, 1009, 1012, 4000]), st.text(max_size=200))
def test_what_we_say_at_the_end_can_be_read(code: int, reason: str) -> None:
    payload = frames.closing(code, reason)
    assert len(payload) <= 125
    said, why = frames.goodbye(payload)
    assert said == code
    assert reason.startswith(why)
    assert len(reason.encode()) - len(why.encode()) < 4 or len(payload) > 120


def test_keys_differ() -> None:
    seen = {frames.encode(frames.TEXT, b"same", masked=True) for _ in range(3_000)}
    assert len(seen) > 2_990


def test_a_large_frame_in_small_pieces_is_put_together_once() -> None:
    taken: list[Event] = []
    reader = frames.Reader(masked=False, max_size=8_000_000)
    payload = bytes(1_000_000)
    data = frames.encode(frames.TEXT, payload, masked=False)
    for at in range(0, len(data), 100):
        reader.feed(data[at : at + 100], lambda *event: taken.append(event))
    assert taken == [(frames.TEXT, payload)]
