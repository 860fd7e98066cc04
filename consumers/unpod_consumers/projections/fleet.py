"""What runners and bridges say of themselves each second, as points. It is in no log, and only the newest counts."""

from __future__ import annotations

from typing import Final, TypeVar, get_args

from unpod.core.dispatch_messages import BridgeAnnounced, QueuedAnnounced, Refusal, RunnerAnnounced
from unpod_consumers.projections import instruments
from unpod_consumers.projections.instruments import FLEET, Instrument
from unpod_consumers.projections.series import NANO, Attributes, SeriesPoint

SILENT_S: Final = 5.0
"""A process that has not announced itself for so long is not shown."""
_MOST_COUNTED: Final = 10_000

Rows = tuple[tuple[Instrument, tuple[tuple[Attributes, SeriesPoint], ...]], ...]


_Process = TypeVar("_Process", RunnerAnnounced, BridgeAnnounced)


class AnnouncedFleet:
    """The newest announcement of each process; `now` is in seconds of any steady clock."""

    def __init__(self) -> None:
        self._runners: dict[str, tuple[float, RunnerAnnounced]] = {}
        self._bridges: dict[str, tuple[float, BridgeAnnounced]] = {}
        self._queued: dict[tuple[str, str], tuple[float, QueuedAnnounced]] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._counted: dict[tuple[str, str, str], int] = {}

    def heard(self, runner: RunnerAnnounced, now: float) -> None:
        """Take what a runner says."""
        self._runners[runner.runner] = now, runner

    def heard_bridge(self, bridge: BridgeAnnounced, now: float) -> None:
        """Take what a bridge says."""
        self._bridges[bridge.bridge] = now, bridge
        for agent in bridge.agents:
            said = bridge.refused.get(agent, {})
            for reason in get_args(Refusal):
                self._count(bridge.bridge, agent, reason, said.get(reason, 0))

    def _count(self, bridge: str, agent: str, reason: str, count: int) -> None:
        """Add what a bridge has counted since; one that has registered anew begins again."""
        before = self._counted.pop((bridge, agent, reason), 0)
        self._counted[bridge, agent, reason] = count
        known = self._refused.get((agent, reason), 0)
        self._refused[agent, reason] = known + (count - before if count >= before else count)
        if len(self._counted) > _MOST_COUNTED:
            del self._counted[next(iter(self._counted))]

    def heard_queued(self, queued: QueuedAnnounced, now: float) -> None:
        """Take what a bridge says of the calls that wait there."""
        self._queued[queued.bridge, queued.agent] = now, queued

    def rows(self, now: float) -> Rows:
        """Return the points as of now."""
        self._forget(now)
        points: dict[str, dict[Attributes, SeriesPoint]] = {instrument.name: {} for instrument in FLEET}
        for _, runner in self._runners.values():
            agent = _agent(f"{runner.agent}@dev" if runner.dev else runner.agent)
            labels = (agent, ("unpod.runner", runner.runner))
            for instrument, figure in (
                (instruments.CAPACITY, runner.capacity),
                (instruments.IN_FLIGHT, runner.in_flight),
                (instruments.DRAINING, int(runner.draining)),
            ):
                points[instrument.name][labels] = SeriesPoint(figure * NANO)
            points[instruments.QUEUED.name].setdefault((agent,), SeriesPoint())
        for _, queued in self._queued.values():
            waiting = points[instruments.QUEUED.name].setdefault((_agent(queued.agent),), SeriesPoint())
            waiting.total += queued.count * NANO
        points[instruments.LOG_ROOM.name] = self._rooms()
        free = [bridge.jobs_room for _, bridge in self._bridges.values() if bridge.jobs_room is not None]
        if free:
            points[instruments.JOBS_ROOM.name][()] = SeriesPoint(round(min(free) * NANO))
        behind = [bridge.log_behind for _, bridge in self._bridges.values() if bridge.log_behind is not None]
        if behind:
            points[instruments.LOG_BEHIND.name][()] = SeriesPoint(max(behind) * NANO)
        for (name, reason), count in self._refused.items():
            points[instruments.REFUSED.name][_agent(name), ("reason", reason)] = SeriesPoint(count * NANO)
        return tuple((one, tuple(sorted(points[one.name].items()))) for one in FLEET)

    def _rooms(self) -> dict[Attributes, SeriesPoint]:
        """Return what room the log has, without an agent's name, and what is left of each agent's share of it.

        Each bridge knows of its own calls: where several have an agent, the one counts that leaves it the least.
        """
        rooms: dict[Attributes, float] = {}
        for _, bridge in self._bridges.values():
            said: dict[Attributes, float] = {(_agent(agent),): room for agent, room in bridge.agent_rooms.items()}
            if bridge.log_room is not None:
                said[()] = bridge.log_room
            for labels, room in said.items():
                rooms[labels] = min(room, rooms.get(labels, room))
        return {labels: SeriesPoint(round(room * NANO)) for labels, room in rooms.items()}

    def _forget(self, now: float) -> None:
        _forget_gone(self._runners, now)
        _forget_gone(self._bridges, now)
        for key, (at, waiting) in tuple(self._queued.items()):
            if not waiting.count or now - at > SILENT_S:
                del self._queued[key]


def _forget_gone(known: dict[str, tuple[float, _Process]], now: float) -> None:
    for process, (at, said) in tuple(known.items()):
        if said.gone or now - at > SILENT_S:
            del known[process]


def _agent(agent: str) -> tuple[str, str]:
    return "gen_ai.agent.id", agent
