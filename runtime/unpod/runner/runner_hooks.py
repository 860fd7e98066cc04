"""The runner's own hooks: `call_start(ctx)`, `metric(ctx, metrics)` and `call_end(ctx, final_state)`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from unpod.session.hooks import HookFunction, Hooks
from unpod.session.settings import hook_wait_s

if TYPE_CHECKING:
    from unpod.runner.context import CallContext

logger = logging.getLogger("unpod.runner")

F = TypeVar("F", bound=HookFunction)
FinalState = Literal["ended", "failed"]

EVENTS: Final = {"call_start": "(ctx)", "metric": "(ctx, metrics)", "call_end": "(ctx, final_state)"}


class RunnerHooks:
    """What a developer wants to be told of each call. Nothing that a hook does harms a call.

    The hooks of an event run one after the other, in order of registration. A call waits for them for `timeout_s`
    (None: `hook_wait_s`); then it goes on, while they finish.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._hooks = Hooks(EVENTS)
        self._timeout_s = timeout_s
        self._running: set[asyncio.Task[None]] = set()

    def on(self, event: str) -> Callable[[F], F]:
        """Return a decorator that registers a function, sync or async, for `event`.

        Raises:
            UnknownEvent: there is no such event; the text lists those there are.
        """
        return self._hooks.on(event)

    async def call_start(self, context: CallContext) -> None:
        """Run the hooks of a call that begins, and have it tell of its figures."""
        if self._hooks.has("metric"):
            self._tell_metrics(context)
        await self._fire("call_start", context)

    async def call_end(self, context: CallContext, final_state: str) -> None:
        """Run the hooks of a call that is over; `final_state` is `ended` or `failed`."""
        await self._fire("call_end", context, final_state)

    async def over(self) -> None:
        """Return when no hook runs any more."""
        while self._running:
            await asyncio.wait(tuple(self._running))

    def cancel_all(self) -> None:
        """Cancel the hooks that still run."""
        for task in tuple(self._running):
            logger.warning("a runner hook has not returned in time and is cancelled")
            task.cancel()

    def _tell_metrics(self, context: CallContext) -> None:
        session = context.session

        @session.on("metric")
        async def runner_metric(_: object) -> None:
            args = (context, session.metrics.live())
            await self._hooks.fire("metric", args, {}, cause="runner.metric", report=_report)

    async def _fire(self, event: str, *args: object) -> None:
        if not self._hooks.has(event):
            return
        work = self._hooks.fire(event, args, {}, cause=f"runner.{event}", report=_report)
        task = asyncio.create_task(work, name=f"unpod-{event}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        timeout_s = hook_wait_s(event, self._timeout_s)
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            logger.warning("the runner's %s hooks take more than %g s; the call goes on", event, timeout_s)


def _report(event: str, function: str, error: BaseException) -> None:
    # Only the kind of error: its text may hold what was said on the call.
    logger.error("the %s hook %s failed: %s%s", event, function, type(error).__name__, _place(error))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
