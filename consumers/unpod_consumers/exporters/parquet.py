"""Parquet files, one for each table and day of a batch of rows. A file is there whole or not at all.

A file's name is that of its content: written again after a crash it is the same file. `run` tells the batches of one
checkpoint from those of another, so that two of them never mix in one directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from unpod.errors import ConfigurationError
from unpod_consumers.projections.tables import TABLES, Column, Kind, Row, Table, Value

_TYPES: Final[dict[Kind, pa.DataType]] = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
_NAME: Final = re.compile(r"part-([0-9a-f]+)-[0-9]+\.parquet\Z")
_LAST_TIME: Final = 253_402_300_800.0
"""The first second of the year 10,000, which no calendar here knows."""


def schema(table: Table) -> pa.Schema:
    """Return a table's columns; the day is in its folder's name."""
    return pa.schema([pa.field(each.name, _TYPES[each.kind]) for each in TABLES[table]])


class ParquetFiles:
    """The files below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def claim(self, run: str) -> None:
        """Make sure that the directory can be written, and has files of no other run; remove what was half written.

        Raises:
            ConfigurationError: it cannot be used; the text says what to do.
        """
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                _sync(self.directory.resolve().parent)
            for table in TABLES:
                for path in (self.directory / table).glob("day=*/*"):
                    named = _NAME.match(path.name)
                    if named and named[1] != run:
                        raise ConfigurationError(
                            f"{self.directory} has the files of another run ({path.name}), and rows would be there "
                            "twice: give an empty one with --directory"
                        )
                    if path.name.startswith(".part-"):
                        path.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"{self.directory} cannot be used ({error.strerror}): give another with --directory"
            ) from None

    def write(self, run: str, number: int, table: Table, day: str, rows: Sequence[Row]) -> None:
        """Write a file, unless it is there; when this returns it is on the disk.

        Raises:
            OSError: it cannot be written now; nothing of it is left.
        """
        folder = self.directory / table / f"day={day}"
        path = folder / f"part-{run}-{number:08d}.parquet"
        if not path.exists():
            self._write(folder, path, table, rows)
        for each in (folder, folder.parent, self.directory):  # a process that was killed may not have come so far
            _sync(each)

    @staticmethod
    def _write(folder: Path, path: Path, table: Table, rows: Sequence[Row]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{path.stem}.tmp"  # no pattern for Parquet files finds it
        try:
            with part.open("wb") as file:
                pq.write_table(_table(table, rows), file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def _table(table: Table, rows: Sequence[Row]) -> pa.Table:
    columns = [[_stored(column, row.get(column.name)) for row in rows] for column in TABLES[table]]
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, schema(table), strict=True)],
        schema=schema(table),
    )


def _stored(column: Column, value: Value) -> Value:
    """Return a value as Arrow takes it: times as whole microseconds."""
    if column.kind != "time" or not isinstance(value, float):
        return value
    return round(value * 1e6) if 0 <= value < _LAST_TIME else None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
