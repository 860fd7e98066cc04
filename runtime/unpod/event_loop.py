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
"""How many more containers than are freed come before a collection of the young ones (700 in Python's default)."""
MIDDLE_COLLECTION_AFTER: Final = 2
"""How many of these come before one of the middle generation, too (10): so that looks at 10,000 containers or so."""
FULL_COLLECTION_AFTER: Final = 1_000
"""How many collections of the middle generation come before one of everything (10 in Python's default)."""

THREADS: Final = 256
"""How many functions run at once by `asyncio.to_thread` and the like, those counted that hang."""
LEFT_S: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")

_own_threads: Final = DaemonThreads(32, "unpod-own")


def new_runner() -> asyncio.Runner:
    """Return what runs coroutines on such a loop, as a context manager."""
    return asyncio.Runner(loop_factory=_new_loop)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Have Python look for objects that refer to themselves more rarely, for as long as the block lasts.

    A collection of everything stops a process for about 0.1 ms per session that it has, and by default there is one
    each time that a quarter more objects live: while calls come, all the time. One of the young objects looks mostly
    at what the turns in progress hold, and by default takes a tenth of a busy process (ADR 9). What refers to itself
    is freed that much later. A setting that is rarer yet stays, and so does none at all.
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
    """What an event loop runs functions on. It looks names up there, too: these have threads apart."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        looks_up = any(fn is known for known in (socket.getaddrinfo, socket.getnameinfo))
        return _own_threads.submit(fn, *args, **kwargs) if looks_up else super().submit(fn, *args, **kwargs)


class _Patience:
    """Within the block, from `begin` on, there is so much time to leave it: else the process ends."""

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
    """What came in one read, as long as it is taken apart: what is to be written because of it can wait for its end.

    Speech that came together leaves together so, in one write for each socket. Nothing waits outside a read: whoever
    wants to put something off looks at `reading` first.
    """

    __slots__ = ("_last", "_next", "reading")

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []
        self._last: list[Callable[[], None]] = []
        self.reading = False
        """Whether a read is being taken apart."""

    def defer(self, callback: Callable[[], None], *, last: bool = False) -> None:
        """Call back at the end of this read; with `last`, after those that may have more for what is written then."""
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
            except Exception as error:  # noqa: BLE001 - none of whoever happens to read, as with `call_soon`
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
