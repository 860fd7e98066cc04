from __future__ import annotations

from unpod.core.dispatch_messages import BridgeAnnounced, QueuedAnnounced, Refusal, RunnerAnnounced
from unpod_consumers.projections.fleet import AnnouncedFleet
from unpod_consumers.projections.series import NANO


def figures(fleet: AnnouncedFleet, now: float) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        instrument.name: {tuple(value for _, value in attributes): point.total / NANO for attributes, point in points}
        for instrument, points in fleet.rows(now)
        if points
    }


def test_each_runner_s_room_is_shown_and_what_waits_is_counted_once() -> None:
    fleet = AnnouncedFleet()
    for runner, dev in (("r1", False), ("r2", False), ("r3", True)):
        # What waits at the bridges each of an agent's runners hears, and repeats.
        fleet.heard(RunnerAnnounced(runner=runner, agent="a", capacity=10, in_flight=4, queued=3, dev=dev), 0.0)
    fleet.heard(RunnerAnnounced(runner="r2", agent="a", capacity=10, in_flight=5, draining=True), 1.0)
    fleet.heard_queued(QueuedAnnounced(bridge="b1", agent="a", count=2), 1.0)
    fleet.heard_queued(QueuedAnnounced(bridge="b2", agent="a", count=1), 1.0)
    assert figures(fleet, 1.0) == {
        "unpod.runner.capacity": {("a", "r1"): 10, ("a", "r2"): 10, ("a@dev", "r3"): 10},
        "unpod.runner.in_flight": {("a", "r1"): 4, ("a", "r2"): 5, ("a@dev", "r3"): 4},
        "unpod.runner.draining": {("a", "r1"): 0, ("a", "r2"): 1, ("a@dev", "r3"): 0},
        "unpod.runner.queued": {("a",): 3, ("a@dev",): 0},
    }


def test_what_waits_is_shown_where_no_runner_is_left() -> None:
    fleet = AnnouncedFleet()
    fleet.heard_queued(QueuedAnnounced(bridge="b", agent="a", count=2), 0.0)
    assert figures(fleet, 0.0) == {"unpod.runner.queued": {("a",): 2}}


def test_who_says_that_it_is_gone_or_falls_silent_is_not_shown() -> None:
    fleet = AnnouncedFleet()
    fleet.heard(RunnerAnnounced(runner="gone", agent="a", capacity=1), 0.0)
    fleet.heard(RunnerAnnounced(runner="killed", agent="a", capacity=1), 0.0)
    fleet.heard_queued(QueuedAnnounced(bridge="killed", agent="a", count=2), 0.0)
    fleet.heard(RunnerAnnounced(runner="gone", agent="a", capacity=1, gone=True), 1.0)
    assert list(figures(fleet, 1.0)["unpod.runner.capacity"]) == [("a", "killed")]
    assert figures(fleet, 5.5) == {}


def test_what_bridges_refuse_is_counted_by_its_true_reason_through_their_restarts() -> None:
    fleet = AnnouncedFleet()

    def says(bridge: str, refused: dict[Refusal, int], now: float) -> None:
        fleet.heard_bridge(BridgeAnnounced(bridge=bridge, agents={"a": "registered"}, refused={"a": refused}), now)

    says("b1", {}, 0.0)
    assert set(figures(fleet, 0.0)["unpod.jobs.refused"].values()) == {0}  # it begins before the first
    says("b1", {"jobs_full": 2}, 1.0)
    says("b2", {"jobs_full": 3, "metadata": 1}, 1.0)
    says("b1", {"jobs_full": 2}, 30.0)  # it was silent meanwhile
    says("b2", {"jobs_full": 1}, 30.0)  # it has registered anew
    counted = figures(fleet, 30.0)["unpod.jobs.refused"]
    assert {labels: count for labels, count in counted.items() if count} == {
        ("a", "jobs_full"): 6,
        ("a", "metadata"): 1,
    }


def test_the_room_of_the_job_store_is_shown() -> None:
    fleet = AnnouncedFleet()
    fleet.heard_bridge(BridgeAnnounced(bridge="b1", jobs_room=0.5, log_behind=1), 0.0)
    fleet.heard_bridge(BridgeAnnounced(bridge="b2", jobs_room=0.25, log_behind=0), 0.0)
    assert figures(fleet, 0.0) == {"unpod.jobs.room": {(): 0.25}, "unpod.log.behind": {(): 1}}


def test_the_room_of_the_log_and_of_each_agent_s_share_is_shown_as_the_tightest_bridge_knows_it() -> None:
    fleet = AnnouncedFleet()
    fleet.heard_bridge(BridgeAnnounced(bridge="b1", log_room=0.5, agent_rooms={"a": 0.75, "b": 1.0}), 0.0)
    fleet.heard_bridge(BridgeAnnounced(bridge="b2", log_room=0.25, agent_rooms={"a": 0.125}), 1.0)
    fleet.heard_bridge(BridgeAnnounced(bridge="of an older release"), 1.0)
    assert figures(fleet, 1.0) == {"unpod.log.room": {(): 0.25, ("a",): 0.125, ("b",): 1.0}}
    assert figures(fleet, 5.5) == {"unpod.log.room": {(): 0.25, ("a",): 0.125}}
    fleet.heard_bridge(BridgeAnnounced(bridge="b2", gone=True), 5.5)
    assert figures(fleet, 5.5) == {}
