"""How many calls a runner takes, and how fast. Pure: `now` is an argument, in seconds of any steady clock.

A place goes through `offered` (we have answered `taken`, and wait for the bridge's word), `held` (the bridge dials on
our promise) and `running`. All three count: there are never more than `limit`. A place whose bridge has fallen silent
is forgotten, after a second where it was offered, after `HELD_S` where it was held.

Permits are a token bucket: it is full at the start, holds `per_minute` permits (so that many calls may come at once),
and refills evenly. A permit is spent when the bridge confirms the place. Until then it is set aside *inside* the
bucket, so in any span of time no more are spent than the bucket holds plus what flows in during it. `per_minute` None
is no limit, 0 lets nothing through.
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
PlaceState = Literal["offered", "held", "running"]


class Permits:
    """A token bucket in which permits can be set aside before they are spent."""

    def __init__(self, per_minute: float | None, now: float) -> None:
        self._rate = None if per_minute is None else per_minute / 60
        self._size = 0.0 if not per_minute else max(1.0, per_minute)
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
    state: PlaceState
    until: float
    permit: bool
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A place whose bridge has fallen silent."""

    job: str
    state: PlaceState


class Capacity:
    """The places of one runner, by job."""

    def __init__(self, limit: int, per_minute: float | None, now: float) -> None:
        self.limit = limit
        self._permits = Permits(per_minute, now)
        self._places: dict[str, _Place] = {}
        self._finished: OrderedDict[str, int] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def taken(self) -> int:
        """How many places are offered, held or running."""
        return len(self._places)

    @property
    def running(self) -> int:
        """How many places have a call."""
        return sum(place.state == "running" for place in self._places.values())

    def room(self, now: float) -> bool:
        """Whether a new call could be taken now."""
        return len(self._places) < self.limit and self._permits.available(now)

    def next_change_in(self, now: float) -> float | None:
        """Return the seconds until time alone changes something: a place is forgotten, a permit flows in; else None."""
        waits = [place.until - now for place in self._places.values() if place.state != "running"]
        if len(self._places) < self.limit and (permit := self._permits.available_in(now)):
            waits.append(permit)
        return max(0.0, min(waits)) if waits else None

    # ---------------------------------------------------------------------------------------------- what is asked of it

    def offer(self, job: str, now: float, *, resume: bool = False) -> Offered:
        """Answer a job, and keep a place for it if the answer is `taken`.

        A job that is offered again before it is confirmed keeps its place. One that runs here is `full`: another runner
        may take it over. A call that another runner had (`resume`) needs no permit.
        """
        place = self._places.get(job)
        if place is not None:
            if place.state == "running":
                return "full"
            place.until = max(place.until, now + OFFERED_S)
            return "taken"
        if len(self._places) >= self.limit:
            return "full"
        if not resume and not self._permits.set_aside(now):
            return "rate_limited"
        self._places[job] = _Place("offered", now + OFFERED_S, permit=not resume)
        return "taken"

    def hold(self, job: str, now: float) -> bool:
        """Keep the place until the call is up; return False where there is none."""
        place = self._places.get(job)
        if place is None:
            return False
        if place.state != "running":
            place.state = "held"
            place.until = now + HELD_S
            self._spend(place, now)
        return True

    def start(self, job: str, epoch: int, now: float) -> Started:
        """Turn the place into a call: `begin` once, `again` where that has happened, `unknown` without a place."""
        place = self._places.get(job)
        if place is None:
            return "again" if self._finished.get(job) == epoch else "unknown"
        if place.state == "running":
            return "again" if place.epoch == epoch else "unknown"
        self._spend(place, now)
        place.state, place.epoch = "running", epoch
        return "begin"

    def release(self, job: str) -> bool:
        """Give a place back that has no call; return False where there is none."""
        place = self._places.get(job)
        if place is None or place.state == "running":
            return False
        self._drop(job)
        return True

    def finish(self, job: str) -> None:
        """Free the place of a call that is over."""
        place = self._places.pop(job)
        self._finished[job] = place.epoch
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    def forget(self, now: float) -> list[Forgotten]:
        """Free the places whose bridge has fallen silent, and return them."""
        late = [job for job, place in self._places.items() if place.state != "running" and place.until <= now]
        return [Forgotten(job, self._drop(job)) for job in late]

    def forget_all(self) -> list[Forgotten]:
        """Free all places that have no call yet, and return them."""
        waiting = [job for job, place in self._places.items() if place.state != "running"]
        return [Forgotten(job, self._drop(job)) for job in waiting]

    def _drop(self, job: str) -> PlaceState:
        place = self._places.pop(job)
        if place.permit:
            self._permits.put_back()
        return place.state

    def _spend(self, place: _Place, now: float) -> None:
        if place.permit:
            place.permit = False
            self._permits.spend(now)
