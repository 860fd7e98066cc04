"""Which runners there are, and what is registered for them."""

from __future__ import annotations

from msgspec.structs import replace

from unpod.core.dispatch_messages import RunnerAnnounced
from unpod_bridge.fleet.runners import Fleet, Join, Pool, Renew, Roster, Standing, Unregister, share

AGENT, DEV, OTHER = Pool("agent"), Pool("agent", dev=True), Pool("other")


def said(
    runner: str = "r1",
    agent: str = "agent",
    capacity: int = 10,
    *,
    in_flight: int = 0,
    dev: bool = False,
    draining: bool = False,
) -> RunnerAnnounced:
    return RunnerAnnounced(
        runner=runner, agent=agent, capacity=capacity, in_flight=in_flight, dev=dev, draining=draining
    )


def test_pools_are_told_apart_by_agent_and_dev() -> None:
    fleet = Fleet()
    fleet.hear(said("r1"), 0.0)
    fleet.hear(said("r2", capacity=5), 0.0)
    fleet.hear(said("r3", dev=True, capacity=1), 0.0)
    fleet.hear(said("r4", agent="other", capacity=0), 0.0)
    assert fleet.standings() == {
        AGENT: Standing(15, serving=2),
        DEV: Standing(1, serving=1),
        OTHER: Standing(0, serving=1),
    }
    assert (AGENT.name, DEV.name) == ("agent", "agent@dev")


def test_the_room_of_a_dead_runner_is_gone_at_once() -> None:
    fleet = Fleet()
    fleet.hear(said("r1"), 0.0)
    fleet.hear(said("r2", capacity=5), 0.0)
    assert fleet.dead("r1")
    assert not fleet.dead("r1")
    assert fleet.standings() == {AGENT: Standing(5, serving=1)}


def test_only_a_change_is_a_change() -> None:
    fleet = Fleet()
    assert fleet.hear(said(), 0.0)
    assert not fleet.hear(said(), 1.0)
    assert fleet.hear(said(in_flight=1), 2.0)


def test_a_silent_runner_is_forgotten_after_3_s() -> None:
    fleet = Fleet()
    fleet.hear(said("r1"), 0.0)
    fleet.hear(said("r2"), 1.0)
    assert fleet.expire(2.9) == []
    assert fleet.expire(3.0) == ["r1"]
    fleet.hear(said("r2"), 3.5)
    assert fleet.expire(4.0) == []
    assert fleet.standings() == {AGENT: Standing(10, serving=1)}


def test_the_places_that_a_draining_runner_fills_still_count() -> None:
    fleet = Fleet()
    fleet.hear(said("r1", in_flight=4, draining=True), 0.0)
    assert fleet.standings() == {AGENT: Standing(4, serving=0, draining=1)}
    assert fleet.standings()[AGENT].closed_for == "draining"
    fleet.hear(said("r2", capacity=6), 0.0)
    assert fleet.standings() == {AGENT: Standing(10, serving=1, draining=1)}
    assert fleet.standings()[AGENT].closed_for == "at_capacity"


def test_runners_with_room_and_no_permits_are_told_from_full_ones() -> None:
    fleet = Fleet()
    fleet.hear(said("r1", in_flight=10), 0.0)
    assert fleet.standings()[AGENT].closed_for == "at_capacity"
    fleet.hear(replace(said("r2"), held_back=True), 0.0)
    assert fleet.standings() == {AGENT: Standing(20, serving=2, held_back=1)}
    assert fleet.standings()[AGENT].closed_for == "rate_limited"


def test_numbers_that_make_no_sense() -> None:
    fleet = Fleet()
    fleet.hear(said("r1", capacity=-5), 0.0)
    fleet.hear(said("r2", capacity=3, in_flight=99, draining=True), 0.0)
    fleet.hear(said("r3", capacity=3, in_flight=-1, draining=True), 0.0)
    assert fleet.standings() == {AGENT: Standing(3, serving=1, draining=2)}


def test_the_first_registration_comes_at_once() -> None:
    roster = Roster()
    assert roster.update({AGENT: Standing(10, serving=1)}, 0.0) == [Join(AGENT)]
    assert roster.update({AGENT: Standing(10, serving=1)}, 1.0) == []


def test_a_runner_of_capacity_0_is_registered_too() -> None:
    assert Roster().update({AGENT: Standing(0, serving=1)}, 0.0) == [Join(AGENT)]


def test_a_changed_capacity_is_registered_when_it_has_been_stable_for_5_s() -> None:
    roster = Roster()
    roster.update({AGENT: Standing(10, serving=1)}, 0.0)
    assert roster.update({AGENT: Standing(20, serving=2)}, 1.0) == []
    assert roster.update({AGENT: Standing(30, serving=3)}, 4.0) == []
    assert roster.update({AGENT: Standing(30, serving=3)}, 8.9) == []
    assert roster.update({AGENT: Standing(30, serving=3)}, 9.0) == [Renew(AGENT)]
    assert roster.update({AGENT: Standing(30, serving=3)}, 30.0) == []


def test_a_capacity_that_comes_back_is_not_registered_again() -> None:
    roster = Roster()
    roster.update({AGENT: Standing(10, serving=1)}, 0.0)
    roster.update({AGENT: Standing(9, serving=1)}, 1.0)
    roster.update({AGENT: Standing(10, serving=1)}, 2.0)
    assert roster.update({AGENT: Standing(10, serving=1)}, 20.0) == []


def test_a_pool_without_runners_leaves_once_and_may_come_back_before_it_has_left() -> None:
    roster = Roster()
    roster.update({AGENT: Standing(10, serving=1)}, 0.0)
    assert roster.update({}, 1.0) == [Unregister(AGENT)]
    assert roster.update({}, 2.0) == []
    assert roster.update({AGENT: Standing(10, serving=1)}, 3.0) == [Join(AGENT)]
    assert roster.update({AGENT: Standing(4, draining=1)}, 4.0) == [Unregister(AGENT)]
    roster.gone(AGENT)
    assert roster.update({AGENT: Standing(4, draining=1)}, 5.0) == []
    assert roster.update({AGENT: Standing(10, serving=1)}, 6.0) == [Join(AGENT)]


def test_a_silence_that_nobody_could_have_heard_is_excused() -> None:
    fleet = Fleet()
    fleet.hear(said("r1"), 0.0)
    fleet.excuse(30.0)
    assert fleet.expire(32.9) == []
    assert fleet.expire(33.0) == ["r1"]


def test_bridges_register_all_of_a_pool_together() -> None:
    standing = Standing(11, serving=2, draining=1)
    names = ["b3", "b1", "b2"]
    shares = {name: share(standing, name, [other for other in names if other != name]) for name in names}
    assert {name: each.capacity for name, each in shares.items()} == {"b1": 4, "b2": 4, "b3": 3}
    assert all((each.serving, each.draining) == (2, 1) for each in shares.values())
    assert share(standing, "b1", []) == standing
    assert [share(Standing(1, serving=1), name, ["b1", "b2"]).capacity for name in ("b1", "b2")] == [1, 0]
