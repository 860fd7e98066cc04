"""Writes docs/reference/analytics.md from the tables that the analytics consumer fills.

::

    .venv/bin/python tests/docs/analytics.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unpod_consumers.projections.tables import TABLES, Kind, Table

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "analytics.md"

_HEAD: Final = """\
# Analytics tables

<!-- Written by `make docs` from consumers/unpod_consumers/projections/tables.py. -->

What `unpod consume analytics` writes: three tables below `--directory`, in Parquet (zstd), a folder for each day in
UTC, `turns/day=2026-01-31/part-5f0c1a2b-00000042.parquet`. A file never changes once it is there;
each row is in one file. [How to ask them things](../how-to/analyse-calls.md).

Columns are only ever added. Any of them may be null but those of the key.
"""
_ABOUT: Final[dict[Table, str]] = {
    "calls": """\
A row for each call, key `session_id`, by the day on which it began. It is there when the runner has
written its summary, or ten minutes after the call's end if none comes; a call whose log falls silent without an
end has its row after six hours. A session without `call.started` has no rows.""",
    "turns": """\
A row for each completed turn, key `session_id`, `turn`, by the day on which it ended. It comes with the call. A
turn that a takeover has made void has none; figures that came after the turn was complete fill what is missing.""",
    "tools": """\
A row for each tool call of the brain, key `session_id`, `number`, by the day on which it was called. Arguments and
results are not written.""",
}
_PARQUET: Final[dict[Kind, str]] = {
    "text": "string",
    "whole": "int64",
    "number": "double",
    "flag": "boolean",
    "time": "timestamp, microseconds, UTC",
}


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for table, columns in TABLES.items():
        rows = [f"| `{each.name}` | {_PARQUET[each.kind]} | {each.meaning} |" for each in columns]
        parts.append(
            "\n".join([f"## `{table}`", "", _ABOUT[table], "", "| column | type | |", "| --- | --- | --- |", *rows])
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
