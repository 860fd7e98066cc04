"""The server side of a WebSocket in few instructions: the load generator must not be what is slow.

Text frames, pings and closing, each frame whole; no extensions, no continuation. It reads only what our own peers send.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Final, Protocol, cast

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_SHORT, _MEDIUM = 126, 127


class Owner(Protocol):
    """Who a socket belongs to."""

    def received(self, data: bytes) -> None:
        """Take the text of one frame."""

    def closed(self) -> None:
        """Take note that the socket is gone."""


def frame(data: bytes, opcode: int = _TEXT) -> bytes:
    """Return one unmasked frame."""
    size = len(data)
    if size < _SHORT:
        return bytes((0x80 | opcode, size)) + data
    if size < 1 << 16:
        return bytes((0x80 | opcode, _SHORT)) + size.to_bytes(2, "big") + data
    return bytes((0x80 | opcode, _MEDIUM)) + size.to_bytes(8, "big") + data


def unmask(data: bytes, key: bytes) -> bytes:
    """Return the payload of a masked frame."""
    size = len(data)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


class Socket(asyncio.Protocol):
    """One accepted connection; `claim` is asked, with the request's path, whose it is."""

    def __init__(self, claim: Callable[[str, Socket], Owner]) -> None:
        self._claim = claim
        self._owner: Owner | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        if self._owner is not None:
            self._owner.closed()

    def send(self, data: bytes) -> None:
        """Send one text."""
        assert self._transport is not None
        self._transport.write(frame(data))

    def close(self) -> None:
        """Close with 1000; the other side answers and ends the connection."""
        assert self._transport is not None
        self._transport.write(frame((1000).to_bytes(2, "big"), _CLOSE))

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        buffer = self._buffer + data if self._buffer else data
        if self._owner is None:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._shake_hands(head)
        self._buffer = self._take_frames(buffer)

    def _shake_hands(self, head: bytes) -> None:
        request, *lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _MAGIC, usedforsecurity=False).digest())
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        assert self._transport is not None
        self._transport.write(b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (answer, accept))
        self._owner = self._claim(request.split(b" ")[1].decode(), self)

    def _take_frames(self, buffer: bytes) -> bytes:
        """Take the whole frames of a buffer; return what is left of it."""
        at, size = 0, len(buffer)
        while size - at >= 6:
            length, start = buffer[at + 1] & 0x7F, at + 2
            if length == _SHORT:
                length, start = int.from_bytes(buffer[start : start + 2], "big"), start + 2
            elif length == _MEDIUM:
                length, start = int.from_bytes(buffer[start : start + 8], "big"), start + 8
            end = start + 4 + length
            if end > size:
                break
            data = unmask(buffer[start + 4 : end], buffer[start : start + 4])
            self._take(buffer[at], data)
            at = end
        return buffer[at:]

    def _take(self, first: int, data: bytes) -> None:
        assert self._transport is not None
        assert self._owner is not None
        opcode = first & 0x0F
        if opcode == _TEXT and first & 0x80:
            self._owner.received(data)
        elif opcode == _PING:
            self._transport.write(frame(data, _PONG))
        elif opcode == _CLOSE:
            self._transport.write(frame(data, _CLOSE))
            self._transport.close()
        elif opcode != _PONG:
            raise RuntimeError(f"the load generator has no frames of opcode {opcode}")
