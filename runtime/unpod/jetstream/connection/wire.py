"""NATS on the wire, as bytes: headers, commands, and a parser. No I/O and no state but the parser's own buffer.

nats-py has all of this too, in a form that costs five times as much per message (regular expressions on a growing
buffer, a queue and a task per subscription), and one that can hold a publish back and send it after it has "failed".
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from unpod.core.headers import HeaderText, MadeHeaders
from unpod.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from unpod.ports import Fence

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

_EXPECTED: Final = b"%bNats-Expected-Last-Subject-Sequence: %d\r\n\r\n"
_EXPECTED_ON: Final = (
    b"%bNats-Expected-Last-Subject-Sequence: %d\r\nNats-Expected-Last-Subject-Sequence-Subject: %b\r\n\r\n"
)
_MSG_ID: Final = b"Nats-Msg-Id: %b\r\n"
_CRLF: Final = b"\r\n"
_END: Final = b"\r\n\r\n"
_KEY = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_SUBJECT = re.compile(r"[^\x00-\x20\x7f]+\Z")
_MAX_SUBJECT = 3_000  # the server's control line ends at 4,096 bytes: a reply subject and two lengths stand there too
_MAX_KNOWN = 1_000
_WITH_HEADERS: Final = b"HMSG"
_MESSAGES: Final = frozenset({b"MSG", _WITH_HEADERS})
_known_keys: set[str] = set()


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the header block of a message, b"" for none.

    Raises:
        ProtocolViolation: a name or a value that would not arrive as it is (CR, LF, not ASCII).
    """
    if isinstance(headers, MadeHeaders):
        text, ends = headers.text, headers.lines - 1
    elif not headers:
        return b""
    else:
        if not headers.keys() <= _known_keys:
            for key in headers:
                _learn(key)
        text = "\r\n".join([f"{key}: {value}" for key, value in headers.items()])
        ends = len(headers) - 1
    if not text.isascii() or text.count("\n") != ends or text.count("\r") != ends:
        raise ProtocolViolation("a header value holds CR, LF or a character that is not ASCII", whose="local")
    return b"NATS/1.0\r\n%b\r\n\r\n" % text.encode("ascii")


def fenced(block: bytes, subject: str, fence: Fence) -> bytes:
    """Return the header block of a record for `subject` that the server stores only where the fence holds."""
    head = block[:-2] if block else b"NATS/1.0\r\n"
    if fence.subject == subject:
        return _EXPECTED % (head, fence.seq)
    return _EXPECTED_ON % (head, fence.seq, fence.subject.encode())


def with_msg_id(block: bytes, old: str, new: str) -> bytes:
    """Return a header block with another message id in the place of its own."""
    return block.replace(_MSG_ID % old.encode(), _MSG_ID % new.encode(), 1)


def _learn(key: str) -> None:
    """Check a header's name once; names come from code, so there are few of them."""
    if not _KEY.match(key):
        raise ProtocolViolation(f"{key!r} cannot be the name of a header", whose="local")
    if len(_known_keys) < _MAX_KNOWN:
        _known_keys.add(key)


def check_subject(subject: str) -> None:
    """Refuse a subject that would break the protocol's line.

    Raises:
        ProtocolViolation: empty, too long, or with a space or a control character.
    """
    if len(subject) <= _MAX_SUBJECT and subject.isprintable() and subject.isascii() and subject and " " not in subject:
        return
    if len(subject) > _MAX_SUBJECT or not _SUBJECT.match(subject):
        raise ProtocolViolation("a subject is empty, over 3,000 characters, or has a control character", whose="local")


def encode_publish(subject: str, reply: str, block: bytes, data: bytes) -> bytes:
    """Return the command that publishes `data` under a checked `subject` with the header block `block` (or b"")."""
    size = len(data)
    if block:
        head = len(block)
        return b"%b%b%b\r\n" % (f"HPUB {subject} {reply} {head} {head + size}\r\n".encode(), block, data)
    return b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), data)


def encode_publishes(subject: str, reply: str, payloads: Iterable[bytes]) -> bytes:
    """Return the commands that publish each payload under one checked `subject`, without headers."""
    head = f"PUB {subject} {reply} ".encode()
    return b"".join([b"%b%d\r\n%b\r\n" % (head, len(data), data) for data in payloads])


def encode_subscribe(subject: str, queue: str, sid: int) -> bytes:
    """Return the command that opens the subscription `sid`."""
    return f"SUB {subject} {queue} {sid}\r\n".encode()


def encode_unsubscribe(sid: int) -> bytes:
    """Return the command that ends the subscription `sid`."""
    return b"UNSUB %d\r\n" % sid


def decode_headers(block: bytes) -> Mapping[str, str]:
    """Return the headers of a block; of a repeated name the last counts, and what is no header is left out."""
    return HeaderText(block[block.find(_CRLF) + 2 : -len(_END)].decode("utf-8", "replace"))


def status_of(block: bytes) -> str:
    """Return the status that the server sent in a header's first line ("503", "404", "204"), or ""."""
    return block[9:12].decode("ascii", "replace") if block.startswith(b"NATS/1.0 ") else ""


class OnMessage(Protocol):
    """What takes a message: subscription, subject, reply subject, header block, payload."""

    def __call__(self, sid: int, subject: bytes, reply: bytes, block: bytes, data: bytes, /) -> None:
        """Take one message."""


class Framing:
    """Bytes in, messages out: splits what the server sends into messages and control lines.

    `feed` hands each complete message to `on_message` and returns the control lines (PING, PONG, +OK, -ERR, INFO).
    """

    __slots__ = ("_buffer", "_on_message")

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._buffer = b""

    def reset(self) -> None:
        """Forget what was half received."""
        self._buffer = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take what was read from the socket.

        Raises:
            ProtocolViolation: what came is not NATS.
        """
        buffer = self._buffer + chunk if self._buffer else chunk
        control: list[bytes] = []
        find, on_message = buffer.find, self._on_message
        start, end = 0, len(buffer)
        while (eol := find(_CRLF, start)) >= 0:
            # [H]MSG subject sid [reply] [head] size
            parts = buffer[start:eol].split()
            body = eol + 2
            if not parts or parts[0] not in _MESSAGES:
                control.append(buffer[start:eol])
                start = body
                continue
            try:
                sid, size, count = int(parts[2]), int(parts[-1]), len(parts)
                head = int(parts[-2]) if parts[0] == _WITH_HEADERS else 0
                # parts[3] is there even without a reply
                reply = parts[3] if count == (6 if head else 5) else parts[3][:0]
            except (ValueError, IndexError):
                raise ProtocolViolation("the server sent a message line that cannot be read") from None
            after = body + size + 2
            if after > end:
                break
            cut = body + head
            on_message(sid, parts[1], reply, buffer[body:cut], buffer[cut : after - 2])
            start = after
        self._buffer = buffer[start:] if start else buffer
        return control
