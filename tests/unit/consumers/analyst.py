"""What an analyst reads: the rows of all files below a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from msgspec.structs import replace

from unpod_consumers.projections.tables import TABLES, Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unpod.ports import Message

KEYS = {"calls": ("session_id",), "turns": ("session_id", "turn"), "tools": ("session_id", "number")}


def rows(directory: Path, table: Table) -> list[dict[str, Any]]:
    """Return a table's rows in the order of their key, each with its day."""
    found = [
        {"day": path.parent.name.removeprefix("day="), **row}
        for path in (directory / table).glob("day=*/*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    return sorted(found, key=lambda row: [str(row[name]) for name in KEYS[table]])


def everything(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all rows by table."""
    return {table: rows(directory, table) for table in TABLES}


def stored(
    messages: Sequence[Message], *, apart_ns: int = 1_000_000, start_s: float = 1_700_000_000.0
) -> list[Message]:
    """Return messages as a log would give them: with sequences, and times that are a millisecond apart."""
    begin = round(start_s * 1e9)
    return [replace(one, seq=seq, time_ns=begin + seq * 1_000_000) for seq, one in enumerate(messages, 1)]
