"""Whether one call's log is away, and what that means: the call goes on for a while, and then ends with an error.

A ledger says so of a log that does not acknowledge what waits for it. A call of which nothing waits hears of the lost
connection itself: it must not be kept without a log for ever, either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unpod_bridge.ledger import Ledger
from unpod_bridge.line_settings import LineSettings
from unpod_bridge.link import Link
from unpod_bridge.outputs import Output
from unpod_bridge.placing import LineServices
from unpod_bridge.relay import Relay

GRACE_S: Final = 3.0
"""How much longer than its bound an absence may last: a server that is back in time has to be found again, too."""


class LogWatch:
    """Tells a call's relay whether the log is away; what it wants done goes to `feed`."""

    def __init__(
        self,
        relay: Relay,
        link: Link,
        settings: LineSettings,
        services: LineServices,
        feed: Callable[[list[Output]], None],
    ) -> None:
        self._relay = relay
        self._link = link
        self._settings = settings
        self._clock = services.clock
        self._steadiness = services.steadiness
        self._feed = feed
        self._ledger: Ledger | None = None
        self._stop: Callable[[], None] | None = None

    def begin(self, ledger: Ledger, on_stop: Callable[[], None]) -> None:
        """The call is stored here from now on; `on_stop` is called when this process has stood still."""
        self._ledger = ledger
        if self._steadiness is not None:
            self._stop = self._steadiness.listen(self._on_connection, on_stop)
            self._on_connection()

    def close(self) -> None:
        """Listen no more."""
        if self._stop is not None:
            self._stop()

    def on_state(self, away: bool) -> None:  # noqa: FBT001 - the ledger's callback
        """The ledger says whether what waits for the log is acknowledged."""
        relay, ledger, now = self._relay, self._ledger, self._clock.now()
        if ledger is None or ledger.backlog < self._settings.busy // 4:
            self._link.resume_reading()
        if not away and not self._cut_off:
            self._feed(relay.log_back(now))
            return
        self._feed(relay.log_away(now))
        if ledger is not None and ledger.unstored_bytes > self._settings.relay.buffer_bytes:
            self._feed(relay.end("error", "too much waits for the event log", now))

    def _on_connection(self) -> None:
        """The connection is lost, or back; what waits then is the ledger's matter."""
        if self._cut_off:
            self._feed(self._relay.log_away(self._clock.now() + GRACE_S))
        elif self._ledger is not None and not self._ledger.backlog:
            self._feed(self._relay.log_back(self._clock.now()))

    @property
    def _cut_off(self) -> bool:
        return self._steadiness is not None and not self._steadiness.up
