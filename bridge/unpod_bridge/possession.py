"""Whether a line is still ours.

Once this process has stood still for over a second, another bridge may have taken it: what is to be done waits then, in
order, until the log has said whose it is. It is asked before a redial, too.
"""

from __future__ import annotations

from typing import Final

from unpod.errors import LogUnavailable
from unpod_bridge.outputs import Output
from unpod_bridge.placing import LineServices

_RETRY_S: Final = 0.1


class Possession:
    """One line's; before `begin`, there is nothing to lose. A log that is away is waited for, for `patience_s`."""

    __slots__ = ("_epoch", "_held", "_holding", "_losses", "_patience_s", "_services", "_stops", "_subject")

    def __init__(self, services: LineServices, patience_s: float) -> None:
        self._services = services
        self._patience_s = patience_s
        self._subject = ""
        self._epoch = 0
        self._stops = self._look()
        self._losses = 0 if services.steadiness is None else services.steadiness.losses
        self._holding = False
        self._held: list[Output] = []

    def begin(self, subject: str, epoch: int) -> None:
        """The line is ours from here on."""
        self._subject, self._epoch = subject, epoch

    def is_doubtful(self) -> bool:
        """Whether there is new reason to ask: from here on outputs wait for `settle`."""
        if self._holding or not self._subject or self._look() == self._stops:
            return False
        self._holding = True
        return True

    def hear(self) -> None:
        """NATS has something to say; it is doubtful for whom, if the connection was lost before."""
        steadiness = self._services.steadiness
        if steadiness is not None and steadiness.losses != self._losses:
            self._losses, self._stops = steadiness.losses, -1

    def holds(self, outputs: list[Output]) -> bool:
        """Whether outputs must wait, and have been kept."""
        if self._holding:
            self._held += outputs
        return self._holding

    async def settle(self) -> list[Output] | None:
        """Ask whose the line is; return what has waited, or None where it is not ours."""
        while self._stops != (stops := self._look()):
            self._stops = stops
            if not await self.is_ours():
                return None
        held, self._held, self._holding = self._held, [], False
        return held

    def end(self) -> None:
        """It is not ours: nothing of what waits is done, and nothing that comes."""
        self._holding = True
        self._held.clear()

    async def is_ours(self) -> bool:
        """Return what the log says; a replica that lags knows less than our own record, and is asked again."""
        if not self._subject:
            return True
        clock = self._services.clock
        until = clock.now() + self._patience_s
        while True:
            try:
                holder = await self._services.log.last(self._subject)
            except LogUnavailable:
                holder = None
            if holder is not None and holder.seq >= self._epoch:
                return holder.seq == self._epoch
            if clock.now() >= until:
                return False
            await clock.sleep(_RETRY_S)

    def _look(self) -> int:
        steadiness = self._services.steadiness
        return 0 if steadiness is None else steadiness.look()
