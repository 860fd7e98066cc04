from __future__ import annotations

from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod.runner.stats import HOUR_S, LastHour, RunnerStats


def figures(hour: LastHour, now: float) -> tuple[int, int, float]:
    stats = hour.snapshot(now, in_flight=0, queued=0, capacity=1)
    return stats.completed_last_hour, stats.failed_last_hour, stats.mean_call_duration_s


def test_nothing_has_happened_yet() -> None:
    stats = LastHour().snapshot(0.0, in_flight=2, queued=3, capacity=5)
    assert stats == RunnerStats(2, 3, 5, 0, 0, 0.0)


def test_a_call_counts_for_exactly_an_hour_from_its_end() -> None:
    hour = LastHour()
    hour.add("a", ended_at=100.0, duration_s=10.0, failed=False)
    hour.add("b", ended_at=200.0, duration_s=30.0, failed=True)
    assert figures(hour, 200.0) == (1, 1, 20.0)
    assert figures(hour, 100.0 + HOUR_S - 0.001) == (1, 1, 20.0)
    assert figures(hour, 100.0 + HOUR_S) == (0, 1, 30.0)
    assert figures(hour, 200.0 + HOUR_S) == (0, 0, 0.0)
    assert len(hour) == 0


def test_one_call_counts_once() -> None:
    hour = LastHour()
    assert hour.add("a", ended_at=1.0, duration_s=10.0, failed=False)
    assert not hour.add("a", ended_at=2.0, duration_s=99.0, failed=True)
    assert figures(hour, 3.0) == (1, 0, 10.0)


def test_what_is_over_is_not_kept() -> None:
    hour = LastHour()
    for n in range(10_000):
        hour.add(str(n), ended_at=float(n * 10), duration_s=1.0, failed=False)
        assert len(hour) <= HOUR_S / 10


@given(
    st.lists(
        st.tuples(st.floats(0, 3 * HOUR_S), st.sampled_from("abcdefgh"), st.floats(0, 900), st.booleans()), max_size=60
    ),
    st.floats(0, HOUR_S),
)
def test_it_says_what_a_list_of_all_calls_says(calls: list[tuple[float, str, float, bool]], later: float) -> None:
    hour, counted = LastHour(), list[tuple[float, str, float, bool]]()
    for call in sorted(calls):
        ended_at, session, duration_s, failed = call
        recent = {other[1] for other in counted if ended_at - other[0] < HOUR_S}
        assert hour.add(session, ended_at=ended_at, duration_s=duration_s, failed=failed) == (session not in recent)
        if session not in recent:
            counted.append(call)
    now = max((call[0] for call in calls), default=0.0) + later
    within = [call for call in counted if now - call[0] < HOUR_S]
    completed, failed_count, mean = figures(hour, now)
    assert (completed, failed_count) == (sum(not c[3] for c in within), sum(c[3] for c in within))
    assert mean == pytest.approx(fsum(c[2] for c in within) / len(within) if within else 0.0)
