"""The event loop of a process: uvloop's where it is installed (the extra `fast`), else asyncio's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

_new_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_loop
except ImportError:  # an extra, and there is none for Windows or PyPy
    _new_loop = None

FULL_COLLECTION_AFTER: Final = 1_000
"""How many collections of the middle generation come before one of everything (10 in Python's default)."""

T = TypeVar("T")


def new_runner() -> asyncio.Runner:
    """Return what runs coroutines on such a loop, as a context manager."""
    return asyncio.Runner(loop_factory=_new_loop)


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Have Python look through all objects a hundredth as often, for as long as the block lasts.

    A collection of everything stops a process for about 0.1 ms per session that it has, and by default there is one
    each time that a quarter more objects live: while calls come, all the time (ADR 9). What refers to itself, and
    lives longer than some seconds, is freed that much later. A setting that is rarer yet stays.
    """
    before = gc.get_threshold()
    gc.set_threshold(before[0], before[1], max(before[2], FULL_COLLECTION_AFTER))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_main(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in this thread, as `asyncio.run` does, with rare full collections; return its result."""
    with rare_full_collections(), new_runner() as runner:
        return runner.run(work)


class Batch:
    """What is put off until all that came in one read has been taken: to be written to the same socket at once, say.

    Outside a read that is until the event loop's next turn. `defer` costs no turn of its own inside one: on uvloop that
    would be two more system calls.
    """

    __slots__ = ("_busy", "_deferred", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deferred: list[Callable[[], None]] = []
        self._busy = False
        """Whether somebody sees to it that what is put off is done."""

    def defer(self, callback: Callable[[], None]) -> None:
        """Call back soon."""
        self._deferred.append(callback)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._run)

    def read(self, take: Callable[[bytes], T], data: bytes) -> T:
        """Return what `take(data)` returns, and before that do what has been put off meanwhile."""
        if self._busy:
            return take(data)
        self._busy = True
        try:
            return take(data)
        finally:
            self._run()

    def _run(self) -> None:
        for callback in self._deferred:  # what they put off themselves comes last in the same round
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - none of whoever happens to read, as with `call_soon`
                self._loop.call_exception_handler({"message": f"Exception in {callback!r}", "exception": error})
        self._deferred.clear()
        self._busy = False


_batches: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Batch]] = WeakKeyDictionary()


def batch() -> Batch:
    """Return the batch of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _batches.get(loop)
    if found is None:
        found = _batches[loop] = Batch(loop)
    return found
