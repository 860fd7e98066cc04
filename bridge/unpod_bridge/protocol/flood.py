"""How much of what cannot be taken is kept: enough to understand it, not enough to do harm. Pure."""

from __future__ import annotations

from unpod.core import events as ev
from unpod_bridge.protocol.state import ProtocolSettings


class Flood:
    """Counts the frames of one call that were rejected or unknown."""

    __slots__ = ("_rejected", "_settings", "_unknown")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._rejected = 0
        self._unknown = 0

    def keeps(self, body: ev.CallerEvent) -> bool:
        """Count a frame, and return whether it is still to be stored."""
        if isinstance(body, ev.FrameRejected):
            self._rejected += 1
            return self._rejected <= self._settings.max_rejected
        if isinstance(body, ev.FrameUnknown):
            self._unknown += 1
            return self._unknown <= self._settings.max_unknown
        return True

    def note(self, detail: str) -> str:
        """Return the detail of a call's end, with how many frames were not kept."""
        settings = self._settings
        dropped = max(0, self._rejected - settings.max_rejected) + max(0, self._unknown - settings.max_unknown)
        return detail if not dropped else f"{detail}; {dropped} more frames were not kept".removeprefix("; ")
