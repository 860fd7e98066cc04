"""The event loop of a process: uvloop's where it is installed (the extra `fast`), else asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

_new_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_loop
except ImportError:  # an extra, and there is none for Windows or PyPy
    _new_loop = None

T = TypeVar("T")


def new_runner() -> asyncio.Runner:
    """Return what runs coroutines on such a loop, as a context manager."""
    return asyncio.Runner(loop_factory=_new_loop)


def run_main(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in this thread, as `asyncio.run` does, and return its result."""
    with new_runner() as runner:
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
