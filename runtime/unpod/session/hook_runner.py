"""Running the hooks of one event: in order, for so long as the loop may wait, and never harming the call."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.decision import FireHooks
from unpod.errors import Fenced
from unpod.session.frame_view import FrameView
from unpod.session.hooks import Hooks, Runs, every
from unpod.session.scope import Scope
from unpod.session.task_owner import belongs
from unpod.session.tracing import in_turn
from unpod.user_code import cancelled

logger = logging.getLogger("unpod.session")


class Trouble(Protocol):
    """Told of a hook that raised or takes too long, to be recorded."""

    def __call__(self, fact: ev.HookFailed, cause: str) -> None:
        """Record it."""


class HookRunner:
    """Runs hooks; what does not return in time goes on by itself until `close`."""

    def __init__(self, session_id: str, hooks: Hooks, trouble: Trouble, is_private: Callable[[], bool]) -> None:
        self._session = session_id
        self._hooks = hooks
        self._trouble = trouble
        self._is_private = is_private
        self._running: set[asyncio.Task[None]] = set()
        self._limit: asyncio.Timeout | None = None
        self._most_s = math.inf

    def hurry(self, most_s: float) -> None:
        """Wait for no hooks any longer than that from now on: the call is over, and its end is due."""
        self._most_s = most_s
        latest = asyncio.get_running_loop().time() + most_s
        if self._limit is not None and not self._limit.expired() and (self._limit.when() or 0.0) > latest:
            self._limit.reschedule(latest)

    async def run(
        self,
        fire: FireHooks,
        *,
        cause: str,
        timeout_s: float,
        returned: Callable[[], None],
        runs: Runs = every,
        begun: Callable[[Scope], None] = lambda _: None,
    ) -> None:
        """Run those hooks of `fire` that `runs`, and return when they have returned or after `timeout_s`.

        `returned` is called once, when they really have; `begun` with the scope of each.
        """
        if not self._hooks.has(fire.event, runs):
            returned()
            return
        args = tuple(FrameView.of(arg.body, arg.data) if isinstance(arg, Record) else arg for arg in fire.args)

        def report(event: str, function: str, error: BaseException) -> None:
            self._raised(event, function, error, cause)

        work = self._hooks.fire(fire.event, args, fire.kwargs, cause=cause, report=report, runs=runs, begun=begun)
        with in_turn(self._session, fire.turn):
            task = asyncio.get_running_loop().create_task(work, name=f"unpod-hook-{fire.event}")
        belongs(task, self._session)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(min(timeout_s, self._most_s)) as self._limit:
                await asyncio.wait({task})
        except TimeoutError:
            self._overdue(fire.event, cause, timeout_s)
            task.add_done_callback(lambda _: returned())
        else:
            returned()
        finally:
            self._limit = None

    async def over(self, grace_s: float) -> None:
        """Return once all hooks have returned, or after `grace_s`: many a hook writes what a call leaves behind."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=grace_s)

    async def close(self) -> None:
        """Cancel what still runs."""
        await cancelled(tuple(self._running))

    def release(self) -> None:
        """Tell nobody anything any more."""
        self._trouble, self._is_private = _ignore, _private

    def _overdue(self, event: str, cause: str, timeout_s: float) -> None:
        """Let the hooks finish by themselves; their input is not settled until they have."""
        name = self._hooks.running.get(event, "")
        logger.warning("session %s: hook %s of %s takes over %.1f s", self._session, name, event, timeout_s)
        self._trouble(ev.HookFailed(hook=event, function=name, timed_out=True), cause)

    def _raised(self, event: str, function: str, error: BaseException, cause: str) -> None:
        """Log by its name a hook that raised; while the recording is paused, without the error's text."""
        if isinstance(error, Fenced):
            return  # out of a step: the call is another runner's now, which is told already
        logger.error(
            "session %s: hook %s of %s raised %s",
            self._session,
            function,
            event,
            type(error).__name__,
            exc_info=None if self._is_private() else error,
        )
        self._trouble(ev.HookFailed(hook=event, function=function, error=describe(error)), cause)


def _ignore(fact: ev.HookFailed, cause: str) -> None: ...


def _private() -> bool:
    return True


def describe(error: BaseException) -> str:
    """Return an exception for the log: its type and text, bounded."""
    return f"{type(error).__name__}: {error}"[:500]
