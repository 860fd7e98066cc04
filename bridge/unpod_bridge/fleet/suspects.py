"""Which sessions a runner may die of: if one of them kills it, the others must not be blamed for that.

A session whose former owner may have died of it is held at its new runner, which lets such sessions begin one after the
other (`unpod.runner.probation`) and tells us. From then it is on probation, until it has shown that it is past what its
former owner died of, or for `PROBATION_S`. When a runner dies with one session on probation, that one is blamed. With
several nobody is, and from then on each of them is alone wherever it goes, after those that are not. A session that was
still held is not blamed: none of its code has run.

The orphans of one runner may belong to several bridges, so bridges tell each other which of theirs are on probation. A
message that is lost costs an innocent session at most one unjust count of the two that it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from unpod.core.dispatch_messages import PROBATION_S, ProbationAnnounced, ProbationPhase, ProbationTold
from unpod.ports import Clock, Timer

Key = tuple[str, str]


class Suspect:
    """One session's time of probation at one runner: `held` there, then `begun`, then `over`."""

    __slots__ = ("epoch", "phase", "runner_id", "session_id", "timer")

    def __init__(self, runner_id: str, session_id: str, epoch: int) -> None:
        self.runner_id = runner_id
        self.session_id = session_id
        self.epoch = epoch
        self.phase: Literal["held", "begun", "over"] = "held"
        self.timer: Timer | None = None


class Suspects:
    """Which runners have sessions on probation.

    `announce` tells the other bridges; `accompanied` says whether there are any.
    """

    def __init__(
        self,
        clock: Clock,
        bridge_id: str = "",
        announce: Callable[[ProbationAnnounced], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._bridge_id = bridge_id
        self._tell_others = announce
        self.accompanied: Callable[[], bool] = lambda: False
        self._at: dict[str, dict[str, Suspect]] = {}
        self._remote: dict[str, dict[Key, Timer]] = {}

    def count(self, runner_id: str) -> int:
        """How many sessions are on probation at a runner."""
        ours = sum(probation.phase == "begun" for probation in self._at.get(runner_id, {}).values())
        return ours + len(self._remote.get(runner_id, ()))

    def hold(self, runner_id: str, session_id: str, epoch: int) -> Suspect:
        """A session is about to be started at a runner, which holds it until its turn comes."""
        held = self._at.setdefault(runner_id, {})[session_id] = Suspect(runner_id, session_id, epoch)
        return held

    def told(self, said: ProbationTold) -> None:
        """A runner lets one begin, or has seen that it is past its probation."""
        if said.phase == "begun":
            self.begin(said.runner, said.session, said.epoch)
            return
        probation = self._at.get(said.runner, {}).get(said.session)
        if probation is not None and probation.epoch == said.epoch:
            self.end(probation)

    def begin(self, runner_id: str, session_id: str, epoch: int) -> None:
        """One is held no more."""
        probation = self._at.get(runner_id, {}).get(session_id)
        if probation is not None and probation.epoch == epoch and probation.phase == "held":
            probation.phase = "begun"
            probation.timer = self._clock.call_later(PROBATION_S, lambda: self.end(probation))
            self._say(probation, "begun")

    def end(self, probation: Suspect) -> None:
        """It is past its probation, or has lost its owner again."""
        if probation.timer is not None:
            probation.timer.cancel()
        if probation.phase == "begun":
            self._say(probation, "over")
        probation.phase = "over"
        there = self._at.get(probation.runner_id, {})
        if there.get(probation.session_id) is probation:
            del there[probation.session_id]
            if not there:
                del self._at[probation.runner_id]

    def _say(self, probation: Suspect, phase: ProbationPhase) -> None:
        if self.accompanied():
            self._tell_others(
                ProbationAnnounced(
                    bridge=self._bridge_id, runner=probation.runner_id, session=probation.session_id, phase=phase
                )
            )

    # -------------------------------------------------------------------------------------------------- other bridges

    def hear(self, said: ProbationAnnounced) -> None:
        """Take what another bridge says."""
        if said.bridge == self._bridge_id:
            return
        key = said.bridge, said.session
        self._forget(said.runner, key)
        if said.phase == "begun":
            timer = self._clock.call_later(PROBATION_S, lambda: self._forget(said.runner, key))
            self._remote.setdefault(said.runner, {})[key] = timer

    def departed(self, bridge_id: str) -> None:
        """A bridge is gone, and nothing that it has said counts."""
        for runner_id, remotes in tuple(self._remote.items()):
            for key in [key for key in remotes if key[0] == bridge_id]:
                self._forget(runner_id, key)

    def _forget(self, runner_id: str, key: Key) -> None:
        timer = self._remote.get(runner_id, {}).pop(key, None)
        if timer is not None:
            timer.cancel()
        if not self._remote.get(runner_id, True):
            del self._remote[runner_id]
