"""The benchmarks run and count what comes back; how fast it is, no test asks."""

from __future__ import annotations

import pytest
from tests.benchmarks import bar, turns

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def test_turns_are_asked_answered_and_counted() -> None:
    said: list[str] = []
    found = await turns.measure((2,), rounds=1, round_s=0.05, tell=said.append)
    measured = {(row["system"], row["sync"], row["manner"], row["pieces"]) for row in found["rows"]}
    variants = (("direct", "1s"), ("unpod", "1s"), ("unpod", "always"))
    assert measured == {(*variant, *row) for variant in variants for row in turns.PLAN}
    for row in found["rows"]:
        assert (row["asked"], row["wrong"]) == (row["answered"], 0)
        assert row["asked"] > 0
        assert turns.cpu(row) > 0
    assert not bar.missing({"turns": found})
    assert len(said) == 2
