"""The event loop of a command: Ctrl-C and SIGTERM cancel what runs, so that everything is closed in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from unpod.event_loop import new_runner
from unpod_cli.failure import TERMINATED

T = TypeVar("T")


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work` to its end and return its result.

    Raises:
        KeyboardInterrupt: Ctrl-C; everything has been closed.
        SystemExit: SIGTERM; everything has been closed.
    """
    with new_runner() as runner:
        return runner.run(_terminable(work))


async def _terminable(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work())
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated.is_set():
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def unless(doom: Awaitable[object], work: Awaitable[T]) -> T:
    """Return what `work` returns; where `doom` is over before, raise what it raises and cancel `work`."""
    task, doomed = asyncio.ensure_future(work), asyncio.ensure_future(doom)
    try:
        await asyncio.wait({task, doomed}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            doomed.result()
        return await task
    finally:
        for each in (task, doomed):
            each.cancel()
        await asyncio.gather(task, doomed, return_exceptions=True)
