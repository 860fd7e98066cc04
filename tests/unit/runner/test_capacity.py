from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod.runner.capacity import HELD_S, OFFERED_S, Capacity, Permits

JOBS = [f"job-{n}" for n in range(6)]


def test_a_place_goes_from_offer_to_call_and_is_free_again() -> None:
    capacity = Capacity(1, None, 0.0)
    assert capacity.offer("a", 0.0) == "taken"
    assert capacity.offer("b", 0.0) == "full"
    assert capacity.hold("a", 0.5)
    assert capacity.start("a", 7, 20.0) == "begin"
    assert (capacity.taken, capacity.running) == (1, 1)
    capacity.finish("a", 7)
    assert capacity.offer("b", 21.0) == "taken"


def test_a_start_is_begun_once_and_known_after_the_call() -> None:
    capacity = Capacity(1, None, 0.0)
    capacity.offer("a", 0.0)
    assert capacity.start("a", 7, 0.1) == "begin"
    assert capacity.start("a", 7, 0.2) == "again"
    assert capacity.start("a", 9, 0.2) == "unknown"
    capacity.finish("a", 7)
    assert capacity.taken == 0
    assert capacity.start("a", 7, 0.3) == "again"
    assert capacity.start("a", 9, 0.3) == "unknown"


def test_without_a_place_there_is_no_hold_no_start_and_no_release() -> None:
    capacity = Capacity(1, None, 0.0)
    assert not capacity.hold("a", 0.0)
    assert capacity.start("a", 1, 0.0) == "unknown"
    assert not capacity.release("a")


def test_a_running_call_is_not_released_and_not_offered_again() -> None:
    capacity = Capacity(2, None, 0.0)
    capacity.offer("a", 0.0)
    capacity.start("a", 1, 0.0)
    assert not capacity.release("a")
    assert capacity.offer("a", 0.0) == "full"
    assert capacity.hold("a", 0.0)
    assert capacity.running == 1


def test_what_is_not_confirmed_is_forgotten_after_a_second() -> None:
    capacity = Capacity(1, None, 0.0)
    capacity.offer("a", 0.0)
    assert capacity.next_change_in(0.25) == OFFERED_S - 0.25
    assert capacity.forget(OFFERED_S - 0.01) == []
    assert [place.job for place in capacity.forget(OFFERED_S)] == ["a"]
    assert not capacity.hold("a", OFFERED_S)


def test_a_job_that_is_offered_again_keeps_its_place() -> None:
    capacity = Capacity(1, 1, 0.0)
    assert capacity.offer("a", 0.0) == "taken"
    assert capacity.offer("a", 0.9) == "taken"
    assert capacity.forget(1.5) == []
    assert capacity.taken == 1


def test_a_held_place_whose_bridge_falls_silent_is_freed_in_the_end() -> None:
    capacity = Capacity(1, None, 0.0)
    capacity.offer("a", 0.0)
    capacity.hold("a", 0.5)
    assert capacity.forget(HELD_S) == []
    forgotten = capacity.forget(HELD_S + 0.5)
    assert [(place.job, place.held) for place in forgotten] == [("a", True)]


def test_a_drain_that_is_out_of_time_frees_all_but_the_calls() -> None:
    capacity = Capacity(3, None, 0.0)
    for job in ("a", "b", "c"):
        capacity.offer(job, 0.0)
    capacity.hold("b", 0.0)
    capacity.start("c", 1, 0.0)
    assert {place.job for place in capacity.forget_all()} == {"a", "b"}
    assert capacity.taken == 1


@pytest.mark.parametrize(("limit", "per_minute", "answer"), [(0, None, "full"), (5, 0, "rate_limited")])
def test_nothing_is_taken_with_a_capacity_or_permits_of_0(limit: int, per_minute: float | None, answer: str) -> None:
    capacity = Capacity(limit, per_minute, 0.0)
    assert not capacity.room(0.0)
    assert capacity.offer("a", 0.0) == answer
    assert not capacity.room(1e6)
    assert capacity.next_change_in(0.0) is None


def test_a_bucket_starts_full_and_refills_evenly() -> None:
    permits = Permits(60, 0.0)
    for _ in range(60):
        assert permits.set_aside(0.0)
        permits.spend(0.0)
    assert not permits.available(0.0)
    assert permits.available_in(0.25) == pytest.approx(0.75)
    assert permits.available(1.0)
    permits.set_aside(1.0)
    permits.spend(1.0)
    assert not permits.available(1.5)
    assert sum(permits.set_aside(1e6) for _ in range(100)) == 60


