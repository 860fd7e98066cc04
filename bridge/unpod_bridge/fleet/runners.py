"""Which runners there are, and what is to be registered for them. Pure: `now` is an argument, in seconds.

A runner is there while it announces itself; silent for 3 s, or found to be dead, it is forgotten. Each pool (an
agent id, dev or not) that has a runner which takes calls is registered as one worker, with this bridge's share of what
they add up to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from unpod.core.dispatch_messages import RunnerAnnounced
from unpod_bridge.wire.control_frames import Reason

SILENT_S = 3.0
"""How long a runner may be silent."""
STABLE_S = 5.0
"""How long a changed capacity must stay the same before it is registered."""


class Pool(NamedTuple):
    """The runners of one agent that serve production, or development."""

    agent: str
    dev: bool = False

    @property
    def name(self) -> str:
        """The agent id, `@dev` appended for dev."""
        return f"{self.agent}@dev" if self.dev else self.agent


@dataclass(frozen=True, slots=True)
class Standing:
    """What the runners of a pool amount to.

    The places that a draining runner still fills count as capacity, since its calls count as active jobs: what is left
    between the two numbers is the room. `held_back` are those of the serving that have room, and no permit for a call.
    """

    capacity: int = 0
    serving: int = 0
    draining: int = 0
    held_back: int = 0

    @property
    def closed_for(self) -> Reason:
        """Why a job is refused without asking anybody, or where nobody hears the question."""
        if self.draining and not self.serving:
            return "draining"
        return "rate_limited" if self.held_back else "at_capacity"


def share(standing: Standing, bridge: str, others: Iterable[str]) -> Standing:
    """Return what of a pool's capacity a bridge registers, so that all that take calls register all of it together.

    What cannot be divided goes to the first by name: each bridge arrives at the same division by itself.
    """
    bridges = sorted({bridge, *others})
    each, left = divmod(standing.capacity, len(bridges))
    return replace(standing, capacity=each + (bridges.index(bridge) < left))


@dataclass(frozen=True, slots=True)
class _Heard:
    said: RunnerAnnounced
    at: float


class Fleet:
    """The runners that announce themselves."""

    def __init__(self) -> None:
        self._runners: dict[str, _Heard] = {}

    def hear(self, said: RunnerAnnounced, now: float) -> bool:
        """Take an announcement; return whether it changes anything."""
        before = self._runners.pop(said.runner, None)
        self._runners[said.runner] = _Heard(said, now)
        return before is None or before.said != said

    def dead(self, runner: str) -> bool:
        """Nobody is where a runner was; return whether that is new."""
        return self._runners.pop(runner, None) is not None

    def expire(self, now: float) -> list[str]:
        """Forget the runners that are silent; return their ids."""
        silent = [runner for runner, heard in self._runners.items() if now - heard.at >= SILENT_S]
        for runner in silent:
            del self._runners[runner]
        return silent

    def excuse(self, now: float) -> None:
        """Nobody could be heard until now: all have as long again as one who has just spoken."""
        self._runners = {runner: replace(heard, at=now) for runner, heard in self._runners.items()}

    def standings(self) -> dict[Pool, Standing]:
        """Return what each pool amounts to."""
        found: dict[Pool, Standing] = {}
        for heard in self._runners.values():
            said = heard.said
            pool = Pool(said.agent, said.dev)
            sum_ = found.get(pool, Standing())
            if said.draining:
                filled = max(min(said.in_flight, said.capacity), 0)
                found[pool] = replace(sum_, capacity=sum_.capacity + filled, draining=sum_.draining + 1)
            else:
                found[pool] = replace(
                    sum_,
                    capacity=sum_.capacity + max(said.capacity, 0),
                    serving=sum_.serving + 1,
                    held_back=sum_.held_back + said.held_back,
                )
        return found


# --------------------------------------------------------------------------------------------------- what to register


@dataclass(frozen=True, slots=True)
class Join:
    """Register a worker for the pool, or keep the one whose leaving has not come to its end."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class Renew:
    """Register the pool's worker again: its capacity has changed, and stayed so."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class Unregister:
    """Nobody serves the pool: end its registration once its calls are over."""

    pool: Pool


Step = Join | Renew | Unregister


@dataclass(slots=True)
class _Entry:
    registered: int
    wanted: int
    since: float
    leaving: bool = False


@dataclass(slots=True)
class Roster:
    """What is registered, and what has to change about it."""

    _entries: dict[Pool, _Entry] = field(default_factory=dict)

    def update(self, standings: Mapping[Pool, Standing], now: float) -> list[Step]:
        """Return what is to be done, given how the pools stand now."""
        steps: list[Step] = []
        for pool in self._entries.keys() | standings.keys():
            step = self._step(pool, standings.get(pool, Standing()), now)
            if step is not None:
                steps.append(step)
        return steps

    def _step(self, pool: Pool, standing: Standing, now: float) -> Step | None:
        entry = self._entries.get(pool)
        if not standing.serving:
            if entry is None or entry.leaving:
                return None
            entry.leaving = True
            return Unregister(pool)
        if entry is None:
            self._entries[pool] = _Entry(standing.capacity, standing.capacity, now)
            return Join(pool)
        if standing.capacity != entry.wanted:
            entry.wanted, entry.since = standing.capacity, now
        if entry.leaving:
            entry.leaving = False
            return Join(pool)
        if entry.wanted != entry.registered and now - entry.since >= STABLE_S:
            entry.registered = entry.wanted
            return Renew(pool)
        return None

    def gone(self, pool: Pool) -> None:
        """The pool's registration has ended."""
        self._entries.pop(pool, None)
