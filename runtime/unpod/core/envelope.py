"""The envelope of a record: CloudEvents' NATS binding in headers, and what unpod adds.

`Unpod-Epoch` is the stream sequence of the placement under which the writer wrote, `Unpod-Index` its place among that
writer's records of the session (from 1, without gaps), `Unpod-Seen` the bridge index that an owner had consumed,
`Unpod-Settled` the one up to which all its handlers had returned, `Unpod-Settled-Own` the owner's own index up to which
the hooks on what it wrote itself had, `Unpod-Cause` the id of the record that it answers.
Headers are printable ASCII: ids are percent-encoded. Nothing that a message says in `Nats-*` headers is believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import modf
from typing import Literal
from urllib.parse import quote, unquote

from msgspec import Struct

from unpod.core.headers import HeaderText, MadeHeaders
from unpod.core.ids import WriterName, message_id, record_id
from unpod.errors import ProtocolViolation

TYPE_PREFIX = "io.unpod."
VERSION = 1
_TYPE = re.compile(r"io\.unpod\.([a-z][a-z_.]*)\.v([0-9]{1,4})\Z")
_MAX_DIGITS = 18
_MAX_ID = 128
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


_MICROS = 1_000_000
_LENGTH = 27
"""How long a time of ours is: 2023-11-14T22:13:20.250000Z."""
_ALWAYS = 9
"""How many headers every record has."""


OVERHEAD = 512
"""What a record costs the log beside its payload, in bytes, about: its subject and its headers."""


class Envelope(Struct, frozen=True, kw_only=True):
    """What is known of a record without its payload. `time` is seconds since 1970 in the log's time."""

    id: str
    type: str
    source: str
    session: str
    time: float
    epoch: int
    index: int
    version: int = VERSION
    seen: int = 0
    settled: int = 0
    settled_own: int = 0
    cause: str = ""
    handler: str = ""
    traceparent: str = ""


_LINE = r".*"  # to the line feed, and back to the CR: a third faster than a class of characters
_NUMBER = rf"[0-9]{{1,{_MAX_DIGITS}}}"
_OURS = re.compile(
    rf"Nats-Msg-Id: {_LINE}\r\nce-specversion: 1\.0"
    rf"\r\nce-id: ([!-~]{{1,{_MAX_ID}}})"
    rf"\r\nce-type: ({_LINE})\r\nce-source: ({_LINE})\r\nce-subject: ({_LINE})"
    rf"\r\nce-time: ([0-9:T-]{{19}})\.([0-9]{{6}})Z"
    rf"\r\nUnpod-Epoch: ({_NUMBER})\r\nUnpod-Index: ({_NUMBER})"
    rf"(?:\r\nUnpod-Seen: ({_NUMBER}))?(?:\r\nUnpod-Settled: ({_NUMBER}))?(?:\r\nUnpod-Settled-Own: ({_NUMBER}))?"
    rf"(?:\r\nUnpod-Cause: ({_LINE}))?(?:\r\nUnpod-Handler: ({_LINE}))?"
    rf"(?:\r\nNats-Expected-Last-Subject-Sequence: {_NUMBER})?"
    rf"(?:\r\nNats-Expected-Last-Subject-Sequence-Subject: [!-~]*)?\Z"
)
"""Headers in the order of `to_headers`, with the fence behind them: as nearly all are that are ever read."""


def source(kind: Literal["bridge", "runner", "client"], name: str = "") -> str:
    """Return the `ce-source` of what a process, or a person with a client, writes: `/unpod/runner/ID`."""
    return f"/unpod/{kind}/{name}" if name else f"/unpod/{kind}"


def to_headers(envelope: Envelope) -> MadeHeaders:
    """Return the headers of a record, `Nats-Msg-Id` first."""
    msg_id = message_id(envelope.id, envelope.epoch)
    text = (
        f"Nats-Msg-Id: {msg_id}\r\nce-specversion: 1.0\r\nce-id: {envelope.id}"
        f"\r\nce-type: {TYPE_PREFIX}{envelope.type}.v{envelope.version}"
        f"\r\nce-source: {_quoted(envelope.source, '/')}\r\nce-subject: {_quoted(envelope.session, '')}"
        f"\r\nce-time: {format_time(envelope.time)}"
        f"\r\nUnpod-Epoch: {envelope.epoch}\r\nUnpod-Index: {envelope.index}"
    )
    more = []
    if envelope.seen:
        more.append(f"Unpod-Seen: {envelope.seen}")
    if envelope.settled:
        more.append(f"Unpod-Settled: {envelope.settled}")
    if envelope.settled_own:
        more.append(f"Unpod-Settled-Own: {envelope.settled_own}")
    if envelope.cause:
        more.append(f"Unpod-Cause: {envelope.cause}")
    if envelope.handler:
        more.append(f"Unpod-Handler: {_quoted(envelope.handler, ':.<>')[:200]}")
    if envelope.traceparent:
        more.append(f"traceparent: {envelope.traceparent}")
    if more:
        text = "\r\n".join([text, *more])
    return MadeHeaders(text, _ALWAYS + len(more), msg_id)


