"""Whether the log stores what it is sent. A server whose disk is full answers pings, and acknowledges nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from unpod.ports import EventLog

SILENT_S: Final = 10.0
"""From how many seconds on a silence is told; the nodes of a cluster choose a leader in less."""
SILENT: Final = "the event log acknowledges nothing"


class LogHealth:
    """Says once, on `logger`, that the log is silent, and once that it is not any more."""

    def __init__(self, log: EventLog, logger: logging.Logger) -> None:
        self._log = log
        self._logger = logger
        self._was_silent = False
        self._were_behind: list[str] = []

    @property
    def silent(self) -> bool:
        """Whether it has acknowledged nothing for too long; may be asked from any thread."""
        return self._log.silent_s >= SILENT_S

    @property
    def behind(self) -> int:
        """How many of its nodes have not kept up for as long."""
        return len(self._were_behind)

    def look(self) -> bool:
        """Return whether it is silent; called now and then, so that it is said when that changes."""
        silent = self.silent
        if silent and not self._was_silent:
            self._logger.error(
                "%s for %.0f s, though NATS can be reached: is the disk of nats-server full? `unpod doctor` tells; "
                "a server that could not write has to be started again once there is room",
                SILENT,
                self._log.silent_s,
            )
        elif self._was_silent and not silent:
            self._logger.warning("the event log acknowledges again what it is sent")
        self._was_silent = silent
        behind = self._log.behind(SILENT_S)
        if behind and not self._were_behind:
            self._logger.error(
                "nodes of the event log do not keep up (%s); the others go on, and one more that fails may stop "
                "them: `unpod doctor` tells what is wrong",
                ", ".join(behind),
            )
        elif self._were_behind and not behind:
            self._logger.warning("all nodes of the event log keep up again")
        self._were_behind = behind
        return silent
