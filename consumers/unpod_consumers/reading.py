"""Reads a stored message as a record; the time that its writer gives counts if it is within an hour of the log's."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from unpod.core import codec
from unpod.core.subjects import Subjects
from unpod.ports import Message

APART_S: Final = 3_600.0
"""How many seconds the two may differ: writers go by the log's time, and are stored within minutes."""
_NANO: Final = 1e9


def read(subjects: Subjects, message: Message) -> tuple[codec.Record, bool]:
    """Return the record, and whether its time is its writer's; else it is the time at which it was stored.

    Raises:
        ProtocolViolation: as `codec.read`.
    """
    record = codec.read(subjects, message.subject, message.headers, message.data, message.seq)
    stored = message.time_ns / _NANO
    if not stored or abs(record.envelope.time - stored) <= APART_S:
        return record, True
    return replace(record, envelope=replace(record.envelope, time=stored)), False
