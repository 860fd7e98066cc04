"""In which order calls begin of which a former owner may have died, and what their bridges hear of it."""

from __future__ import annotations

import pytest

from unpod.core.dispatch_messages import PROBATION_S, ProbationPhase, Start, Suspicion
from unpod.runner.probation import FIRST_S, NEXT_S, HeldCall, Probation
from unpod.testing import VirtualClock
from unpod.testing.clock import settle


class Door:
    """A probation, and what was said and done in which order."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.happened: list[str] = []
        self.probation = Probation(self.clock, self._tell)

    def _tell(self, start: Start, phase: ProbationPhase) -> None:
        self.happened.append(f"{start.session} {phase}")

    def join(self, session: str, silent_s: float = 0.0, *, alone: bool = False) -> HeldCall:
        suspicion = Suspicion(silent_s=silent_s, alone=alone)
        start = Start(job="j", agent="a", session=session, epoch=1, until_seq=1, held=True, suspicion=suspicion)
        return self.probation.join(start, lambda: self.happened.append(session))

    async def since(self, seconds: float = 0.0) -> list[str]:
        """What happens within some seconds from now."""
        await self.clock.advance(seconds)
        await settle()
        happened, self.happened = self.happened, []
        return happened


@pytest.fixture
async def door() -> Door:
    return Door()


async def test_that_one_begins_is_said_before_it_does(door: Door) -> None:
    door.join("a")
    assert door.happened == ["a begun"]
    assert await door.since() == ["a begun", "a"]


async def test_the_next_begins_as_soon_as_one_has_passed_and_that_is_said_before(door: Door) -> None:
    first = door.join("first")
    second = door.join("old", 9.0)
    door.join("new", 0.1)
    assert await door.since() == ["first begun", "first"]
    first.passed(spoken=False)
    assert await door.since() == ["first over", "new begun", "new"]
    second.leave()  # it has another owner: nobody waits for it
    assert await door.since() == []


async def test_what_is_heard_anyway_is_not_said(door: Door) -> None:
    first = door.join("first")
    door.join("second")
    await door.since()
    first.passed(spoken=True)
    first.passed(spoken=False)
    assert await door.since() == ["second begun", "second"]


async def test_the_first_is_alone_for_longest_and_the_others_follow(door: Door) -> None:
    door.join("first")
    door.join("second", 1.0)
    door.join("third", 2.0)
    assert await door.since(FIRST_S - 0.01) == ["first begun", "first"]
    assert await door.since(0.02) == ["second begun", "second"]
    assert await door.since(NEXT_S) == ["third begun", "third"]
    assert await door.since(PROBATION_S) == ["first over", "second over", "third over"]
    door.join("later")
    door.join("after it", 1.0)
    assert await door.since(FIRST_S - 0.01) == ["later begun", "later"]


async def test_one_that_is_to_be_alone_comes_last_and_is(door: Door) -> None:
    door.join("first")
    alone = door.join("alone", alone=True)
    other = door.join("other", 60.0)
    assert await door.since(FIRST_S) == ["first begun", "first", "other begun", "other"]
    other.passed(spoken=True)
    assert await door.since(PROBATION_S - FIRST_S - 0.01) == []
    assert await door.since(0.02) == ["first over", "alone begun", "alone"]
    door.join("third")
    assert await door.since(PROBATION_S - 0.1) == []
    alone.passed(spoken=True)
    assert await door.since() == ["third begun", "third"]


async def test_two_that_are_to_be_alone_follow_each_other(door: Door) -> None:
    door.join("a", alone=True)
    door.join("b", alone=True)
    assert await door.since(PROBATION_S - 0.01) == ["a begun", "a"]
    assert await door.since(0.02) == ["a over", "b begun", "b"]  # so that only b is to blame from here on


async def test_one_that_leaves_while_it_runs_makes_way(door: Door) -> None:
    first = door.join("first")
    door.join("second")
    await door.since()
    first.leave()
    assert await door.since() == ["second begun", "second"]
