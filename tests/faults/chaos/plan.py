"""What the nemesis will do, and when: a plan that follows from its seed alone. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

RUNNER, BRIDGE, NATS, ROUTE, CALL, CONTROL = "runner", "bridge", "nats", "route", "call", "control"

KINDS: Final[dict[str, tuple[tuple[str, ...], tuple[float, float], int]]] = {
    "kill": ((RUNNER, BRIDGE, NATS), (0.2, 3.0), 4),
    "stop": ((RUNNER, BRIDGE, NATS), (0.8, 4.0), 4),
    "cut": ((RUNNER, BRIDGE, ROUTE), (0.0, 0.0), 3),
    "away": ((RUNNER, BRIDGE, ROUTE), (0.3, 3.0), 2),
    "silent": ((RUNNER, BRIDGE, ROUTE), (0.5, 4.0), 2),
    "oneway": ((RUNNER, BRIDGE, ROUTE), (0.5, 4.0), 2),
    "slow": ((RUNNER, BRIDGE, ROUTE), (1.0, 5.0), 2),
    "trickle": ((RUNNER, BRIDGE, ROUTE), (1.0, 3.0), 1),
    "drop": ((CALL, CONTROL), (0.0, 0.0), 4),
}
"""Each kind of fault: whom it hits, for how long, and how often beside the others.

`kill`, `stop`: SIGKILL, and a new process after a while; SIGSTOP for a while. The rest is done to a link, of a process
to NATS or between two nodes: `cut` breaks it, `away` lets nothing new through for a while after that, `silent` and
`oneway` hold back what is sent, both ways or one, `slow` takes 200 ms, `trickle` lets few bytes through. `drop`: a
call's or a worker's socket is cut.
"""

RECOVERS_S: Final = {RUNNER: 1.5, BRIDGE: 4.0, NATS: 1.5, ROUTE: 1.5, CALL: 0.0, CONTROL: 1.5}
ELECTION_S: Final = 10.0
"""A node of three that was killed or stopped may have led: the others choose anew, and it has to catch up."""
FIRST_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How hard it is tried: how many of each there are, how many faults may overlap, and how far apart they begin."""

    runners: int = 4
    bridges: int = 3
    nodes: int = 1
    at_once: int = 3
    apart_s: tuple[float, float] = (0.3, 2.5)
    only: frozenset[str] = frozenset()

    def slots(self, role: str) -> int:
        """Return how many there are of whom a fault can hit."""
        return {RUNNER: self.runners, BRIDGE: self.bridges, NATS: self.nodes, ROUTE: self.nodes}.get(role, 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to be done, `at_s` after the beginning. `slot` counts the processes of a role; `luck` is in [0, 1)."""

    at_s: float
    kind: str
    role: str
    slot: int
    lasts_s: float
    luck: float

    @property
    def name(self) -> str:
        """What `only` picks it by: its kind, or kind and role."""
        return f"{self.kind}-{self.role}"


def names(nodes: int) -> list[str]:
    """Return all that can be done where there are so many NATS nodes."""
    return [f"{kind}-{role}" for kind, (roles, _, _) in KINDS.items() for role in roles if role != ROUTE or nodes > 1]


def chosen(only: Collection[str], nodes: int) -> list[str]:
    """Return what `only` picks, by kind or by name; everything where it is empty.

    Raises:
        ValueError: there is no such kind.
    """
    known = names(nodes)
    unknown = [word for word in only if not any(word in (name, name.partition("-")[0]) for name in names(3))]
    if unknown:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join((*KINDS, *known))}")
    return [name for name in known if not only or name in only or name.partition("-")[0] in only]


def plan(seed: int, seconds: float, strength: Strength) -> list[Fault]:
    """Return the faults of a run, in order; the last one is over when the time is.

    One runner and one bridge at least are left alone at any time, and of three nodes two: what cannot go on is no test.
    """
    rng = random.Random(f"chaos:{seed}")  # noqa: S311 - a schedule that can be run again
    free_at: dict[tuple[str, int], float] = {}
    running: list[float] = []
    faults: list[Fault] = []
    wanted = chosen(strength.only, strength.nodes)
    weights = [KINDS[name.partition("-")[0]][2] for name in wanted]
    at = FIRST_S
    while wanted and at < seconds:
        (name,) = rng.choices(wanted, weights)
        kind, _, role = name.partition("-")
        lasts, luck, pick = round(rng.uniform(*KINDS[kind][1]), 2), rng.random(), rng.random()
        running = [end for end in running if end >= at]
        whose = NATS if role == ROUTE else role  # a node without its routes is as good as none
        free = [slot for slot in range(strength.slots(role)) if free_at.get((whose, slot), 0.0) <= at]
        if _may(role, free, strength) and len(running) < strength.at_once and at + lasts <= seconds:
            slot = free[int(pick * len(free))]
            faults.append(Fault(at, kind, role, slot, lasts, luck))
            recovers = ELECTION_S if whose == NATS and strength.nodes > 1 else RECOVERS_S[role]
            free_at[whose, slot] = at + lasts + recovers
            running.append(round(at + lasts + (recovers if strength.at_once == 1 else 0.0), 2))
        at = round(at + rng.uniform(*strength.apart_s), 2)
    return faults


def _may(role: str, free: list[int], strength: Strength) -> bool:
    """Whether one of those that are free may be harmed."""
    if role in (RUNNER, BRIDGE):
        return len(free) > 1
    if role in (NATS, ROUTE):
        return len(free) == strength.slots(role)
    return bool(free)
