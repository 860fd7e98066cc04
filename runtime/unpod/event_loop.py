"""The event loop of a process: uvloop's where it is installed (the extra `fast`), else asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, ParamSpec, Self, TypeVar
from weakref import WeakKeyDictionary

from unpod.user_code import DaemonThreads

logger = logging.getLogger("unpod")

_new_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_loop
except ImportError:  # an extra, and there is none for Windows or PyPy
    _new_loop = None

YOUNG_COLLECTION_AFTER: Final = 5_000
"""The young generation is collected when so many more containers were made than freed (Python's default: 700)."""
MIDDLE_COLLECTION_AFTER: Final = 2
"""So many collections of the young generation come before one of the middle one (10), of 10,000 containers or so."""
FULL_COLLECTION_AFTER: Final = 1_000
"""So many collections of the middle generation come before one of everything (Python's default: 10)."""

THREADS: Final = 256
"""How many functions `asyncio.to_thread` and the like run at once; those that hang count."""
LEFT_S: Final = 5.0
"""How many seconds cancelled tasks have to end before the process ends without them."""

P = ParamSpec("P")
T = TypeVar("T")

_own_threads: Final = DaemonThreads(32, "unpod-own")


def new_runner() -> asyncio.Runner:
    """Return an `asyncio.Runner` (a context manager) whose event loop is of this kind."""
    return asyncio.Runner(loop_factory=_new_loop)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Have Python collect reference cycles more rarely, for as long as the block lasts.

    A full collection stops a process for about 0.1 ms per session that it has. By default there is one whenever the
    number of objects has grown by a quarter, and while calls come in that is all the time. Collections of young objects
    see mostly what the turns in progress hold, and by default take a tenth of a busy process's time (ADR 9). The price:
    reference cycles are freed later. A program that has set rarer collections, or none, keeps its setting.
    """
    young, middle, full = before = gc.get_threshold()
    if 0 < young < YOUNG_COLLECTION_AFTER:
        young, middle = YOUNG_COLLECTION_AFTER, MIDDLE_COLLECTION_AFTER
    gc.set_threshold(young, middle, max(full, FULL_COLLECTION_AFTER))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_main(work: Coroutine[Any, Any, T], *, left_s: float = LEFT_S) -> T:
    """Run `work` to its end in this thread, as `asyncio.run` does, with rare collections; return its result.

    No thread of `asyncio.to_thread` is waited for. Tasks that `work` leaves behind are cancelled; where they have not
    ended after `left_s`, the process ends without them, with status 1 if `work` has raised, else 0.
    """
    with rare_collections(), _Patience(left_s) as patience, new_runner() as runner:
        runner.get_loop().set_default_executor(_Threads(THREADS, "unpod-thread"))
        try:
            result = runner.run(work)
        except BaseException as error:
            patience.begin(error)
            raise
        patience.begin(None)
        return result


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread, as `asyncio.to_thread` does, in one of our own: no user code hangs there."""
    return await asyncio.get_running_loop().run_in_executor(_own_threads, partial(function, *args, **kwargs))


class _Threads(DaemonThreads):
    """The executor of an event loop. Its look-ups of host names run on our own threads, where no user code hangs."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        looks_up = any(fn is known for known in (socket.getaddrinfo, socket.getnameinfo))
        return _own_threads.submit(fn, *args, **kwargs) if looks_up else super().submit(fn, *args, **kwargs)


class _Patience:
    """Ends the process if the block is not left within `seconds` after `begin`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, error: BaseException | None) -> None:
        self._timer = threading.Timer(self._seconds, _give_up, (error, self._seconds))
        self._timer.daemon = True
        self._timer.start()


def _give_up(error: BaseException | None, seconds: float) -> None:
    if error is not None:
        sys.stderr.write(f"unpod: {type(error).__name__}: {error}\n")  # nobody else will tell it
    logger.warning("code that has not ended %g s after it was cancelled is not waited for", seconds)
    os._exit(0 if error is None else 1)


class Batch:
    """Writes that are put off until all that one read of a socket has brought is handled.

    So speech that came in together goes out together, in one write for each socket. Outside a read nothing may be put
    off: look at `reading` before `defer`.
    """

    __slots__ = ("_last", "_next", "reading")

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []
        self._last: list[Callable[[], None]] = []
        self.reading = False
        """Whether a read is being taken apart."""

    def defer(self, callback: Callable[[], None], *, last: bool = False) -> None:
        """Call back at the end of this read; with `last`, after all others, which may add to what is written then."""
        (self._last if last else self._next).append(callback)

    def read(self, take: Callable[[bytes], T], data: bytes) -> T:
        """Return what `take(data)` returns, and before that do what was put off meanwhile."""
        if self.reading:
            return take(data)
        self.reading = True
        try:
            return take(data)
        finally:
            while self._next or self._last:
                self._run(self._next)
                self._run(self._last)
            self.reading = False

    def _run(self, deferred: list[Callable[[], None]]) -> None:
        for callback in deferred:  # what they put off themselves comes last in the same round
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - reported as `call_soon` does: it is not the reader's error
                context = {"message": f"Exception in {callback!r}", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
        deferred.clear()


_batches: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Batch]] = WeakKeyDictionary()


def batch() -> Batch:
    """Return the batch of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _batches.get(loop)
    if found is None:
        found = _batches[loop] = Batch()
    return found
