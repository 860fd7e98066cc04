"""The caller's wait while nobody owns the session: a filler, a phrase, and after long a clear end. Pure.

Whoever owned it goes on until another has answered, so that all this is only heard where nobody does.
"""

from __future__ import annotations

from typing import Final

from unpod_bridge.protocol.filler import Filler
from unpod_bridge.protocol.state import CallState
from unpod_bridge.wire import call_frames

FILLER: Final = "vacant_filler"
PHRASE: Final = "vacant_phrase"
END: Final = "vacant_end"

_LOOK_S: Final = 0.5
"""How often it is looked whether the caller waits, once it is time for the phrase."""


class WaitingCaller:
    """What the caller hears while another owner is looked for."""

    __slots__ = ("_call", "_filler", "vacant")

    def __init__(self, call: CallState, filler: Filler) -> None:
        self._call = call
        self._filler = filler
        self.vacant = False

    @property
    def owed(self) -> bool:
        """Whether a text of the caller has no whole reply yet."""
        return self._filler.owed

    @property
    def heard_at(self) -> float:
        """When the caller has said something."""
        return self._filler.heard_at

    def begin(self, now: float) -> None:
        """The owner is gone."""
        if self.vacant:
            return
        self.vacant = True
        settings, timers = self._call.settings, self._call.timers
        timers[FILLER] = now + settings.filler_after_s
        timers[END] = now + settings.vacant_s
        if settings.vacant_phrase:
            timers[PHRASE] = now + settings.vacant_phrase_after_s

    def over(self) -> None:
        """Somebody owns it."""
        self.vacant = False
        for name in (FILLER, PHRASE, END):
            self._call.timers.pop(name, None)

    def filler_due(self, _: float) -> None:
        """Bridge a reply that stopped in the middle with the session's filler; one not begun is `Filler`'s matter."""
        call = self._call
        if call.replies.open_key is not None and self._waits and call.filler and "agent.filler" not in call.verbs:
            call.write(call_frames.say(call.filler))

    def phrase_due(self, now: float) -> None:
        """Say the phrase, once, as soon as the caller waits for something."""
        call = self._call
        if self._waits:
            call.write(call_frames.say(call.settings.vacant_phrase))
        else:
            call.timers[PHRASE] = now + _LOOK_S

    @property
    def _waits(self) -> bool:
        return self._call.up and self._call.leaving is None and self._filler.owed
