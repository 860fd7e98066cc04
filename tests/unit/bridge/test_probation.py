"""Orphans of several bridges that come to one runner: in which order, and who is known to be there."""

from __future__ import annotations

import asyncio

import pytest

from unpod.core.fleet import ProbationAnnounced
from unpod.testing import VirtualClock
from unpod.testing.clock import settle
from unpod_bridge.probation import FIRST_S, FORGET_S, NEXT_S, PROBATION_S, SETTLE_S, Probation, Probations

Entering = asyncio.Task[Probation]


class Bridges:
    """Two bridges that hear each other, unless the line is cut."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.cut = False
        self.a = Probations(self.clock, "a", lambda said: self._carry(said, "b"))
        self.b = Probations(self.clock, "b", lambda said: self._carry(said, "a"))
        self.a.accompanied = self.b.accompanied = lambda: True

    def _carry(self, said: ProbationAnnounced, to: str) -> None:
        if not self.cut:
            asyncio.get_running_loop().call_soon({"a": self.a, "b": self.b}[to].hear, said)

    def enter(self, at: Probations, session: str, silent_s: float, *, alone: bool = False) -> Entering:
        return asyncio.create_task(at.enter("r", session, silent_s, alone=alone))

    def counts(self) -> tuple[int, int]:
        return self.a.count("r"), self.b.count("r")


@pytest.fixture
async def bridges() -> Bridges:
    return Bridges()


async def test_the_one_that_was_spoken_to_last_comes_first_whatever_its_bridge(bridges: Bridges) -> None:
    old = bridges.enter(bridges.a, "old", 9.0)
    new = bridges.enter(bridges.b, "new", 0.1)
    await settle()
    await bridges.clock.advance(SETTLE_S)
    assert (old.done(), new.done()) == (False, True)
    first = await new
    first.begin()
    await settle()
    assert bridges.counts() == (1, 1)
    await bridges.clock.advance(FIRST_S - 0.01)
    assert not old.done()
    await bridges.clock.advance(0.02)
    second = await old
    second.begin()
    await settle()
    assert bridges.counts() == (2, 2)
    await bridges.clock.advance(NEXT_S)
    first.end()
    second.end()
    await settle()
    assert bridges.counts() == (0, 0)


async def test_who_has_passed_lets_the_next_one_in(bridges: Bridges) -> None:
    first = bridges.enter(bridges.a, "new", 0.1)
    await bridges.clock.advance(SETTLE_S)
    later = bridges.enter(bridges.b, "old", 5.0)
    await settle()
    await bridges.clock.advance(SETTLE_S)
    assert not later.done()
    (await first).end()
    await settle()
    await later
    (await later).end()


async def test_one_that_is_to_be_alone_comes_last_and_is(bridges: Bridges) -> None:
    alone = bridges.enter(bridges.a, "alone", 0.0, alone=True)
    other = bridges.enter(bridges.b, "other", 60.0)
    await settle()
    await bridges.clock.advance(SETTLE_S)
    assert (alone.done(), other.done()) == (False, True)
    (await other).begin()
    await settle()
    await bridges.clock.advance(FIRST_S)
    assert not alone.done()
    await bridges.clock.advance(PROBATION_S)
    there = await alone
    there.begin()
    third = bridges.enter(bridges.b, "third", 0.0)
    await settle()
    await bridges.clock.advance(PROBATION_S - 0.1)
    assert not third.done()
    await bridges.clock.advance(0.2)
    (await third).end()
    await settle()
    assert bridges.counts() == (0, 0)


async def test_who_gives_up_waiting_is_out_of_the_way(bridges: Bridges) -> None:
    first = bridges.enter(bridges.a, "first", 0.0)
    await bridges.clock.advance(SETTLE_S)
    second, third = bridges.enter(bridges.b, "second", 1.0), bridges.enter(bridges.a, "third", 2.0)
    await settle()
    await bridges.clock.advance(SETTLE_S)
    second.cancel()
    await settle()
    (await first).end()
    await settle()
    (await third).end()


async def test_a_bridge_that_dies_in_the_middle_is_not_waited_for_for_ever(bridges: Bridges) -> None:
    for phase in ("wants", "entered", "begun", "lets_in"):
        bridges.a.hear(ProbationAnnounced(bridge="dead", runner="r", session=phase, phase=phase))
    assert bridges.a.count("r") == 3
    waiting = bridges.enter(bridges.a, "s", 1.0)
    await settle()
    await bridges.clock.advance(PROBATION_S)
    assert not waiting.done()
    await bridges.clock.advance(FORGET_S)
    (await waiting).end()
    assert bridges.a.count("r") == 0


async def test_what_a_bridge_has_said_that_is_gone_does_not_count(bridges: Bridges) -> None:
    bridges.a.hear(ProbationAnnounced(bridge="dead", runner="r", session="x", phase="entered"))
    bridges.a.hear(ProbationAnnounced(bridge="dead", runner="other", session="y", phase="wants"))
    waiting = bridges.enter(bridges.a, "s", 1.0)
    await settle()
    await bridges.clock.advance(SETTLE_S)
    assert not waiting.done()
    bridges.a.departed("dead")
    await settle()
    (await waiting).end()
    assert bridges.a.count("r") == 0


async def test_a_bridge_that_is_alone_waits_for_nobodys_word() -> None:
    probations = Probations(VirtualClock())
    probation = await probations.enter("r", "s", 0.0)
    assert probations.count("r") == 1
    probation.end()
    probation.begin()
    assert probations.count("r") == 0
