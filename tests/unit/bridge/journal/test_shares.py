from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unpod_bridge.journal.shares import CALLS, FULL, SLOT_S, SLOTS, Shares

MIB = 1024 * 1024
HOUR_S = SLOT_S * SLOTS


@dataclass(eq=False)
class Call:
    agent_id: str = "a"
    volume: int = 0
    over: bool = False
    shares: Shares | None = field(default=None, repr=False)

    def overrun(self) -> None:
        self.over = True
        if self.shares is not None:
            self.shares.leave(self)


def entered(shares: Shares, *calls: Call) -> None:
    for call in calls:
        call.shares = shares
        shares.enter(call)


def test_a_call_may_hold_an_eighth_of_what_is_free() -> None:
    shares, small, large = Shares(), Call(), Call()
    entered(shares, small, large)
    small.volume, large.volume = MIB, 2 * MIB
    shares.look(16 * MIB, 0.0, agents=1, bridges=1)
    assert not large.over
    assert shares.room() == {"a": 0.0}
    shares.look(15 * MIB, 1.0, agents=1, bridges=1)
    assert not large.over, "it is silent: others have filled the log"
    large.volume += 1
    shares.look(15 * MIB, 2.0, agents=1, bridges=1)
    assert (small.over, large.over) == (False, True)
    assert shares.room() == {"a": 1 - 8 / 15}


def test_in_a_full_log_nobody_is_ended_for_what_there_is_not() -> None:
    shares, call = Shares(), Call()
    entered(shares, call)
    for free in (FULL, 0):
        call.volume += 100_000
        shares.look(free, 0.0, agents=1, bridges=1)
        assert not call.over


def test_an_agent_may_write_within_the_hour_what_is_free_where_there_are_others() -> None:
    shares, call = Shares(), Call()
    entered(shares, call, Call("b"))
    call.volume = 3 * MIB
    shares.look(40 * MIB, 0.0, agents=2, bridges=1)
    for n in range(1, 13):
        entered(shares, short := Call(volume=3 * MIB))
        shares.look((40 - 3 * n) * MIB, float(n), agents=2, bridges=1)
        shares.leave(short)
    assert shares.is_over("a")
    assert not shares.is_over("b")
    assert shares.room()["a"] == 0.0
    shares.look(100 * MIB, HOUR_S, agents=1, bridges=1)
    assert not shares.is_over("a")  # nobody else is there
    shares.look(100 * MIB, HOUR_S, agents=2, bridges=4)
    assert shares.is_over("a")  # four bridges write as much
    shares.look(100 * MIB, HOUR_S + 2 * SLOT_S, agents=2, bridges=4)
    assert not shares.is_over("a")  # it is an hour ago


def test_a_log_without_a_bound_has_room_for_all() -> None:
    shares, call = Shares(), Call()
    entered(shares, call)
    call.volume = 10_000 * MIB
    shares.look(float("inf"), 0.0, agents=2, bridges=1)
    assert not call.over
    assert not shares.is_over("a")
    assert shares.room() == {"a": 1.0}


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.sampled_from([512, 8192]), st.floats(0.1, 1.0))
@example(183, 512, 1.0)
def test_calls_that_say_little_outlive_any_number_of_floods(flooders: int, mib: int, share: float) -> None:
    """Whatever so many calls pour in, each is ended before those that say little have no room."""
    shares, quiet = Shares(), Call("b", volume=20_000)
    floods = [Call() for _ in range(flooders)]
    entered(shares, quiet, *floods)
    bound = free = float(mib * MIB)
    per_look = int(bound / 8_192 * share)
    while not all(flood.over for flood in floods):
        for flood in floods:
            flood.volume += 0 if flood.over else per_look
        free = bound - quiet.volume - sum(flood.volume for flood in floods)
        shares.look(free, 0.0, agents=2, bridges=1)
    assert not quiet.over
    assert free > bound / (1 + flooders / CALLS) - flooders * per_look - quiet.volume > 100 * quiet.volume
