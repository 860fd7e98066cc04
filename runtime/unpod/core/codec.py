"""Bytes to typed records and back.

The envelope is read first, then the payload. A type or version that this build does not know becomes `Unknown`, with
its bytes; older versions are upcast here, so that nobody else ever sees one. What cannot be decoded at all raises
`ProtocolViolation`, and the caller keeps going.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import UnionType
from typing import get_args

import msgspec
from msgspec import Struct

from unpod.core.commands import AnyCommand
from unpod.core.controls import AnyControl
from unpod.core.envelope import VERSION, Envelope, from_headers
from unpod.core.events import CallerEvent, Placement, Receipt, SessionEvent, Unknown, tag_of
from unpod.core.subjects import Channel, Subjects, token
from unpod.errors import ProtocolViolation

Body = CallerEvent | Receipt | SessionEvent | AnyCommand | AnyControl | Placement | Unknown

MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec raises at hostile input: a nesting bomb is a RecursionError, bad UTF-8 a UnicodeDecodeError."""

BRIDGE_CHANNELS: frozenset[Channel] = frozenset({"evt", "ack"})
OWNER_CHANNELS: frozenset[Channel] = frozenset({"run", "cmd"})


class Record(Struct, frozen=True):
    """One record: where it stands, its envelope, what it says; `seq` is its stream sequence, 0 from the live tail."""

    channel: Channel
    envelope: Envelope
    body: Body
    seq: int = 0
    data: bytes = b""


Upcast = Callable[[dict[str, object]], dict[str, object]]
UPCASTS: dict[tuple[str, int], Upcast] = {}
"""(type, version) to a function that returns the payload as the next version has it."""

_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Body]] = {
    "evt": msgspec.json.Decoder(CallerEvent),
    "ack": msgspec.json.Decoder(Receipt),
    "run": msgspec.json.Decoder(SessionEvent),
    "cmd": msgspec.json.Decoder(AnyCommand),
    "ctl": msgspec.json.Decoder(AnyControl),
    "line": msgspec.json.Decoder(Placement),
    "own": msgspec.json.Decoder(Placement),
}
_KNOWN: dict[str, frozenset[str]] = {}


def _tags(union: UnionType) -> frozenset[str]:
    members: tuple[type[Struct], ...] = get_args(union)
    return frozenset(str(member.__struct_config__.tag) for member in members)


_KNOWN.update(
    evt=_tags(CallerEvent),
    ack=_tags(Receipt),
    run=_tags(SessionEvent),
    cmd=_tags(AnyCommand),
    ctl=_tags(AnyControl),
    line=_tags(Placement),
)
_KNOWN["own"] = _KNOWN["line"]


def encode(body: Struct) -> bytes:
    """Return the payload of a fact, a command or a control."""
    return _encoder.encode(body)


def decode(channel: Channel, event_type: str, version: int, data: bytes) -> Body:
    """Return what a payload says; `event_type` is the envelope's type without its channel.

    Raises:
        ProtocolViolation: it cannot be read.
    """
    if event_type not in _KNOWN[channel] or version > VERSION:
        return Unknown(type=event_type, data=data)
    try:
        if version < VERSION:
            data = _upcast(event_type, version, data)
        body = _decoders[channel].decode(data)
    except MALFORMED as error:
        msg = f"the payload of a {channel} record of type {event_type} cannot be read: {describe(error)}"
        raise ProtocolViolation(msg) from error
    if body.__struct_config__.tag != event_type:
        msg = f"a {channel} record of type {event_type} has the payload of another: {tag_of(body)}"
        raise ProtocolViolation(msg)
    return body


def read(subjects: Subjects, subject: str, headers: Mapping[str, str], data: bytes, seq: int = 0) -> Record:
    """Return the record that a message carries.

    Raises:
        ProtocolViolation: subject, envelope or payload cannot be read, or contradict each other.
    """
    channel, event_type, envelope = _outside(subjects, subject, headers)
    return Record(channel, envelope, decode(channel, event_type, envelope.version, data), seq, data)


def salvage(subjects: Subjects, subject: str, headers: Mapping[str, str], data: bytes, seq: int = 0) -> Record | None:
    """Return what is left of a message that `read` refuses: its place in the order, where the envelope is sound.

    Its writer counted it, so who passed it over altogether would wait for its index for ever.
    """
    try:
        channel, event_type, envelope = _outside(subjects, subject, headers)
    except ProtocolViolation:
        return None
    return Record(channel, envelope, Unknown(type=event_type, data=data), seq, data)


def body_of(channel: Channel, envelope: Envelope, data: bytes) -> Body:
    """Return what the payload says of a record on a subject without a type, whose envelope is read already.

    Raises:
        ProtocolViolation: it cannot be read, or is another channel's.
    """
    named, _, event_type = envelope.type.partition(".")
    if named != channel:
        msg = f"envelope and subject disagree: {envelope.type!r} on the channel {channel}"
        raise ProtocolViolation(msg)
    return decode(channel, event_type, envelope.version, data)


def _outside(subjects: Subjects, subject: str, headers: Mapping[str, str]) -> tuple[Channel, str, Envelope]:
    """Return what a message says without its payload; the type is the envelope's without its channel."""
    address = subjects.parse(subject)
    envelope = from_headers(headers)
    channel, _, event_type = envelope.type.partition(".")
    if channel != address.channel or (address.type and address.type != event_type):
        msg = f"envelope and subject disagree: {envelope.type!r} on {subject[:200]!r}"
        raise ProtocolViolation(msg)
    if address.session != envelope.session and address.session != token(envelope.session):
        msg = f"envelope and subject disagree: the session {envelope.session[:200]!r} on {subject[:200]!r}"
        raise ProtocolViolation(msg)
    return address.channel, event_type, envelope


def describe(error: BaseException) -> str:
    """Return why a payload could not be read, without any of its content."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(error)[:200]


def _upcast(event_type: str, version: int, data: bytes) -> bytes:
    payload = msgspec.json.decode(data, type=dict[str, object])
    while version < VERSION:
        step = UPCASTS.get((event_type, version))
        if step is not None:
            payload = step(payload)
        version += 1
    return _encoder.encode(payload)
