"""The agent's other runners, as far as they announce themselves: who could take our calls."""

from __future__ import annotations

from typing import Final

from unpod.core.dispatch_messages import RunnerAnnounced

SILENT_S: Final = 3.0
HEARD_S: Final = 1.5
"""Within so many seconds, all runners that there are have announced themselves (each does once a second)."""


class Peers:
    """The other runners of one agent key. Times in seconds of one clock."""

    def __init__(self, runner_id: str, agent_key: str) -> None:
        self._runner_id = runner_id
        self._agent_key = agent_key
        self._heard: dict[str, float] = {}
        self._listening_since: float | None = None

    def listens(self, now: float) -> None:
        """From now on announcements are heard."""
        self._listening_since = now

    def heard(self, said: RunnerAnnounced, now: float) -> None:
        """Take note of an announcement."""
        key = f"{said.agent}@dev" if said.dev else said.agent
        if said.runner == self._runner_id or key != self._agent_key:
            return
        if said.gone or said.draining or said.in_flight >= said.capacity:
            self._heard.pop(said.runner, None)
        else:
            self._heard[said.runner] = now

    def any_with_room(self, now: float) -> bool:
        """Whether another runner has room, as of the last 3 s."""
        self._heard = {runner: at for runner, at in self._heard.items() if now - at < SILENT_S}
        return bool(self._heard)

    def unheard_s(self, now: float) -> float:
        """Return for how many seconds more there may be others that we have not had time to hear."""
        return 0.0 if self._listening_since is None else max(0.0, self._listening_since + HEARD_S - now)
