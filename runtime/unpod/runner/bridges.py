"""What the bridges say, as one runner sees it. Pure: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from unpod.core.dispatch_messages import BridgeAnnounced, QueuedAnnounced, Registration

BRIDGE_SILENT_S: Final = 5.0
"""A bridge that has not been heard for so long counts as gone; it announces itself each second."""
QUEUED_SILENT_S: Final = 3.0
"""A count of waiting jobs that has not been repeated for so long is forgotten; it is said each second."""

# An agent's registration is the best that any bridge reports. `connecting` comes before a refusal: it may yet succeed.
_BEST_FIRST: Final[tuple[Registration, ...]] = ("registered", "connecting", "refused", "too_old", "unreachable")


@dataclass(frozen=True, slots=True)
class RegistrationStatus:
    """How the registration of an agent stands with the orchestrator; `detail` is for people."""

    registration: Registration
    detail: str = ""


class KnownBridges:
    """The bridges that one agent's runner hears of; `agent_key` is the agent's id, with `@dev` for dev runners."""

    def __init__(self, agent_key: str) -> None:
        self._key = agent_key
        self._standings: dict[str, tuple[RegistrationStatus, float]] = {}
        self._queued: dict[str, tuple[int, float]] = {}

    def heard(self, said: BridgeAnnounced, now: float) -> None:
        """Take in what a bridge says of itself."""
        if said.gone:
            self._standings.pop(said.bridge, None)
            self._queued.pop(said.bridge, None)
        elif said.agents.get(self._key) is None:
            self._standings.pop(said.bridge, None)
        else:
            self._standings[said.bridge] = RegistrationStatus(said.agents[self._key], said.detail), now

    def heard_queued(self, said: QueuedAnnounced, now: float) -> None:
        """Take in how many jobs wait at a bridge."""
        if said.count > 0:
            self._queued[said.bridge] = said.count, now
        else:
            self._queued.pop(said.bridge, None)

    def queued(self, now: float) -> int:
        """Return how many jobs wait for a runner of the agent, at all bridges."""
        self._queued = {bridge: said for bridge, said in self._queued.items() if now - said[1] < QUEUED_SILENT_S}
        return sum(count for count, _ in self._queued.values())

    def standing(self, now: float) -> RegistrationStatus | None:
        """Return the best standing that a live bridge reports, or None where none reports any."""
        self._standings = {name: said for name, said in self._standings.items() if now - said[1] < BRIDGE_SILENT_S}
        standings = [standing for standing, _ in self._standings.values()]
        return min(standings, key=lambda standing: _BEST_FIRST.index(standing.registration), default=None)
