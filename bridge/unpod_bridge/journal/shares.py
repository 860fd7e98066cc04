"""How the calls of a bridge share the log: one call's flood, or one agent's, must not be the end of others. Pure.

A call may have written as much as an eighth of what is free, and is ended if it then writes on: the fuller the log, the
less of it a flood may hold; a call that says little never comes near that. Where nothing is left to share, nobody is
ended for it, since that frees nothing: the log itself refuses who writes. An agent may have written as much within the
hour as is free, or new calls of its are refused: it would fill the log within the next one. That counts only where
other agents are served, too: an agent that is alone takes room from nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final, Protocol

CALLS: Final = 8
"""How many calls that write all that they may would fill what is free."""
FULL: Final = 64 * 1024
"""With less than this many bytes free, the log is as good as full."""
SLOT_S: Final = 300.0
SLOTS: Final = 12


class Sharer(Protocol):
    """A call that takes room in the log."""

    @property
    def agent_id(self) -> str:
        """Whose call it is."""
        ...

    @property
    def volume(self) -> int:
        """How much was written of it by now, in bytes, about."""
        ...

    def overrun(self) -> None:
        """End it: it has written more than it may."""
        ...


class Shares:
    """What the calls of one bridge have written; `look` is called now and then."""

    def __init__(self) -> None:
        self._seen: dict[Sharer, int] = {}
        self._hours: dict[str, deque[list[float]]] = {}
        self._now = 0.0
        self._free = inf
        self._bridges = 1
        self._shared = False

    def enter(self, call: Sharer) -> None:
        """A call is stored here from now on."""
        self._seen[call] = 0

    def leave(self, call: Sharer) -> None:
        """It is not any more."""
        seen = self._seen.pop(call, None)
        if seen is not None:
            self._count(call.agent_id, call.volume - seen)

    def look(self, free: float, now: float, *, agents: int, bridges: int) -> None:
        """Count what was written since, and end what has written too much.

        `free` is the log's room in bytes, `agents` are those that are served here, `bridges` those that serve them.
        """
        self._free, self._now, self._bridges, self._shared = free, now, bridges, agents > 1
        for call, seen in tuple(self._seen.items()):
            volume = call.volume
            self._seen[call] = volume
            self._count(call.agent_id, volume - seen)
            if volume > seen and volume * CALLS > free > FULL:
                call.overrun()
        for agent, slots in tuple(self._hours.items()):
            while slots and slots[0][0] < now - SLOT_S * SLOTS:
                slots.popleft()
            if not slots:
                del self._hours[agent]

    def is_over(self, agent: str) -> bool:
        """Whether an agent has written more than its share, so that new calls of its are refused."""
        return self._shared and self._left(agent) <= 0.0

    def room(self) -> dict[str, float]:
        """Return what is left of the share of each agent, or of one of its calls, whichever is less: 1.0 to 0.0."""
        rooms = {agent: max(self._left(agent), 0.0) if self._shared else 1.0 for agent in self._hours}
        for agent, left in self._calls():
            rooms[agent] = min(rooms.get(agent, 1.0), max(left, 0.0))
        return rooms

    def _calls(self) -> Iterator[tuple[str, float]]:
        for call, volume in self._seen.items():
            yield call.agent_id, 1.0 - volume * CALLS / self._free if self._free else 0.0

    def _left(self, agent: str) -> float:
        written = sum(size for _, size in self._hours.get(agent, ())) * self._bridges
        return 1.0 - written / self._free if self._free else 0.0

    def _count(self, agent: str, size: int) -> None:
        if size <= 0:
            return
        slots = self._hours.setdefault(agent, deque())
        if not slots or self._now - slots[-1][0] >= SLOT_S:
            slots.append([self._now, 0])
        slots[-1][1] += size
