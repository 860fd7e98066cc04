"""Calls of which a former owner may have died begin one after the other: if one kills this process, it is known which.

The first is the one whose caller has spoken last. It is the only one on probation until it has shown that it is past
what its former owner died of, or for `FIRST_S` at most: most calls that kill a process do so at once. The next begin
`NEXT_S` apart, or as soon as one has passed. A call that was on probation together with others when a runner died is
`alone` here: it begins after all that were not, when no other is on probation, and the next waits for it until it has
passed, `PROBATION_S` at most.

Its bridge is told that a call begins before any of its code runs, and that it has passed before the next begins. NATS
keeps the order of messages, so when this process dies the bridge knows which calls were on probation, without a round
trip.
"""

from __future__ import annotations

from asyncio import get_running_loop
from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from unpod.core.dispatch_messages import PROBATION_S, ProbationPhase, Suspicion

if TYPE_CHECKING:
    from unpod.core.dispatch_messages import Start
    from unpod.ports import Clock, Timer

FIRST_S: Final = 0.5
NEXT_S: Final = 0.05

Order = tuple[bool, float, str, int]
"""Who comes first: those that need not be alone; of them the one whose caller was silent for the shortest."""
Tell = Callable[["Start", ProbationPhase], None]


class HeldCall:
    """One call's probation: it `waits`, has `begun`, `lets_in` the next, and is `over`."""

    __slots__ = ("_probation", "alone", "go", "has_waited", "order", "phase", "start", "timers")

    def __init__(self, probation: Probation, start: Start, go: Callable[[], None]) -> None:
        self._probation = probation
        self.start = start
        self.go = go
        held = start.suspicion or Suspicion()
        self.alone = held.alone
        self.order: Order = (held.alone, held.silent_s, start.session, start.epoch)
        self.has_waited = False
        self.phase: Literal["waits", "begun", "lets_in", "over"] = "waits"
        self.timers: list[Timer] = []

    def __lt__(self, other: HeldCall) -> bool:
        return self.order < other.order

    def passed(self, *, spoken: bool) -> None:
        """The call is past what its former owner died of; where it has `spoken`, its bridge knows that already."""
        self._probation.end(self, tell=not spoken)

    def leave(self) -> None:
        """The call is over, or not to be waited for any more."""
        self._probation.end(self, tell=False)


class Probation:
    """Lets calls begin; `tell` says so to the bridge of each, and must not raise."""

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._waiting: list[HeldCall] = []
        self._there: set[HeldCall] = set()

    def join(self, start: Start, go: Callable[[], None]) -> HeldCall:
        """Wait in line; `go` is called in a later turn of the event loop, once the call may begin."""
        held = HeldCall(self, start, go)
        insort(self._waiting, held)
        self._look()
        held.has_waited = held.phase == "waits"
        return held

    def end(self, held: HeldCall, *, tell: bool) -> None:
        """A call has passed its probation, or is gone."""
        if held.phase == "over":
            return
        for timer in held.timers:
            timer.cancel()
        begun = held.phase != "waits"
        if not begun:
            self._waiting.remove(held)
        self._there.discard(held)
        held.phase = "over"
        if tell and begun:
            self._tell(held.start, "over")
        self._look()

    def _look(self) -> None:
        """Let all begin whose turn it is."""
        while self._waiting and self._is_free(self._waiting[0]):
            self._begin(self._waiting.pop(0))

    def _is_free(self, held: HeldCall) -> bool:
        if held.alone:
            return not self._there
        return all(there.phase == "lets_in" for there in self._there)

    def _begin(self, held: HeldCall) -> None:
        later = self._clock.call_later
        alone_s = NEXT_S if self._there or held.has_waited else FIRST_S
        # The bridge starts its own timer later, when it hears that this call has begun. Without our word that it is
        # over, the next call would begin while this one is still suspected.
        held.timers = [later(PROBATION_S, lambda: self.end(held, tell=True))]
        if not held.alone:
            held.timers.append(later(alone_s, lambda: self._open(held)))
        held.phase = "begun"
        self._there.add(held)
        self._tell(held.start, "begun")
        get_running_loop().call_soon(held.go)  # the bridge is told before the code runs

    def _open(self, held: HeldCall) -> None:
        held.phase = "lets_in"
        self._look()
