"""How many calls a runner takes, and how fast. Pure: `now` is an argument, in seconds of any steady clock.

A place goes through `offered` (we have answered `taken`, and wait for the bridge's word), `held` (the bridge dials on
our promise) and `running`. All three count: there are never more than `limit`. A place whose bridge has fallen silent
is forgotten, after a second where it was offered, after `HELD_S` where it was held.

Permits are a token bucket: it is full at the start, holds `per_minute` permits, or as many as there are places where
those are more (so a runner that was idle may be filled at once), and refills evenly. A permit is spent when the bridge
confirms the place. Until then it is set aside *inside* the bucket, so in any span of time no more are spent than the
bucket holds plus what flows in during it. `per_minute` None is no limit, 0 lets nothing through.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

OFFERED_S: Final = 1.0
"""How long a bridge may take to confirm an answer."""
HELD_S: Final = 60.0
"""How long a bridge may take to bring a call up: three dials and a handshake are under 30 s."""

_REMEMBERED: Final = 1024
_CLOSE_TO_ONE: Final = 1.0 - 1e-9  # refilling in small steps adds up to a hair less

Offered = Literal["taken", "full", "rate_limited"]
Started = Literal["begin", "again", "unknown"]


class Permits:
    """A token bucket in which permits can be set aside before they are spent; `burst` is what it holds at least."""

    def __init__(self, per_minute: float | None, now: float, burst: int = 1) -> None:
        self._rate = None if per_minute is None else per_minute / 60
        self._size = 0.0 if not per_minute else max(1.0, per_minute, burst)
        self._level = self._size
        self._aside = 0
        self._at = now

    def available(self, now: float) -> bool:
        """Whether a permit could be set aside now."""
        if self._rate is None:
            return True
        self._refill(now)
        return self._level - self._aside >= _CLOSE_TO_ONE

    def set_aside(self, now: float) -> bool:
        """Set one permit aside, if there is one."""
        if not self.available(now):
            return False
        self._aside += 1
        return True

    def spend(self, now: float) -> None:
        """Spend a permit that was set aside."""
        self._aside -= 1
        if self._rate is not None:
            self._refill(now)
            self._level -= 1

    def put_back(self) -> None:
        """Put a permit back that was set aside."""
        self._aside -= 1

    def available_in(self, now: float) -> float | None:
        """Return the seconds until a permit can be set aside: 0.0 for now, None where time alone will not help."""
        if self.available(now):
            return 0.0
        if not self._rate or self._aside + 1 > self._size:
            return None
        return (self._aside + 1 - self._level) / self._rate

    def _refill(self, now: float) -> None:
        if self._rate is not None and now > self._at:
            self._level = min(self._size, self._level + (now - self._at) * self._rate)
            self._at = now


@dataclass(slots=True)
class _Place:
    """A place without a call yet; `permit` is set aside for it and not spent."""

    until: float
    permit: bool
    held: bool = False


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A place without a call that was freed; `held` where a bridge had been promised it."""

    job: str
    held: bool


class Capacity:
    """The places of one runner, by job. What it costs goes by the places without a call, not by the calls."""

    def __init__(self, limit: int, per_minute: float | None, now: float) -> None:
        self.limit = limit
        self._permits = Permits(per_minute, now, limit)
        self._waiting: dict[str, _Place] = {}
        self._running: dict[str, int] = {}
        self._finished: OrderedDict[str, int] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def taken(self) -> int:
        """How many places are offered, held or running."""
        running, waiting = self._running.keys(), self._waiting.keys()
        return len(running) + len(waiting) - len(running & waiting)

    @property
    def running(self) -> int:
        """How many places have a call."""
        return len(self._running)

    @property
    def has_place(self) -> bool:
        """Whether there is a place for one more call."""
        return self.taken < self.limit

    def room(self, now: float) -> bool:
        """Whether a new call could be taken now."""
        return self.has_place and self._permits.available(now)

    def held_back(self, now: float) -> bool:
        """Whether a new call would have a place, and no permit."""
        return self.has_place and not self._permits.available(now)

    def next_change_in(self, now: float) -> float | None:
        """Return the seconds until time alone changes something: a place is forgotten, a permit flows in; else None."""
        waits = [place.until - now for place in self._waiting.values()]
        if self.taken < self.limit and (permit := self._permits.available_in(now)):
            waits.append(permit)
        return max(0.0, min(waits)) if waits else None

    # ---------------------------------------------------------------------------------------------- what is asked of it

    def offer(self, job: str, now: float, *, resume: bool = False) -> Offered:
        """Answer a job, and keep a place for it if the answer is `taken`.

        A job that is offered again before it is confirmed keeps its place. One that runs here is `full`, unless it is
        to be taken over (`resume`): the call may come back here, into the place that it has. That needs no permit.
        """
        place = self._waiting.get(job)
        if place is not None:
            place.until = max(place.until, now + OFFERED_S)
            return "taken"
        if job in self._running:
            if not resume:
                return "full"
        elif not self.has_place:
            return "full"
        if not resume and not self._permits.set_aside(now):
            return "rate_limited"
        self._waiting[job] = _Place(now + OFFERED_S, permit=not resume)
        return "taken"

    def hold(self, job: str, now: float) -> bool:
        """Keep the place until the call is up; return False where there is none."""
        place = self._waiting.get(job)
        if place is None:
            return job in self._running
        place.held = True
        place.until = now + HELD_S
        self._spend(place, now)
        return True

    def start(self, job: str, epoch: int, now: float) -> Started:
        """Turn the place into a call: `begin` once, `again` where that has happened, `unknown` without a place.

        A call that runs here under an older epoch makes way for the new one.
        """
        if epoch in {self._running.get(job), self._finished.get(job)}:
            return "again"
        place = self._waiting.pop(job, None)
        if place is None:
            return "unknown"
        self._spend(place, now)
        self._running[job] = epoch
        return "begin"

    def release(self, job: str) -> bool:
        """Give a place back that has no call; return False where there is none."""
        if job not in self._waiting:
            return False
        self._drop(job)
        return True

    def finish(self, job: str, epoch: int) -> None:
        """Free the place of a call that is over; one that has made way for another of its job has none."""
        if self._running.get(job) != epoch:
            return
        self._finished[job] = self._running.pop(job)
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    def forget(self, now: float) -> list[Forgotten]:
        """Free the places whose bridge has fallen silent, and return them."""
        return [self._drop(job) for job, place in tuple(self._waiting.items()) if place.until <= now]

    def forget_all(self) -> list[Forgotten]:
        """Free all places that have no call yet, and return them."""
        return [self._drop(job) for job in tuple(self._waiting)]

    def _drop(self, job: str) -> Forgotten:
        place = self._waiting.pop(job)
        if place.permit:
            self._permits.put_back()
        return Forgotten(job, place.held)

    def _spend(self, place: _Place, now: float) -> None:
        if place.permit:
            place.permit = False
            self._permits.spend(now)
