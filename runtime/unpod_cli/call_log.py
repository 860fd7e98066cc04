"""One call's event log: read from the stream, put in the order that counts, shown as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from rich.text import Text

from unpod.core.codec import OWNER_CHANNELS, Record, read
from unpod.core.events import ReplySpoken, Settled, StateChanged
from unpod.core.replay.ordering import merge
from unpod.core.subjects import Subjects
from unpod.errors import ProtocolViolation
from unpod.ports import EventLog
from unpod_cli.layout import Cell, Columns
from unpod_cli.summary import WITHHELD, is_withheld, summary

_QUIET = (StateChanged, ReplySpoken, Settled)
"""Bookkeeping, shown in the background."""
_COLOURS: Final = {"bridge": "green", "owner": "cyan"}


class Row(Struct, frozen=True):
    """One record as it is shown; `at_s` counts from the call's first record, `by` is who wrote it."""

    at_s: float
    by: str
    index: int
    seen: int
    type: str
    summary: str
    withheld: bool
    quiet: bool


async def read_call(log: EventLog, subjects: Subjects, session_id: str) -> list[Record]:
    """Return a call's records in merged order; what cannot be read is left out.

    Raises:
        LogUnavailable: no answer.
    """
    records = []
    async for message in log.read(subjects.session(session_id)):
        try:
            records.append(read(subjects, message.subject, message.headers, message.data, message.seq))
        except ProtocolViolation:
            continue
    return merge(records)


def rows(records: Sequence[Record]) -> list[Row]:
    """Return what is shown of a call's records, in their order."""
    start = min((record.envelope.time for record in records), default=0.0)
    return [_row(record, start) for record in records]


def table(shown: Iterable[Row]) -> Columns:
    """Return the log as a table; what was withheld is marked, bookkeeping is dim."""
    return Columns(
        [_cells(row) for row in shown], right=(0, 2, 3), head=("time", "by", "#", "seen", "record", "what it says")
    )


def _cells(row: Row) -> list[Cell]:
    said = Text(row.summary, style="dim" if row.quiet else "")
    said.highlight_words([WITHHELD], style="bold magenta")
    return [
        Text(f"{row.at_s:.3f}", style="dim"),
        Text(row.by, style="dim"),
        str(row.index or ""),
        Text(str(row.seen or ""), style="dim"),
        Text(row.type, style="dim" if row.quiet else _COLOURS[row.by]),
        said,
    ]


def as_json(shown: Iterable[Row]) -> list[object]:
    """Return the log for programs."""
    return [{name: value for name, value in msgspec.structs.asdict(row).items() if name != "quiet"} for row in shown]


def _row(record: Record, start: float) -> Row:
    envelope = record.envelope
    return Row(
        at_s=max(0.0, envelope.time - start),
        by="owner" if record.channel in OWNER_CHANNELS else "bridge",
        index=envelope.index,
        seen=envelope.seen,
        type=envelope.type,
        summary=summary(record.body),
        withheld=is_withheld(record.body),
        quiet=isinstance(record.body, _QUIET),
    )
