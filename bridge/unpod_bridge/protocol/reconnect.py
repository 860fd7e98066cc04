"""When to dial a worker again, and when not to. Pure."""

from __future__ import annotations

from typing import Final

from unpod_bridge.protocol.state import ProtocolSettings

HANG_UP: Final = frozenset({1000, 1001})
PAIRING_UNKNOWN: Final = 4003
ALREADY_CONNECTED: Final = 4009
PROTOCOL_ERROR: Final = 1002
LET_GO: Final = 1012
"""How we close a socket whose call goes on: never with 1000, which would be a hang-up."""
REFUSED_STATUS: Final = frozenset({401, 403, 404, 410})
"""The HTTP statuses of a worker that does not know the call; closing before the WebSocket is accepted gives 403."""


class ReconnectPolicy:
    """Counts the dials of one call. What it returns is the pause before the next in seconds, or why there is none."""

    __slots__ = ("_attached_at", "_busy_since", "_dropped_at", "_failed", "_redials", "_settings")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._failed = 0
        self._redials = 0
        self._dropped_at: float | None = None
        self._busy_since: float | None = None
        self._attached_at = 0.0

    @property
    def latest(self) -> float:
        """When a link has to be back."""
        return (self._dropped_at or 0.0) + self._settings.buffer_s

    def adopted(self, now: float) -> None:
        """The link is lost, and with it the bridge that had it."""
        self._dropped_at = now

    def attached(self, now: float) -> None:
        """The link is up."""
        self._attached_at = now
        self._busy_since = None

    def before_start(self, code: int | None, now: float) -> float | str:
        """The worker could not be reached, or closed with `code`, before the call had ever been up."""
        settings = self._settings
        if code in HANG_UP:
            return "the worker hung up before the call started"
        if code == ALREADY_CONNECTED:
            return self._busy(now)
        self._failed += 1
        if self._failed >= settings.tries:
            return f"no call after {self._failed} dials" + (f", the last ended with {code}" if code else "")
        return settings.retry_s[min(self._failed, len(settings.retry_s)) - 1]

    def after_start(self, code: int | None, now: float, *, was_open: bool) -> float | str:
        """The link to a call is lost, or could not be had again.

        A link that did not hold for long is no new beginning: it counts as part of the outage before it.
        """
        settings = self._settings
        if was_open and (self._dropped_at is None or now - self._attached_at >= settings.stable_s):
            self._dropped_at, self._redials = now, 0
        if code == ALREADY_CONNECTED:
            return self._busy(now)
        pause = settings.redial_s[min(self._redials, len(settings.redial_s) - 1)]
        self._redials += 1
        return pause

    def _busy(self, now: float) -> float | str:
        """The worker has a socket: our own dead one, or a former bridge's that has not let go of it yet."""
        self._busy_since = now if self._busy_since is None else self._busy_since
        late = now - self._busy_since >= self._settings.busy_for_s
        return "another socket holds the call" if late else self._settings.busy_retry_s
