"""Ids, and how they are derived.

An id is never random: it is a digest of what makes the thing unique within its session, so that whoever derives it
again (a runner that takes a call over, a writer that tries again) arrives at the same id and the log can tell a repeat.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Literal

WriterName = Literal["bridge", "owner"]

MAIN_HANDLER = "main"
"""The handler name of the code of an entrypoint outside any hook or task."""


def derive(*parts: str | int) -> str:
    """Return 32 hex digits that are the same for the same parts and differ for any others."""
    text = [*map(str, parts)]
    joined = "".join([f"{len(part)}:{part}" for part in text])
    if joined.isascii():  # then a character is a byte
        data = joined.encode()
    else:
        data = b"".join([b"%d:%b" % (len(part), part) for part in map(_encoded, text)])
    return blake2b(data, digest_size=16).hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def record_id(session_id: str, writer: WriterName, index: int) -> str:
    """Return the id of the `index`-th record (from 1) of one of a session's two writers."""
    number = str(index)
    return blake2b(b"%b%d:%b" % (_begun(session_id, writer), len(number), number.encode()), digest_size=16).hexdigest()


@lru_cache(maxsize=4096)  # a session's records differ in their numbers only
def _begun(session_id: str, writer: WriterName) -> bytes:
    """Return what `derive` would make of a record's id before its number."""
    return b"".join([b"%d:%b" % (len(part), part) for part in map(_encoded, ("record", session_id, writer))])


def command_id(session_id: str, cause: str, handler: str, verb: str, nth: int) -> str:
    """Return the id of a command: the `nth` use (from 0) of `verb` by `handler` while it handled `cause`."""
    return derive("command", session_id, cause, handler, verb, nth)


def step_id(session_id: str, cause: str, handler: str, name: str, nth: int) -> str:
    """Return the id of a journaled step, fit to be an idempotency key at a third party."""
    return derive("step", session_id, cause, handler, name, nth)


def message_id(record: str, epoch: int) -> str:
    """Return the `Nats-Msg-Id` of a record.

    JetStream's dedup spans the whole stream, so an id that a new owner derives again must not be swallowed: the epoch
    is part of it, and readers tell repeats by the record's own id.
    """
    return f"{record}@{epoch}"
