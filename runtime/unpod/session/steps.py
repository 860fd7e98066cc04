"""What must not happen twice: journaled steps, and tasks beside the call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar, get_type_hints

import msgspec

from unpod.core.events import HookFailed, StepCompleted
from unpod.errors import StepFailed
from unpod.failpoints import reached
from unpod.session.hook_runner import describe
from unpod.session.issuing import Issuing
from unpod.session.kernel import SessionKernel
from unpod.session.scope import Scope, current, entered
from unpod.session.task_owner import belongs
from unpod.user_code import TimedOut, bounded, is_theirs

logger = logging.getLogger("unpod.session")

T = TypeVar("T")


class Steps:
    """The journaled steps and the tasks of one session."""

    def __init__(self, kernel: SessionKernel, issuing: Issuing) -> None:
        self._kernel = kernel
        self._issuing = issuing

    async def run(
        self,
        name: str,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        timeout_s: float | None = None,
    ) -> object:
        """Return a step's result: the recorded one, else what `function` returns, once that is stored."""
        kernel, scope = self._kernel, current(self._kernel.main)
        identifier = scope.step_id(kernel.ownership.session_id, name)
        recorded = kernel.past.steps.get(identifier) if kernel.past is not None else None
        if recorded is not None and not recorded.withheld:
            return _outcome(recorded, function)
        if kernel.ending.lost is not None:  # nobody would learn what came of it
            raise kernel.ending.lost.with_traceback(None)
        if recorded is None:
            await self._issuing.room()
            self._issuing.note_new(f"step {name}", scope)
        given = partial(function, *args, **_with_key(function, kwargs, identifier))
        completed = await _attempt(identifier, name, given, timeout_s)
        reached("step.returned")
        kernel.record(completed, scope.cause)
        await kernel.outbox.flush()
        reached("step.stored")
        return _outcome(completed, function)

    def spawn(self, name: str, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run `work` as a handler of its own, until the session closes."""
        scope = current(self._kernel.main).task(name)
        task = asyncio.get_running_loop().create_task(self._guarded(name, scope, work), name=f"unpod-task-{name}")
        belongs(task, self._kernel.ownership.session_id)
        self._kernel.chores.add(task)

        def over(_: asyncio.Task[T]) -> None:
            work.close()  # one that is cancelled before it began would never be awaited
            self._kernel.chores.discard(task)
            if not task.cancelled():
                task.exception()  # it was logged and recorded

        task.add_done_callback(over)
        return task

    async def _guarded(self, name: str, scope: Scope, work: Coroutine[object, object, T]) -> T:
        with entered(scope):
            try:
                return await work
            except BaseException as error:
                if not is_theirs(error):
                    raise
                kernel = self._kernel
                if kernel.ending.has_told(error):
                    raise
                logger.error(  # noqa: TRY400 - what was said while the recording is paused stays out of the log
                    "session %s: task %s raised %s",
                    kernel.ownership.session_id,
                    name,
                    type(error).__name__,
                    exc_info=None if kernel.state.paused else error,
                )
                if kernel.ending.lost is None:
                    kernel.record(HookFailed(hook="task", function=name, error=describe(error)), scope.cause)
                if isinstance(error, SystemExit):  # out of a task it would end the event loop, with all other calls
                    raise RuntimeError(describe(error)) from error  # noqa: TRY004 - as above
                raise


async def _attempt(
    identifier: str, name: str, function: Callable[[], object], timeout_s: float | None
) -> StepCompleted:
    try:
        result = function()
        if inspect.isawaitable(result):
            result = await (result if timeout_s is None else bounded(_awaited(result), timeout_s, f"unpod-step-{name}"))
    except TimedOut:
        late = f"it has taken longer than {timeout_s} s"
        return StepCompleted(step=identifier, name=name, error_type="TimeoutError", error=late)
    except BaseException as error:  # it is recorded, and raised again as StepFailed
        if not is_theirs(error):
            raise
        return StepCompleted(step=identifier, name=name, error_type=type(error).__name__, error=str(error)[:500])
    try:
        value: object = msgspec.json.decode(msgspec.json.encode(result))
    except (TypeError, msgspec.MsgspecError) as error:
        msg = f"step {name!r} returned a {type(result).__name__}, which JSON cannot hold: {error}"
        raise TypeError(msg) from None
    return StepCompleted(step=identifier, name=name, value=value)


def _with_key(function: Callable[..., object], kwargs: Mapping[str, object], identifier: str) -> dict[str, object]:
    """Return the arguments by name, with the step's id for a function that takes an `idempotency_key`."""
    given = dict(kwargs)
    try:
        takes = "idempotency_key" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins may have no signature
        takes = False
    if takes:
        given.setdefault("idempotency_key", identifier)
    return given


async def _awaited(result: Awaitable[T]) -> T:
    return await result


def _outcome(completed: StepCompleted, function: Callable[..., object]) -> object:
    if completed.error_type is not None:
        raise StepFailed(completed.name, completed.error_type, completed.error or "")
    return _as_promised(completed, function)


def _as_promised(completed: StepCompleted, function: Callable[..., object]) -> object:
    """Return a result in the type that the function's annotation promises, as far as it can be had from JSON."""
    try:
        promised = get_type_hints(inspect.unwrap(function)).get("return", Any)
    except Exception:  # noqa: BLE001 - no function with annotations, or such as only a type checker can read
        return completed.value
    try:
        return msgspec.convert(completed.value, promised, str_keys=True)
    except msgspec.ValidationError as error:
        logger.warning("step %s: what it has returned is not what its annotation says: %s", completed.name, error)
    except TypeError:  # a type that msgspec does not know
        pass
    return completed.value
