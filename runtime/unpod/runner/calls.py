"""The calls that run in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from unpod.errors import UnpodError

if TYPE_CHECKING:
    from unpod.core.fleet import Start
    from unpod.runner.context import CallContext

logger = logging.getLogger("unpod.runner")

_VERB_S: Final = 2.0


class CallResult(Protocol):
    """What became of a call; one that never `started` is not counted."""

    @property
    def session_id(self) -> str:
        """The session's id."""
        ...

    @property
    def duration_s(self) -> float:
        """How long it took, in seconds."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        ...

    @property
    def started(self) -> bool:
        """Whether there was a call at all."""
        ...


class RunningCall(Protocol):
    """One call: `run` returns when it is over, `abandon` makes it return without waiting for anybody."""

    @property
    def context(self) -> CallContext | None:
        """What the entrypoint was given; None before."""
        ...

    def run(self) -> Coroutine[Any, Any, CallResult]:
        """Carry the call."""
        ...

    def abandon(self, reason: str) -> None:
        """Stop at once; the call is left to others."""
        ...


class Inside:
    """Whether code runs on behalf of a call of one runner: in its entrypoint, a hook, or a task of theirs."""

    def __init__(self) -> None:
        self._inside: ContextVar[bool] = ContextVar("unpod_inside_call", default=False)

    def __bool__(self) -> bool:
        return self._inside.get()

    def enter(self) -> None:
        """Say that what follows in this task, and in all that it starts, is on behalf of a call."""
        self._inside.set(True)


class Calls:
    """The calls of one run, by job; `over(job, result)` is told of each end, with None where it broke down."""

    def __init__(
        self, make: Callable[[Start], RunningCall], over: Callable[[str, CallResult | None], None], inside: Inside
    ) -> None:
        self._make = make
        self._over = over
        self._inside = inside
        self._calls: dict[str, tuple[RunningCall, Start]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def contexts(self) -> list[CallContext]:
        """Return the contexts of the calls whose entrypoints have begun."""
        return [call.context for call, _ in self._calls.values() if call.context is not None]

    def sessions(self) -> list[str]:
        """Return the ids of the sessions that are running."""
        return [start.session for _, start in self._calls.values()]

    def begin(self, start: Start) -> None:
        """Run a call in a task of its own."""
        call = self._make(start)
        self._calls[start.job] = call, start
        self._tasks[start.job] = asyncio.create_task(self._run(call, start), name=f"unpod-call-{start.session}")

    async def _run(self, call: RunningCall, start: Start) -> None:
        self._inside.enter()
        result: CallResult | None = None
        try:
            result = await call.run()
        except Exception as error:  # noqa: BLE001 - one call that breaks down must not take the others with it
            logger.error("session %s broke down: %s", start.session, type(error).__name__)
            logger.debug("session %s broke down", start.session, exc_info=error)
        finally:
            del self._calls[start.job], self._tasks[start.job]
            self._over(start.job, result)

    async def end_all(self, reason: str, timeout_s: float) -> None:
        """Hang all calls up, and return when they are over, or after `timeout_s`."""
        if not self._tasks:
            return
        waiting = asyncio.gather(*(self._hang_up(context, reason) for context in self.contexts()))
        await asyncio.wait((*self._tasks.values(), waiting), timeout=timeout_s)
        await waiting

    async def _hang_up(self, context: CallContext, reason: str) -> None:
        try:
            async with asyncio.timeout(_VERB_S):
                await context.session.end(reason)
        except (UnpodError, TimeoutError) as error:
            logger.warning("session %s could not be ended: %s", context.session_id, type(error).__name__)

    async def abandon_all(self, reason: str, timeout_s: float) -> None:
        """Stop all calls at once; what has not stopped after `timeout_s` is cancelled."""
        for call, _ in tuple(self._calls.values()):
            call.abandon(reason)
        for task in await self._left(timeout_s):
            task.cancel()
        await self._left(timeout_s)

    async def _left(self, timeout_s: float) -> set[asyncio.Task[None]]:
        if not self._tasks:
            return set()
        _, left = await asyncio.wait(tuple(self._tasks.values()), timeout=timeout_s)
        return left
