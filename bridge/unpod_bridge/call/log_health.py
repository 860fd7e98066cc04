"""Whether one call's log is away, and what that means: the call goes on for a while, and then ends with an error.

A journal says so of a log that does not acknowledge what waits for it. A call of which nothing waits hears of the lost
connection itself: it must not be kept without a log for ever, either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unpod_bridge.call.settings import LineSettings
from unpod_bridge.journal.journal import Journal
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.outputs import Output
from unpod_bridge.transport.call_socket import Link

GRACE_S: Final = 3.0
"""How much longer than its bound an absence may last: a server that is back in time has to be found again, too."""


class LogWatch:
    """Tells a call's protocol whether the log is away; what it wants done goes to `feed`."""

    def __init__(
        self,
        protocol: CallProtocol,
        link: Link,
        settings: LineSettings,
        services: LineServices,
        feed: Callable[[list[Output]], None],
    ) -> None:
        self._protocol = protocol
        self._link = link
        self._settings = settings
        self._clock = services.clock
        self._stalls = services.stalls
        self._feed = feed
        self._journal: Journal | None = None
        self._stop: Callable[[], None] | None = None

    def begin(self, journal: Journal, on_stop: Callable[[], None]) -> None:
        """The call is stored here from now on; `on_stop` is called when this process has stood still."""
        self._journal = journal
        if self._stalls is not None:
            self._stop = self._stalls.listen(self._on_connection, on_stop)
            self._on_connection()

    def close(self) -> None:
        """Listen no more."""
        if self._stop is not None:
            self._stop()

    def on_state(self, away: bool) -> None:  # noqa: FBT001 - the journal's callback
        """The journal says whether what waits for the log is acknowledged."""
        protocol, journal, now = self._protocol, self._journal, self._clock.now()
        if journal is None or journal.backlog < self._settings.busy // 4:
            self._link.resume_reading()
        if not away and not self._cut_off:
            self._feed(protocol.log_back(now))
            return
        self._feed(protocol.log_away(now))
        if journal is not None and journal.unstored_bytes > self._settings.protocol.buffer_bytes:
            self._feed(protocol.end("error", "too much waits for the event log", now))

    def _on_connection(self) -> None:
        """The connection is lost, or back; what waits then is the journal's matter."""
        if self._cut_off:
            self._feed(self._protocol.log_away(self._clock.now() + GRACE_S))
        elif self._journal is not None and not self._journal.backlog:
            self._feed(self._protocol.log_back(self._clock.now()))

    @property
    def _cut_off(self) -> bool:
        return self._stalls is not None and not self._stalls.up
