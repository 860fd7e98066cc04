"""What the caller hears who waits: for a reply that does not begin, or while nobody owns the session. Pure.

The session's filler, where the worker cannot say it by itself; while another owner is looked for, a phrase, too, and
after long a clear end. Whoever owned it goes on until another has answered, so that is heard where nobody does.

Turns are numbered as in the session's fold: the n-th final text of the caller is turn n.
"""

from __future__ import annotations

from typing import Final

from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire import call_frames

FILLER: Final = "filler"
HELD_FILLER: Final = "held_filler"
PHRASE: Final = "owner_phrase"
END: Final = "owner_end"

_LOOK_S: Final = 0.5
"""How often it is looked whether the caller waits, once it is time for the phrase."""


class WaitingCaller:
    """Says the filler once in a turn that has had no reply text for a while, and the phrase once for a lost owner."""

    __slots__ = ("_call", "_without_owner", "heard_at", "served", "turns")

    def __init__(self, call: CallState) -> None:
        self._call = call
        self._without_owner = False
        self.turns = 0
        """How many final texts the caller has said."""
        self.served = 0
        """Up to which turn the caller has heard something of the reply, or the filler."""
        self.heard_at = 0.0
        """When the caller has said something."""

    @property
    def owed(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return self.turns > self._call.replies.closed

    def go_on(self, turns: int) -> None:
        """Go on where another bridge has stopped: the caller has said so much."""
        self.turns = turns
        self.served = max(turns - 1, min(self._call.replies.closed, turns))

    def heard(self, now: float) -> None:
        """The caller has said something."""
        self.turns += 1
        self.heard_at = now

    # ------------------------------------------------------------------------------------------ for a reply to begin

    def look(self, now: float) -> None:
        """Wait for the next turn's reply, unless one is being spoken or the caller waits for none."""
        call = self._call
        replies, timers = call.replies, call.timers
        if call.said:  # the agent said something beside its reply: the caller does not wait in silence
            call.said = False
            self.served += self.served < self.turns
            timers.pop(FILLER, None)
        while self.served < self.turns and replies.spoke(self.served + 1):
            self.served += 1
            timers.pop(FILLER, None)
        if not (self._says_filler and self.served < self.turns and replies.open is None and self._is_listening):
            timers.pop(FILLER, None)
        elif FILLER not in timers:
            timers[FILLER] = now + call.settings.filler_after_s

    def filler_due(self) -> None:
        """The caller has waited for long enough."""
        self.served += 1
        self._call.write(call_frames.say(self._call.filler))

    # ----------------------------------------------------------------------------------------------- for another owner

    def begin(self, now: float) -> None:
        """The owner is gone."""
        if self._without_owner:
            return
        self._without_owner = True
        settings, timers = self._call.settings, self._call.timers
        timers[HELD_FILLER] = now + settings.filler_after_s
        timers[END] = now + settings.vacant_s
        if settings.vacant_phrase:
            timers[PHRASE] = now + settings.vacant_phrase_after_s

    def over(self) -> None:
        """Somebody owns it."""
        self._without_owner = False
        for name in (HELD_FILLER, PHRASE, END):
            self._call.timers.pop(name, None)

    def held_filler_due(self) -> None:
        """Say the filler in a reply that stopped in the middle; one not begun is the other filler's matter."""
        if self._call.replies.open is not None and self._is_listening and self.owed and self._says_filler:
            self._call.write(call_frames.say(self._call.filler))

    def phrase_due(self, now: float) -> None:
        """Say the phrase, once, as soon as the caller waits for something."""
        call = self._call
        if self._is_listening and self.owed:
            call.write(call_frames.say(call.settings.vacant_phrase))
        else:
            call.timers[PHRASE] = now + _LOOK_S

    @property
    def _is_listening(self) -> bool:
        return self._call.up and self._call.leaving is None

    @property
    def _says_filler(self) -> bool:
        return bool(self._call.filler) and "agent.filler" not in self._call.verbs
