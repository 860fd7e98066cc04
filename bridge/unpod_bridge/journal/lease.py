"""Whether a line is still ours.

Once this process has stood still for over a second, another bridge may have taken it: what is to be done waits then, in
order, until the log has said whose it is. It is asked before a redial, too. Only a newer placement makes it another's:
a log that is away, or knows of no placement, has said nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from unpod_bridge.journal.placements import LineServices
from unpod_bridge.journal.until_answered import shown, until_answered
from unpod_bridge.protocol.outputs import Output


class LineLease:
    """The lease of one line, from `begin` on. A log that is away is waited for, for `patience_s`."""

    __slots__ = ("_epoch", "_held", "_holding", "_losses", "_patience_s", "_services", "_stops", "_subject")

    def __init__(self, services: LineServices, patience_s: float) -> None:
        self._services = services
        self._patience_s = patience_s
        self._subject = ""
        self._epoch = 0
        self._stops = self._look()
        self._losses = 0 if services.stalls is None else services.stalls.losses
        self._holding = False
        self._held: list[Output] = []

    def begin(self, subject: str, epoch: int) -> None:
        """The line is ours from here on."""
        self._subject, self._epoch = subject, epoch

    @property
    def holding(self) -> bool:
        """Whether outputs wait."""
        return self._holding

    def is_doubtful(self) -> bool:
        """Whether there is new reason to ask: from here on outputs wait for `settle`."""
        if self._holding or not self._subject or self._look() == self._stops:
            return False
        self._holding = True
        return True

    def hear(self) -> bool:
        """Something comes from NATS; return whether it may be meant for another bridge, as after a lost connection."""
        stalls = self._services.stalls
        if stalls is None or stalls.losses == self._losses:
            return False
        self._losses, self._stops = stalls.losses, -1
        return True

    def holds(self, outputs: list[Output]) -> bool:
        """Whether outputs must wait, and have been kept."""
        if self._holding:
            self._held += outputs
        return self._holding

    async def settle(self, is_over: Callable[[], bool]) -> bool:
        """Ask whose the line is; return whether it is ours.

        Raises:
            LogUnavailable: the log has not said so, for as long as a call may wait, or `is_over`: nobody waits for it.
        """
        while self._stops != (stops := self._look()):
            self._stops = stops
            if not await self.is_ours(is_over):
                return False
        return True

    def release(self) -> list[Output]:
        """Return what has waited; what comes from now on does not."""
        held, self._held, self._holding = self._held, [], False
        return held

    def end(self) -> None:
        """It is not ours: nothing of what waits is done, and nothing that comes."""
        self._holding = True
        self._held.clear()

    async def is_ours(self, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Return what the log says; see `settle`."""
        if not self._subject:
            return True
        services, subject, epoch = self._services, self._subject, self._epoch
        holder = await until_answered(
            services.clock, lambda: shown(services.log, subject, epoch), self._patience_s, unless=is_over
        )
        return holder.seq == epoch

    def _look(self) -> int:
        stalls = self._services.stalls
        return 0 if stalls is None else stalls.look()