def test_a_permit_that_was_not_needed_comes_back() -> None:
    capacity = Capacity(1, 1, 0.0)
    assert capacity.offer("a", 0.0) == "taken"
    capacity.release("a")
    assert capacity.offer("b", 0.0) == "taken"
    capacity.hold("b", 0.0)
    capacity.release("b")  # the call failed, but it was put through
    assert capacity.offer("c", 0.0) == "rate_limited"


@given(limit=st.integers(1, 300), per_minute=st.integers(1, 300))
def test_a_runner_that_was_idle_may_be_filled_at_once(limit: int, per_minute: int) -> None:
    capacity = Capacity(limit, per_minute, 0.0)
    for number in range(limit):
        assert capacity.offer(f"{number}", 0.0) == "taken"
        assert capacity.start(f"{number}", 1, 0.0) == "begin"
    assert not capacity.held_back(0.0)  # it is full: no permit would help
    for number in range(limit):
        capacity.finish(f"{number}", 1)
    left = sum(capacity.offer(f"{limit + number}", 0.0) == "taken" for number in range(limit))
    assert left == min(limit, max(0, per_minute - limit))  # new calls are limited, whatever became of the others
    assert capacity.held_back(0.0) == (left < limit)


def test_a_call_that_another_runner_had_needs_no_permit() -> None:
    capacity = Capacity(1, 0, 0.0)
    assert capacity.offer("a", 0.0, resume=True) == "taken"
    assert capacity.start("a", 1, 0.0) == "begin"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "resume", "hold", "start", "release", "finish", "forget"]),
        st.sampled_from(JOBS),
        st.floats(0, 2, allow_nan=False) | st.just(70.0),
    ),
    max_size=80,
)


@given(limit=st.integers(0, 4), per_minute=st.none() | st.integers(0, 240), steps=STEPS)
def test_the_limit_is_never_exceeded_whatever_comes(
    limit: int, per_minute: int | None, steps: list[tuple[str, str, float]]
) -> None:
    capacity = Capacity(limit, per_minute, 0.0)
    now, running = 0.0, set()
    for what, job, passed in steps:
        now += passed
        had_room = capacity.room(now)
        match what:
            case "offer" | "resume":
                known = {place.job for place in capacity.forget(now)}
                answer = capacity.offer(job, now, resume=what == "resume")
                assert answer != "taken" or limit > 0
                assert job in known or not had_room or answer != "rate_limited"
            case "hold":
                capacity.hold(job, now)
            case "start":
                if capacity.start(job, 1, now) == "begin":
                    assert job not in running
                    running.add(job)
            case "release":
                capacity.release(job)
            case "finish" if job in running:
                running.remove(job)
                capacity.finish(job, 1)
            case _:
                capacity.forget(now)
        assert capacity.taken <= limit
        assert capacity.running == len(running)
    capacity.forget(now + 1e6)
    assert capacity.taken == len(running)


@given(
    per_minute=st.sampled_from([0.5, 1, 7, 60, 120]),
    steps=st.lists(
        st.tuples(st.sampled_from(["aside", "spend", "back"]), st.floats(0, 5, allow_nan=False)), max_size=200
    ),
)
def test_no_span_of_time_sees_more_calls_than_the_bucket_and_what_flows_in(
    per_minute: float, steps: list[tuple[str, float]]
) -> None:
    permits, size = Permits(per_minute, 0.0), max(1.0, per_minute)
    now, aside, spent = 0.0, 0, deque[float]()
    for what, passed in steps:
        now += passed
        if what == "aside":
            aside += permits.set_aside(now)
        elif aside:
            aside -= 1
            if what == "spend":
                permits.spend(now)
                spent.append(now)
            else:
                permits.put_back()
    for first, since in enumerate(spent):
        for last in range(first, len(spent)):
            assert last - first + 1 <= size + (spent[last] - since) * per_minute / 60 + 1e-6


@given(per_minute=st.floats(0.1, 600), taken=st.integers(0, 50), passed=st.floats(0, 100))
def test_the_time_until_a_permit_comes_is_told_exactly(per_minute: float, taken: int, passed: float) -> None:
    permits = Permits(per_minute, 0.0)
    for _ in range(taken):
        if permits.set_aside(0.0):
            permits.spend(0.0)
    wait = permits.available_in(passed)
    assert wait is not None
    assert permits.available(passed + wait)
    assert wait == 0.0 or wait <= 60 / per_minute + 1e-6
