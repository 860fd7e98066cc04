"""The event loop of a process: uvloop's where it is installed (the extra `fast`), else asyncio's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

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
