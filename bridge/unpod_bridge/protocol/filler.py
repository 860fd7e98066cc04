"""The phrase for a caller who waits, where the worker cannot say it by itself. Pure."""

from __future__ import annotations

from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire import call_frames

TIMER = "filler"


class Filler:
    """Says the phrase once in a turn that has had no reply text for a while.

    Turns are numbered as in the session's fold: the n-th final text of the caller is turn n.
    """

    __slots__ = ("_call", "_heard", "_served", "heard_at")

    def __init__(self, call: CallState) -> None:
        self._call = call
        self._heard = 0
        self._served = 0
        self.heard_at = 0.0
        """When the caller has said something."""

    @property
    def owed(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return self._heard > self._call.replies.closed

    def go_on(self, turns: int) -> None:
        """Go on where another bridge has stopped: the caller has said so much."""
        self._heard = turns
        self._served = max(turns - 1, min(self._call.replies.closed, turns))

    def heard(self, now: float) -> None:
        """The caller has said something."""
        self._heard += 1
        self.heard_at = now
        self.look(now)

    def look(self, now: float) -> None:
        """Wait for the next turn's reply, unless one is being spoken or the caller waits for none."""
        call = self._call
        if self._served >= self._heard and not call.said:
            return
        replies, timers = call.replies, call.timers
        if call.said:  # the agent said something beside its reply: the caller does not wait in silence
            call.said = False
            self._served += self._served < self._heard
            timers.pop(TIMER, None)
        while self._served < self._heard and replies.spoke(self._served + 1):
            self._served += 1
            timers.pop(TIMER, None)
        filler = call.filler and "agent.filler" not in call.verbs
        if not (
            filler and self._served < self._heard and replies.open_key is None and call.up and call.leaving is None
        ):
            timers.pop(TIMER, None)
        elif TIMER not in timers:
            timers[TIMER] = now + call.settings.filler_after_s

    def due(self, now: float) -> None:
        """The caller has waited for long enough."""
        self._served += 1
        self._call.write(call_frames.say(self._call.filler))
        self.look(now)
