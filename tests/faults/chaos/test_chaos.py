"""A seeded minute of the nemesis; `make chaos` does the same for as long as you like, and with everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.chaos.plan import Strength
from tests.faults.chaos.play import Options, play
from tests.faults.chaos.run import report

SEED = 7
HELD = frozenset({"kill-runner", "kill-bridge", "kill-nats", "drop", "slow"})
"""What is promised to be survived at any moment."""

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_a_minute_of_chaos_leaves_every_call_whole(tmp_path: Path) -> None:
    strength = Strength(runners=3, bridges=2, at_once=1, only=HELD)
    outcome = await play(Options(seed=SEED, minutes=0.75, callers=12, strength=strength), tmp_path)
    if outcome.findings:
        pytest.fail(report(outcome), pytrace=False)