class Letterhead:
    """What the headers of all records have in common that one writer writes into one session, made once.

    `headers` returns what `to_headers` makes of the same envelope.
    """

    __slots__ = ("_epoch", "_same", "_session", "_writer")

    def __init__(self, session: str, writer: WriterName, source: str, epoch: int) -> None:
        self._session = session
        self._writer: WriterName = writer
        self._epoch = epoch
        self._same = f"\r\nce-source: {_quoted(source, '/')}\r\nce-subject: {_quoted(session, '')}\r\nce-time: "

    def headers(self, record_type: str, index: int, time: float, cause: str = "") -> MadeHeaders:
        """Return the headers of the `index`-th record; `time` is seconds since 1970 in the log's time."""
        identifier, epoch = record_id(self._session, self._writer, index), self._epoch
        msg_id = message_id(identifier, epoch)
        text = (
            f"Nats-Msg-Id: {msg_id}\r\nce-specversion: 1.0\r\nce-id: {identifier}"
            f"\r\nce-type: {TYPE_PREFIX}{record_type}.v{VERSION}{self._same}{format_time(time)}"
            f"\r\nUnpod-Epoch: {epoch}\r\nUnpod-Index: {index}"
        )
        if cause:
            return MadeHeaders(f"{text}\r\nUnpod-Cause: {cause}", _ALWAYS + 1, msg_id)
        return MadeHeaders(text, _ALWAYS, msg_id)


def from_headers(headers: Mapping[str, str]) -> Envelope:
    """Return the envelope that headers carry.

    Raises:
        ProtocolViolation: a header that must be there is missing or malformed.
    """
    if isinstance(headers, HeaderText) and (envelope := _ours(headers.text)) is not None:
        return envelope
    get = headers.get
    known = _type_of(get("ce-type", ""))
    identifier = get("ce-id", "")
    if known is None or not _is_id(identifier):
        msg = "a record without a well-formed ce-type and ce-id"
        raise ProtocolViolation(msg)
    traceparent = get("traceparent", "")
    try:
        session = unquote(get("ce-subject", ""), errors="surrogatepass")
    except UnicodeDecodeError as error:
        msg = "a record without a well-formed ce-subject"
        raise ProtocolViolation(msg) from error
    return Envelope(
        id=identifier,
        type=known[0],
        version=known[1],
        source=unquote(get("ce-source", "")),
        session=session,
        time=parse_time(get("ce-time", "")),
        epoch=_number(headers, "Unpod-Epoch") if "Unpod-Epoch" in headers else 0,
        index=_number(headers, "Unpod-Index") if "Unpod-Index" in headers else 0,
        seen=_number(headers, "Unpod-Seen") if "Unpod-Seen" in headers else 0,
        settled=_number(headers, "Unpod-Settled") if "Unpod-Settled" in headers else 0,
        settled_own=_number(headers, "Unpod-Settled-Own") if "Unpod-Settled-Own" in headers else 0,
        cause=get("Unpod-Cause", ""),
        handler=unquote(get("Unpod-Handler", "")),
        traceparent=traceparent if traceparent and _TRACEPARENT.match(traceparent) else "",
    )


def _ours(text: str) -> Envelope | None:
    """Return the envelope of headers in our own order; None where anything about them is unusual."""
    match = _OURS.match(text)
    if match is None or "%" in text:
        return None
    identifier, tag, source, session, second, micros, epoch, index, seen, settled, own, cause, handler = match.groups()
    known = _type_of(tag)
    try:
        time = (_second_of(second) * _MICROS + int(micros)) / _MICROS
    except ValueError:
        return None
    return (
        None
        if known is None
        else Envelope(
            id=identifier,
            type=known[0],
            version=known[1],
            source=source,
            session=session,
            time=time,
            epoch=int(epoch),
            index=int(index),
            seen=int(seen) if seen else 0,
            settled=int(settled) if settled else 0,
            settled_own=int(own) if own else 0,
            cause=cause or "",
            handler=handler or "",
        )
    )


def format_time(seconds: float) -> str:
    """Return RFC 3339 in UTC with microseconds."""
    fraction, whole = modf(seconds)
    micros = round(fraction * 1e6)
    if not 0 <= micros < _MICROS:  # before 1970, or all but the next second
        carry, micros = divmod(micros, _MICROS)
        whole += carry
    return f"{_second(int(whole))}.{micros:06d}Z"


def parse_time(text: str) -> float:
    """Return seconds since 1970 of an RFC 3339 time; one as `format_time` writes it is read faster.

    Raises:
        ProtocolViolation: it is none.
    """
    try:
        if len(text) == _LENGTH and text[19] == "." and text[26] == "Z" and text[20:26].isdecimal() and text.isascii():
            return (_second_of(text[:19]) * _MICROS + int(text[20:26])) / _MICROS
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        msg = "a record without a well-formed ce-time"
        raise ProtocolViolation(msg) from error
    if moment.tzinfo is None:
        # Python would take the time of the reader's own zone.
        msg = "a record whose ce-time names no zone"
        raise ProtocolViolation(msg)
    return moment.timestamp()


def _number(headers: Mapping[str, str], name: str) -> int:
    text = headers[name]
    if len(text) > _MAX_DIGITS or not (text.isdecimal() and text.isascii()):
        msg = f"header {name} is not a number"
        raise ProtocolViolation(msg)
    return int(text)


# What is remembered here is the same in many records: sources, sessions, types and seconds.


@lru_cache(maxsize=4096)
def _quoted(text: str, safe: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe=safe)


@lru_cache(maxsize=1024)
def _type_of(text: str) -> tuple[str, int] | None:
    match = _TYPE.match(text)
    return None if match is None else (match[1], int(match[2]))


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_ID and text.isascii() and text.isprintable() and " " not in text


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=64)
def _second_of(text: str) -> int:
    """Return the seconds since 1970 of a date and a time to the second, in UTC.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        msg = "a zone before the fraction"
        raise ValueError(msg)
    return int(moment.replace(tzinfo=UTC).timestamp())
