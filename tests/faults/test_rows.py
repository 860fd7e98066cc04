"""A short seeded pass of every row of faults.md; `make faults` does the same with more calls, more often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.faults.rows import NOT_YET, NUMBERS, PLAYED, ROWS
from tests.faults.scene import SHORT, Row, play

SEED = int(os.environ.get("SEED", "1"))

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.mark.parametrize("row", [row for row in PLAYED if not row.slow], ids=lambda row: f"{row.key}-{row.name}")
async def test_row(row: Row, tmp_path: Path) -> None:
    result = await play(row, SEED, SHORT, tmp_path)
    if result.findings:
        pytest.fail(f"row {row.key}, {row.name}; again with `{result.again}`\n{result.findings}", pytrace=False)


def test_every_row_is_played_or_says_why_not() -> None:
    assert {row.number for row in ROWS} | {int(key.partition("-")[0]) for key in NOT_YET} == NUMBERS
    assert len({row.key for row in ROWS}) == len(ROWS)
