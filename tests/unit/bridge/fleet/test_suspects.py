"""Orphans of several bridges that come to one runner: who is known to be on probation there."""

from __future__ import annotations

import pytest

from unpod.core.dispatch_messages import PROBATION_S, ProbationAnnounced, ProbationPhase, ProbationTold
from unpod.testing import VirtualClock
from unpod_bridge.fleet.suspects import Suspects


class Bridges:
    """Two bridges that hear each other, unless the line is cut."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.cut = False
        self.a = Suspects(self.clock, "a", self._carry)
        self.b = Suspects(self.clock, "b", self._carry)
        self.a.accompanied = self.b.accompanied = lambda: True

    def _carry(self, said: ProbationAnnounced) -> None:
        if not self.cut:
            self.a.hear(said)  # one hears itself as well
            self.b.hear(said)

    def counts(self) -> tuple[int, int]:
        return self.a.count("r"), self.b.count("r")


@pytest.fixture
async def bridges() -> Bridges:
    return Bridges()


def told(session: str, phase: ProbationPhase, *, epoch: int = 1, runner: str = "r") -> ProbationTold:
    return ProbationTold(runner=runner, session=session, epoch=epoch, phase=phase)


async def test_one_is_on_probation_from_its_beginning_to_when_it_has_passed(bridges: Bridges) -> None:
    held = bridges.a.hold("r", "s", 1)
    assert (held.phase, bridges.counts()) == ("held", (0, 0))
    bridges.a.told(told("s", "begun"))
    assert (held.phase, bridges.counts()) == ("begun", (1, 1))
    bridges.a.told(told("s", "begun"))
    bridges.a.told(told("s", "over"))
    assert (held.phase, bridges.counts()) == ("over", (0, 0))
    bridges.a.end(held)
    bridges.a.told(told("s", "begun"))
    assert bridges.counts() == (0, 0)


async def test_it_ends_by_itself(bridges: Bridges) -> None:
    held = bridges.b.hold("r", "s", 1)
    bridges.b.told(told("s", "begun"))
    bridges.cut = True
    await bridges.clock.advance(PROBATION_S + 0.01)
    assert (held.phase, bridges.counts()) == ("over", (0, 0))


async def test_what_is_said_of_another_owner_does_not_count(bridges: Bridges) -> None:
    held = bridges.a.hold("r", "s", 5)
    bridges.a.told(told("s", "begun", epoch=4))
    bridges.a.told(told("s", "begun", epoch=5, runner="another"))
    bridges.a.told(told("another", "begun", epoch=5))
    assert (held.phase, bridges.counts()) == ("held", (0, 0))
    newer = bridges.a.hold("r", "s", 6)
    bridges.a.end(held)
    bridges.a.told(told("s", "begun", epoch=6))
    assert (newer.phase, bridges.counts()) == ("begun", (1, 1))


async def test_those_of_several_bridges_are_counted_by_each(bridges: Bridges) -> None:
    for bridge, session in ((bridges.a, "s"), (bridges.b, "t")):
        bridge.hold("r", session, 1)
        bridge.told(told(session, "begun"))
    assert bridges.counts() == (2, 2)
    bridges.b.told(told("t", "over"))
    assert bridges.counts() == (1, 1)


async def test_what_a_bridge_has_said_that_is_gone_does_not_count(bridges: Bridges) -> None:
    for runner in ("r", "another"):
        bridges.a.hear(ProbationAnnounced(bridge="dead", runner=runner, session="x", phase="begun"))
    assert bridges.a.count("r") == bridges.a.count("another") == 1
    bridges.a.departed("dead")
    assert bridges.a.count("r") == bridges.a.count("another") == 0


async def test_a_bridge_that_is_alone_tells_nobody() -> None:
    said: list[ProbationAnnounced] = []
    suspects = Suspects(VirtualClock(), "a", said.append)
    held = suspects.hold("r", "s", 1)
    suspects.told(told("s", "begun"))
    assert suspects.count("r") == 1
    suspects.end(held)
    assert (suspects.count("r"), said) == (0, [])
