"""A short soak: row 53 of faults.md. `make soak` does it with thousands of calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.soak import soak, table

ROUGHLY = 0.15
"""So few calls say little of memory; objects, tasks and sockets they do count."""

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]


async def test_hundreds_of_calls_leave_nothing_behind(tmp_path: Path) -> None:
    soaked = await soak(600, 200, 24, tmp_path, grows=ROUGHLY)
    assert not soaked.wrong, table(soaked)
