from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.faults.chaos.plan import BRIDGE, NATS, ROUTE, RUNNER, Strength, chosen, names, plan

SECONDS = 120.0


@given(st.integers(0, 10_000), st.sampled_from((1, 3)), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
@example(371, 1, 2)
def test_somebody_is_always_left_alone(seed: int, nodes: int, at_once: int) -> None:
    strength = Strength(nodes=nodes, at_once=at_once)
    faults = plan(seed, SECONDS, strength)
    assert faults == plan(seed, SECONDS, strength)
    for fault in faults:
        assert fault.at_s + fault.lasts_s <= SECONDS
        going_on = [
            other for other in faults if other.at_s <= fault.at_s and round(other.at_s + other.lasts_s, 2) >= fault.at_s
        ]
        assert len(going_on) <= at_once
        harmed = {(other.role, other.slot) for other in going_on}
        assert sum(role == RUNNER for role, _ in harmed) < strength.runners
        assert sum(role == BRIDGE for role, _ in harmed) < strength.bridges
        assert len({slot for role, slot in harmed if role in (NATS, ROUTE)}) <= 1


def test_one_can_choose_what_is_done() -> None:
    assert {fault.name for fault in plan(1, 600.0, Strength(only=frozenset({"kill-bridge", "drop"})))} == {
        "kill-bridge",
        "drop-call",
        "drop-control",
    }
    assert {fault.name for fault in plan(1, 6_000.0, Strength(nodes=3))} == set(names(3))
    with pytest.raises(ValueError, match="no such fault: kil"):
        chosen(["kil"], 1)
