"""The calls that run in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from unpod.errors import UnpodError

if TYPE_CHECKING:
    from unpod.core.fleet import Start
    from unpod.runner.call import Call, CallResult
    from unpod.runner.context import CallContext

logger = logging.getLogger("unpod.runner")

_VERB_S: Final = 2.0


_on_behalf_of: ContextVar[tuple[Inside, ...]] = ContextVar("unpod_on_behalf_of", default=())


class Inside:
    """Whether code runs on behalf of a call of one runner: in its entrypoint, a hook, or a task of theirs."""

    def __bool__(self) -> bool:
        return self in _on_behalf_of.get()

    def enter(self) -> None:
        """Say that what follows in this task, and in all that it starts, is on behalf of a call."""
        _on_behalf_of.set((*_on_behalf_of.get(), self))


class Calls:
    """The calls of one run, by job; `over(job, result)` is told of each end, with None where it broke down."""

    def __init__(
        self, make: Callable[[Start], Call], over: Callable[[str, CallResult | None], None], inside: Inside
    ) -> None:
        self._make = make
        self._over = over
        self._inside = inside
        self._calls: dict[str, tuple[Call, Start]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._by_session: dict[str, Call] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def contexts(self) -> list[CallContext]:
        """Return the contexts of the calls whose entrypoints have begun."""
        return [call.context for call, _ in self._calls.values() if call.context is not None]

    def sessions(self) -> list[str]:
        """Return the ids of the sessions that are running."""
        return [start.session for _, start in self._calls.values()]

    def find(self, session_id: str) -> Call | None:
        """Return the call of a session that runs here; may be called from any thread."""
        return self._by_session.get(session_id)

    def by_bridge(self) -> dict[str, tuple[str, ...]]:
        """Return the sessions that are running, by the bridge that has placed them here."""
        found: dict[str, tuple[str, ...]] = {}
        for _, start in self._calls.values():
            found[start.bridge] = (*found.get(start.bridge, ()), start.session)
        return found

    def check(self) -> None:
        """Let each session fetch what it has missed: the connection was lost, and is back."""
        for call, _ in tuple(self._calls.values()):
            call.check()

    def begin(self, start: Start) -> None:
        """Run a call in a task of its own.

        Raises:
            UnpodError: there can be no such call.
        """
        call = self._make(start)
        self._calls[start.job] = call, start
        self._by_session[start.session] = call
        self._tasks[start.job] = asyncio.create_task(self._run(call, start), name=f"unpod-call-{start.session}")

    async def _run(self, call: Call, start: Start) -> None:
        self._inside.enter()
        result: CallResult | None = None
        try:
            result = await call.run()
        except Exception as error:  # one call that breaks down must not take the others with it
            # Not its text, which may hold what was said.
            logger.error("session %s broke down: %s", start.session, type(error).__name__)  # noqa: TRY400
            logger.debug("session %s broke down", start.session, exc_info=error)
        finally:
            del self._calls[start.job], self._tasks[start.job]
            if self._by_session.get(start.session) is call:
                del self._by_session[start.session]
            self._over(start.job, result)

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
        for call, _ in tuple(self._calls.values()):
            call.abandon()

    def cancel_all(self) -> None:
        """Cancel what runs on behalf of calls."""
        for task in tuple(self._tasks.values()):
            task.cancel()
