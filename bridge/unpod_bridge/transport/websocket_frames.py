"""WebSocket's frames (RFC 6455, section 5), without extensions: bytes in, messages out, and back. No I/O.

The `websockets` library has all of this too, and does the handshake here; per frame and per socket its own form costs
several times as much. It is the oracle of the tests: what it takes and refuses is taken and refused here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # it is compiled, and not for every platform
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NO_CODE: Final = 1005
"""Stands for the code of a close frame without one; it is never sent."""
PROTOCOL_ERROR: Final = 1002
NOT_TEXT: Final = 1007
TOO_BIG: Final = 1009

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASK: Final = 0x80
_WHOLE_TEXT: Final = _FIN | TEXT
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)})
_MEDIUM: Final = 126
_LONG: Final = 127
_MAX_CONTROL: Final = 125
_KEY: Final = 4
_POOL: Final = 4096

Take = Callable[[int, bytes], None]
"""Takes a whole message or a control frame: its opcode (never that of a continuation) and its payload."""


class Violation(Exception):  # noqa: N818 - it says what the other side has done
    """The other side does not keep to the protocol; `code` is what it is told, `reason` quotes nothing of it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Reader:
    """Takes one side's frames apart; `masked`: they must be masked, as a client's are. Sizes in bytes."""

    __slots__ = ("_masked", "_max_size", "_needed", "_opcode", "_over", "_parts", "_plain", "_rest")

    def __init__(self, *, masked: bool, max_size: int) -> None:
        self._masked = masked
        self._max_size = max_size
        self._plain = not masked and max_size > _MAX_CONTROL
        self._rest: bytes | bytearray = b""
        self._needed = 0
        self._opcode = 0
        self._parts: bytearray | None = None
        self._over = False

    @property
    def stopped(self) -> bool:
        """Whether nothing more is read: since a close frame, or `stop`."""
        return self._over

    def stop(self) -> None:
        """Look at nothing more."""
        self._over = True

    def feed(self, chunk: bytes, take: Take) -> None:
        """Take what was read from the socket; what follows a close frame is dropped.

        Raises:
            Violation: what came is no WebSocket; all that came before it has been taken. Feed nothing more.
        """
        if self._over:
            return
        if self._rest:
            if not isinstance(self._rest, bytearray):
                self._rest = bytearray(self._rest)
            self._rest += chunk  # in place: a large frame in small pieces must not cost their product
            if len(self._rest) < self._needed:
                return
            chunk, self._rest = bytes(self._rest), b""
        start, end = 0, len(chunk)
        while start < end and not self._over:
            if chunk[start] == _WHOLE_TEXT and self._plain and self._parts is None:
                body = start + 2
                after = body + chunk[start + 1] if body <= end else end + 1
                if after <= end and after - body < _MEDIUM:  # nearly all of what a worker says
                    take(TEXT, chunk[body:after])
                    start = after
                    continue
            after = self._frame(chunk, start, end, take)
            if after > end:
                self._rest, self._needed = chunk[start:], after - start
                return
            start = after

    def _frame(self, data: bytes, start: int, end: int, take: Take) -> int:
        """Take the frame that begins at `start`; return where it ends, beyond `end` if it is not (known to be) here."""
        at = start + 2
        if at > end:
            return at
        first, length = data[start], data[start + 1] & ~_MASK
        self._check(first, masked=data[start + 1] >= _MASK)
        if length >= _MEDIUM:
            size = 2 if length == _MEDIUM else 8
            if at + size > end:
                return at + size
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        self._check_size(first, length)
        after = at + length + (_KEY if self._masked else 0)
        if after > end:
            return after
        payload = apply_mask(data[at + _KEY : after], data[at : at + _KEY]) if self._masked else data[at:after]
        self._take(first, payload, take)
        return after

    def _check(self, first: int, *, masked: bool) -> None:
        if first & 0x0F not in _OPCODES:
            raise Violation(PROTOCOL_ERROR, "invalid opcode")
        if masked != self._masked:
            raise Violation(PROTOCOL_ERROR, "incorrect masking")

    def _check_size(self, first: int, length: int) -> None:
        held = 0 if self._parts is None else len(self._parts)
        if length > self._max_size - held:
            raise Violation(TOO_BIG, f"over {self._max_size} bytes")
        if first & _RESERVED:
            raise Violation(PROTOCOL_ERROR, "reserved bits must be 0")
        if first & CLOSE and (length > _MAX_CONTROL or not first & _FIN):
            raise Violation(PROTOCOL_ERROR, "a control frame is too long or fragmented")

    def _take(self, first: int, payload: bytes, take: Take) -> None:
        opcode = first & 0x0F
        if opcode >= CLOSE:
            self._over = opcode == CLOSE
            take(opcode, payload)
            if self._over and self._parts is not None:
                raise Violation(PROTOCOL_ERROR, "incomplete fragmented message")
        elif self._parts is None:
            if opcode == CONTINUATION:
                raise Violation(PROTOCOL_ERROR, "unexpected continuation frame")
            if first & _FIN:
                take(opcode, payload)
            else:
                self._opcode, self._parts = opcode, bytearray(payload)
        elif opcode != CONTINUATION:
            raise Violation(PROTOCOL_ERROR, "expected a continuation frame")
        else:
            self._parts += payload
            if first & _FIN:
                whole, self._parts = bytes(self._parts), None
                take(self._opcode, whole)


def goodbye(payload: bytes) -> tuple[int, str]:
    """Return the code, or `NO_CODE`, and the reason that a close frame gives.

    Raises:
        Violation: it is none.
    """
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(NOT_TEXT, "the reason of a goodbye is not UTF-8") from None
    if len(payload) < 2 or code not in _CODES:  # noqa: PLR2004 - the length of a code
        raise Violation(PROTOCOL_ERROR, "invalid status code")
    return code, reason


def closing(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame; as much of the reason as has room is in it."""
    return code.to_bytes(2, "big") + reason.encode()[: _MAX_CONTROL - 2].decode("utf-8", "ignore").encode()


class _Keys:
    """Masking keys, which nobody can foresee (RFC 6455, 10.3): asking the system for each of them is a system call."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def next(self) -> bytes:
        """Return a key that was not returned before."""
        if self._at >= len(self._pool):
            self._pool, self._at = os.urandom(_POOL), 0
        at = self._at
        self._at = at + _KEY
        return self._pool[at : at + _KEY]


_key = _Keys().next


_HEADS: Final = {opcode: tuple(bytes((_FIN | opcode, size)) for size in range(256)) for opcode in _OPCODES}
"""The first two bytes of a whole frame, by its opcode and the second of them."""


def encode(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """Return one whole frame, masked as a client's must be or not."""
    size, mask = len(payload), _MASK if masked else 0
    if size < _MEDIUM:
        head = _HEADS[opcode][mask | size]
    elif size < 1 << 16:
        head = bytes((_FIN | opcode, mask | _MEDIUM)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, mask | _LONG)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = _key()
    return head + key + apply_mask(payload, key)
