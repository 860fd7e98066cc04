"""Running code that is not ours: whatever it raises is its own, and it is not waited for beyond measure.

An agent's hooks, tools, adapter and entrypoint may raise anything, swallow their cancellation, and hang in threads. The
call, the other calls and the end of the process depend on none of that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

logger = logging.getLogger("unpod.session")

GRACE_S: Final = 1.0
"""How long code that is cancelled may take to end."""

owners: Final[WeakKeyDictionary[asyncio.Task[object], str]] = WeakKeyDictionary()
"""The session whose code a task runs, as `session.task_owner` tells."""

_left: Final[set[asyncio.Task[object]]] = set()
"""Tasks that nobody waits for any more: one that nothing refers to might be freed while it runs."""

P = ParamSpec("P")
T = TypeVar("T")


def is_theirs(error: BaseException) -> bool:
    """Whether an exception that user code raised in the running task is its own, to be reported like any other.

    The cancellation of this very task and the end of the process are not. A `CancelledError` by itself proves nothing:
    code that awaits some cancelled task raises it, too.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return not isinstance(error, KeyboardInterrupt | GeneratorExit)


async def bounded(work: Coroutine[Any, Any, T], seconds: float, name: str) -> T:
    """Return what `work` returns, or raise what it raises.

    After `seconds` it is cancelled and not waited for any more, though it may swallow that and go on.

    Raises:
        TimedOut: it has not returned within `seconds`.
    """
    task = asyncio.get_running_loop().create_task(_outcome(work), name=name)
    task.add_done_callback(lambda _: work.close())  # if it is cancelled before it begins, `work` is never awaited
    if (parent := asyncio.current_task()) is not None and (owner := owners.get(parent)) is not None:
        owners[task] = owner
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await cancelled({task})
        raise
    if not task.done():
        task.cancel()
        _leave(task)
        raise TimedOut
    outcome = task.result()
    if not isinstance(outcome, _Raised):
        return outcome
    try:
        raise outcome.error
    finally:
        del outcome, task  # the error's traceback holds this frame: break the cycle


class TimedOut(TimeoutError):  # noqa: N818 - a fact
    """User code has not returned in time; any other `TimeoutError` is its own."""


async def cancelled(tasks: Iterable[asyncio.Task[Any]], grace_s: float = GRACE_S) -> None:
    """Cancel tasks of user code, and return once they have ended or after `grace_s`; what they raise is dropped."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    await ended(running, grace_s)


async def ended(tasks: Iterable[asyncio.Task[Any]], grace_s: float = GRACE_S) -> None:
    """Wait as `cancelled` does, for tasks that are cancelled already: a second time would cut their clean-up off."""
    running = [task for task in tasks if not task.done()]
    if running:
        await asyncio.wait(running, timeout=grace_s)
    for task in running:
        if not task.done():
            logger.warning("%s does not end, though it is cancelled: it is not waited for", task.get_name())
        _leave(task)


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


async def _outcome(work: Coroutine[Any, Any, T]) -> T | _Raised:
    """Return what became of `work`: a task that raised `SystemExit` would end its event loop."""
    try:
        return await work
    except BaseException as error:
        if not is_theirs(error):
            raise
        return _Raised(error)


def _leave(task: asyncio.Task[Any]) -> None:
    """Let a task go on by itself."""
    _left.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # nobody asks for it


class DaemonThreads(ThreadPoolExecutor):
    """Up to `most` threads, each made when all others are busy; none of them is waited for at the end of the process.

    The standard pool's threads are waited for, so a single function that hangs keeps the process alive for good.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most)
        self._most = most
        self._name = name
        self._jobs: deque[Callable[[], Callable[[], None]]] = deque()
        self._news = threading.Condition()
        self._started = 0
        self._idle = 0
        self._is_full = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` in a thread; the future is the standard one."""
        future: Future[T] = Future()

        def job() -> Callable[[], None]:
            if not future.set_running_or_notify_cancel():
                return _nothing
            try:
                result = fn(*args, **kwargs)
            except StopIteration as error:  # no awaitable can raise it, so it becomes what a coroutine makes of it
                return partial(future.set_exception, RuntimeError(f"it raised StopIteration: {error}"))
            except BaseException as error:  # noqa: BLE001 - of whoever waits
                return partial(future.set_exception, error)
            return partial(future.set_result, result)

        with self._news:
            if self._idle <= len(self._jobs):
                self._start_one()
            self._jobs.append(job)
            self._news.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the standard one's
        """Wait for nothing."""

    def _start_one(self) -> None:
        if self._started < self._most:
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
            self._started += 1
        elif not self._is_full:
            self._is_full = True
            logger.warning("all %d threads of %s are busy, perhaps with code that hangs", self._most, self._name)

    def _work(self) -> None:
        tell = _nothing
        while True:
            with self._news:
                self._idle += 1  # before the result is told: its receiver may submit another job, for this thread
            tell()
            tell = _nothing  # an idle thread holds on to nothing
            with self._news:
                while not self._jobs:
                    self._is_full = False
                    self._news.wait()
                self._idle -= 1
                job = self._jobs.popleft()
            tell = job()
            del job


def _nothing() -> None:
    """Do nothing."""
