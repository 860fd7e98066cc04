"""The calls that run in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from unpod.errors import UnpodError
from unpod.session.task_owner import belongs

if TYPE_CHECKING:
    from unpod.core.dispatch_messages import Start
    from unpod.runner.call import CallResult, RunningCall
    from unpod.runner.context import CallContext

logger = logging.getLogger("unpod.runner")

_VERB_S: Final = 2.0
_MAKE_WAY_S: Final = 1.0
"""How long code whose call has come back here under a new epoch may take to end."""
_CHECKS: Final = 64
"""How many sessions look into the log at once."""


_on_behalf_of: ContextVar[tuple[InCall, ...]] = ContextVar("unpod_on_behalf_of", default=())


@dataclass(frozen=True, slots=True)
class RunnerSession:
    """A session that runs here, as operators see it; `replaying` while its past is gone through."""

    session: str
    agent: str
    bridge: str
    epoch: int
    replaying: bool


class InCall:
    """Whether code runs on behalf of a call of one runner: in its entrypoint, a hook, or a task of theirs."""

    def __bool__(self) -> bool:
        return self in _on_behalf_of.get()

    def enter(self) -> None:
        """Say that what follows in this task, and in all that it starts, is on behalf of a call."""
        _on_behalf_of.set((*_on_behalf_of.get(), self))


class Calls:
    """The calls of one run, by job; `over(start, result)` is told of each end, with None where it broke down."""

    def __init__(
        self, make: Callable[[Start], RunningCall], over: Callable[[Start, CallResult | None], None], inside: InCall
    ) -> None:
        self._make = make
        self._over = over
        self._inside = inside
        self._calls: dict[str, tuple[RunningCall, Start]] = {}
        self._tasks: dict[RunningCall, asyncio.Task[None]] = {}
        self._by_session: dict[str, RunningCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def contexts(self) -> list[CallContext]:
        """Return the contexts of the calls whose entrypoints have begun."""
        return [call.context for call, _ in self._calls.values() if call.context is not None]

    def sessions(self) -> list[str]:
        """Return the ids of the sessions that are running."""
        return [start.session for _, start in self._calls.values()]

    def shown(self) -> list[RunnerSession]:
        """Return how each session stands, for operators."""
        return [
            RunnerSession(start.session, start.agent, call.bridge or start.bridge, start.epoch, not call.live)
            for call, start in self._calls.values()
        ]

    def find(self, session_id: str) -> RunningCall | None:
        """Return the call of a session that runs here; may be called from any thread."""
        return self._by_session.get(session_id)

    def by_bridge(self) -> dict[str, list[str]]:
        """Return the sessions that are running, by the bridge that holds their line."""
        found: dict[str, list[str]] = {}
        for call, start in self._calls.values():
            found.setdefault(call.bridge or start.bridge, []).append(start.session)
        return found

    async def check_tails(self) -> None:
        """Let each session fetch what it has missed: the connection was lost, and is back."""
        await self._each(lambda call: call.check_tail())

    async def check_owners(self) -> None:
        """Let each session look whether another runner has it by now."""
        await self._each(lambda call: call.check_owner())

    async def _each(self, what: Callable[[RunningCall], Awaitable[None]]) -> None:
        turn = asyncio.Semaphore(_CHECKS)

        async def one(call: RunningCall) -> None:
            async with turn:
                await what(call)

        await asyncio.gather(*(one(call) for call, _ in tuple(self._calls.values())))

    def begin(self, start: Start) -> None:
        """Run a call in a task of its own. One of the same job under an older epoch makes way for it first.

        Raises:
            UnpodError: there can be no such call.
        """
        call = self._make(start)
        former, _ = self._calls.get(start.job, (None, None))
        if former is not None:
            former.fence()
        start = call.start
        self._calls[start.job] = call, start
        self._by_session[start.session] = call
        ending = None if former is None else self._tasks.get(former)
        task = asyncio.create_task(self._run(call, start, ending), name=f"unpod-call-{start.session}")
        belongs(task, start.session)
        self._tasks[call] = task

    def go(self, start: Start) -> None:
        """Let the code of a call begin that was held back, if it is here."""
        call, known = self._calls.get(start.job, (None, None))
        if call is not None and known is not None and known.epoch == start.epoch:
            call.go()

    async def _run(self, call: RunningCall, start: Start, former: asyncio.Task[None] | None) -> None:
        self._inside.enter()
        result: CallResult | None = None
        try:
            if former is not None:
                await asyncio.wait({former}, timeout=_MAKE_WAY_S)
            result = await call.run()
        except Exception as error:  # one call that breaks down must not take the others with it
            # Not its text, which may hold what was said.
            logger.error("session %s broke down: %s", start.session, type(error).__name__)  # noqa: TRY400
            logger.debug("session %s broke down", start.session, exc_info=error)
        finally:
            del self._tasks[call]
            if self._calls.get(start.job) == (call, start):
                del self._calls[start.job]
            if self._by_session.get(start.session) is call:
                del self._by_session[start.session]
            self._over(start, result)

    async def over(self) -> None:
        """Return when no call is left."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))

    async def end_all(self, reason: str) -> None:
        """Hang all calls up, and return when they are over."""
        await asyncio.gather(*(self._hang_up(context, reason) for context in self.contexts()))
        await self.over()

    async def _hang_up(self, context: CallContext, reason: str) -> None:
        try:
            async with asyncio.timeout(_VERB_S):
                await context.session.end(reason)
        except (UnpodError, TimeoutError) as error:
            logger.warning("session %s could not be ended: %s", context.session_id, type(error).__name__)

    def abandon_all(self) -> None:
        """Let go of all calls: what waits for them in `run()` returns."""
        for call in tuple(self._tasks):
            call.abandon()

    def cancel_all(self) -> None:
        """Cancel what runs on behalf of calls."""
        for task in tuple(self._tasks.values()):
            task.cancel()
