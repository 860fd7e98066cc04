"""What a runner counts: the calls of the last hour.

A call is counted when it is over, once, under its session's id; one that never started is not counted. The hour is
rolling and exact: each call is kept until it is an hour old, and nothing older is.
"""

from __future__ import annotations

import heapq
from dataclasses import asdict, dataclass
from math import fsum
from typing import Final, NamedTuple

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """A snapshot of one runner.

    `queued` are dispatches that wait at the bridges for capacity or permits. `mean_call_duration_s` is that of the
    calls that are counted (completed and failed), 0.0 where there are none.
    """

    in_flight: int
    queued: int
    capacity: int
    completed_last_hour: int
    failed_last_hour: int
    mean_call_duration_s: float

    def model_dump(self) -> dict[str, object]:
        """Return the figures as a dict, as the pydantic model of the Unpod SDK does."""
        return asdict(self)


class _Finished(NamedTuple):
    ended_at: float
    session: str
    duration_s: float
    failed: bool


class LastHour:
    """The calls that ended within the last hour; times in seconds of whatever clock the caller goes by."""

    def __init__(self) -> None:
        self._finished: list[_Finished] = []  # a heap: the oldest first, in whatever order they come
        self._sessions: set[str] = set()

    def __len__(self) -> int:
        return len(self._finished)

    def add(self, session: str, *, ended_at: float, duration_s: float, failed: bool) -> bool:
        """Count a call; return False where it has been counted already."""
        self._prune(ended_at)
        if session in self._sessions:
            return False
        self._sessions.add(session)
        heapq.heappush(self._finished, _Finished(ended_at, session, duration_s, failed))
        return True

    def snapshot(self, now: float, *, in_flight: int, queued: int, capacity: int) -> RunnerStats:
        """Return the figures as of `now`, with those that others know."""
        self._prune(now)
        count = len(self._finished)
        failed = sum(call.failed for call in self._finished)
        mean = fsum(call.duration_s for call in self._finished) / count if count else 0.0
        return RunnerStats(in_flight, queued, capacity, count - failed, failed, mean)

    def _prune(self, now: float) -> None:
        while self._finished and now - self._finished[0].ended_at >= HOUR_S:
            self._sessions.discard(heapq.heappop(self._finished).session)
