"""An event loop in a thread of its own, for callers that have none.

It also runs between their calls: a connection to NATS that nobody reads is given up after a few seconds. It is not set
as the event loop of any thread of theirs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Runs coroutines for any thread; its own thread starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, or raise what it raises; where the wait is interrupted, it is cancelled.

        Raises:
            RuntimeError: it is closed, or this thread has a running event loop, which would stand still.
        """
        problem = "unpod.Client is closed" if self._closed else _problem_here()
        if problem is not None:
            work.close()
            raise RuntimeError(problem)
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Run `last`, if anything has run before, and end the thread; a second call does nothing."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_awaited(last), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="unpod-client", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _awaited(last: Callable[[], Awaitable[None]]) -> None:
    await last()


def _problem_here() -> str | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return "unpod.Client blocks, so it cannot be used inside a running event loop; use unpod.AsyncClient and `await`"
