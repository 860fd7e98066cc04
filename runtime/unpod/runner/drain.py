"""How a runner ends.

The order; nothing is let go of earlier than necessary:

1. It stops listening for offers, and says that it drains.
2. It waits until its calls are over, for `drain_timeout_s` at most. A call that a bridge was promised still comes.
3. What is left then it offers to its bridges, if the agent has other runners with room. It goes on with each call until
   another has it. With `drain="handoff"` it does so from the start, and all the time.
   What nobody has taken after `HAND_OVER_S`, or with `handoff` after `drain_timeout_s` if that is longer, is hung up
   with reason `error`, which the log records, and a warning names the sessions.
4. What does not come to its end within `CUT_S` even so is abandoned.
5. The runner's hooks that still run get their time.
6. It says that it is gone. A bridge of its own ends after that, and a NATS server of its own last.

Asked to end at once (a second signal), it goes from wherever it is to 4, and waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    from unpod.errors import UnpodError
    from unpod.ports import Clock
    from unpod.runner.calls import Calls
    from unpod.runner.capacity import Capacity
    from unpod.runner.dispatch import Dispatch
    from unpod.runner.presence import Announcer
    from unpod.runner.runner_hooks import RunnerHooks

logger = logging.getLogger("unpod.runner")

T = TypeVar("T")

HAND_OVER_S: Final = 30.0
DrainMode = Literal["wait", "handoff"]

CUT_S: Final = 5.0
ABANDON_S: Final = 1.0
HOOKS_S: Final = 5.0


class RunnerStop:
    """Whether a runner has been asked to end, and how urgently."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.aborted = asyncio.Event()
        self.finished = asyncio.Event()
        self.failure: UnpodError | None = None
        """Why it cannot go on, if that is why it ends."""

    def on_signal(self, number: int) -> None:
        """Take a signal: the first asks for a drain, another one to end at once."""
        if self.requested.is_set():
            logger.warning("signal %d again: ending at once", number)
            self.abort()
        else:
            logger.info("signal %d: draining", number)
            self.requested.set()

    def abort(self) -> None:
        """End at once."""
        self.requested.set()
        self.aborted.set()

    async def unless_requested(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns, or None where the runner is asked to end before; `work` is cancelled then."""
        return await _unless(self.requested, work)

    async def unless_aborted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The same for a runner that is to end at once."""
        return await _unless(self.aborted, work)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        for each in (task, waiting):
            each.cancel()
        await asyncio.wait({task, waiting})
    return None if task.cancelled() else task.result()


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, None]) -> bool:
    """Return whether `work` was done within `seconds`; it is cancelled if not."""
    task = asyncio.ensure_future(work)
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        return task.done() and task.result() is None
    finally:
        for each in (task, sleeping):
            each.cancel()
        await asyncio.wait({task, sleeping})


class Drain:
    """Steps 1 to 5 for one runner."""

    def __init__(
        self,
        *,
        clock: Clock,
        dispatch: Dispatch,
        calls: Calls,
        capacity: Capacity,
        presence: Announcer,
        hooks: RunnerHooks,
        can_hand_over: Callable[[], Coroutine[Any, Any, bool]],
        hand_over: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._clock = clock
        self._dispatch = dispatch
        self._calls = calls
        self._capacity = capacity
        self._presence = presence
        self._hooks = hooks
        self._can_hand_over = can_hand_over
        self._hand_over = hand_over

    async def run(self, stop: RunnerStop, timeout_s: float, mode: DrainMode) -> None:
        """Return when no call is left."""
        await self._dispatch.drain()
        self._presence.changed()
        if self._capacity.taken:
            how = "waiting for" if mode == "wait" else "handing over"
            logger.info("draining: %s %d calls, up to %g s", how, self._capacity.taken, timeout_s)
        await stop.unless_aborted(self._wait(timeout_s) if mode == "wait" else self._move(max(timeout_s, HAND_OVER_S)))
        await self.let_go()
        if stop.aborted.is_set() or not await within(self._clock, HOOKS_S, self._hooks.over()):
            self._hooks.cancel_all()
            await within(self._clock, ABANDON_S, self._hooks.over())

    async def let_go(self) -> None:
        """Abandon the calls that are left, if any; code that does not return then is cancelled."""
        self._calls.abandon_all()
        if not await within(self._clock, ABANDON_S, self._calls.over()):
            self._calls.cancel_all()
            await within(self._clock, ABANDON_S, self._calls.over())

    async def _wait(self, timeout_s: float) -> None:
        if await within(self._clock, timeout_s, self._dispatch.idle()):
            return
        if self._calls.sessions() and await self._can_hand_over():
            logger.info("draining: %d calls are offered to other runners", len(self._calls))
            await self._move(HAND_OVER_S)
        else:
            await self._cut(timeout_s)

    async def _move(self, timeout_s: float) -> None:
        """Let other runners have the calls, and wait until none is left here."""
        moving = asyncio.create_task(self._hand_over(), name="unpod-hand-over")
        try:
            if not await within(self._clock, timeout_s, self._dispatch.idle()):
                await self._cut(timeout_s)
        finally:
            moving.cancel()
            await asyncio.wait({moving})

    async def _cut(self, timeout_s: float) -> None:
        for place in self._capacity.forget_all():
            logger.warning("job %s was promised a place, and its call has not come", place.job)
        sessions = self._calls.sessions()
        if sessions:
            logger.warning(
                "%d calls are not over after %g s and are ended now: sessions %s",
                len(sessions),
                timeout_s,
                ", ".join(sessions),
            )
            await within(self._clock, CUT_S, self._calls.end_all("error"))
