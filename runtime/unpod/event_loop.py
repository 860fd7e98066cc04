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

YOUNG_COLLECTION_AFTER: Final = 10_000
"""How many more containers than are freed come before a collection of the young ones (700 in Python's default)."""
FULL_COLLECTION_AFTER: Final = 1_000
"""How many collections of the middle generation come before one of everything (10 in Python's default)."""

T = TypeVar("T")


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
    gc.set_threshold(max(young, YOUNG_COLLECTION_AFTER) if young else 0, middle, max(full, FULL_COLLECTION_AFTER))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_main(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in this thread, as `asyncio.run` does, with rare collections; return its result."""
    with rare_collections(), new_runner() as runner:
        return runner.run(work)
