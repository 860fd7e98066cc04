from __future__ import annotations

import pytest

from unpod.core.dispatch_messages import BridgeAnnounced, QueuedAnnounced, Registration
from unpod.runner.bridges import BRIDGE_SILENT_S, QUEUED_SILENT_S, KnownBridges


def said(bridge: str, registration: Registration, *, agent: str = "a", gone: bool = False) -> BridgeAnnounced:
    return BridgeAnnounced(bridge=bridge, agents={agent: registration}, gone=gone)


def standing(bridges: KnownBridges, now: float) -> str | None:
    found = bridges.standing(now)
    return None if found is None else found.registration


def test_the_best_that_any_bridge_says_counts() -> None:
    bridges = KnownBridges("a")
    assert standing(bridges, 0.0) is None
    for number, (registration, best) in enumerate(
        [
            ("unreachable", "unreachable"),
            ("refused", "refused"),
            ("connecting", "connecting"),
            ("registered", "registered"),
            ("too_old", "registered"),
        ]
    ):
        bridges.heard(said(f"b{number}", registration), 0.0)  # type: ignore[arg-type]  # each is a Registration
        assert standing(bridges, 0.0) == best


@pytest.mark.parametrize("agent", ["b", "a@dev", ""])
def test_what_is_said_of_other_agents_is_nothing_to_us(agent: str) -> None:
    bridges = KnownBridges("a")
    bridges.heard(said("b1", "refused", agent=agent), 0.0)
    assert standing(bridges, 0.0) is None


def test_a_bridge_that_is_gone_silent_or_without_the_agent_is_forgotten() -> None:
    bridges = KnownBridges("a")
    bridges.heard(said("b1", "registered"), 0.0)
    bridges.heard(said("b1", "registered", gone=True), 1.0)
    assert standing(bridges, 1.0) is None
    bridges.heard(said("b1", "registered"), 2.0)
    bridges.heard(BridgeAnnounced(bridge="b1"), 2.5)
    assert standing(bridges, 2.5) is None
    bridges.heard(said("b1", "registered"), 3.0)
    assert standing(bridges, 3.0 + BRIDGE_SILENT_S - 0.01) == "registered"
    assert standing(bridges, 3.0 + BRIDGE_SILENT_S) is None


def test_what_waits_is_added_up_and_forgotten_with_its_bridge() -> None:
    bridges = KnownBridges("a")
    bridges.heard_queued(QueuedAnnounced(bridge="b1", agent="a", count=2), 0.0)
    bridges.heard_queued(QueuedAnnounced(bridge="b2", agent="a", count=3), 1.0)
    assert bridges.queued(1.0) == 5
    bridges.heard_queued(QueuedAnnounced(bridge="b1", agent="a", count=1), 2.0)
    assert bridges.queued(2.0) == 4
    assert bridges.queued(1.0 + QUEUED_SILENT_S) == 1
    bridges.heard_queued(QueuedAnnounced(bridge="b1", agent="a", count=0), 4.5)
    assert bridges.queued(4.5) == 0
    bridges.heard_queued(QueuedAnnounced(bridge="b1", agent="a", count=1), 5.0)
    bridges.heard(said("b1", "registered", gone=True), 5.0)
    assert bridges.queued(5.0) == 0
