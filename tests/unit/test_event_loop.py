from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest

from unpod.event_loop import Batch, batch


async def test_what_a_read_puts_off_is_done_when_it_has_been_taken_and_before_anything_else() -> None:
    done: list[str] = []
    asyncio.get_running_loop().call_soon(done.append, "the next turn")

    def take(data: bytes) -> int:
        batch().defer(lambda: done.append("first"))
        batch().defer(lambda: batch().defer(lambda: done.append("third")))
        batch().defer(lambda: done.append("second"))
        done.append(data.decode())
        return len(data)

    assert batch().read(take, b"data") == 4
    assert done == ["data", "first", "second", "third"]


async def test_what_is_written_comes_after_what_may_have_more_to_write() -> None:
    done: list[str] = []

    def write() -> None:
        done.append("written")

    def say() -> None:
        done.append("said")
        batch().defer(write, last=True)

    def take(_: bytes) -> None:
        batch().defer(write, last=True)
        batch().defer(say)

    batch().read(take, b"")
    assert done == ["said", "written", "written"]


async def test_what_is_put_off_at_the_very_end_is_done_in_the_same_read() -> None:
    done: list[str] = []

    def take(_: bytes) -> None:
        batch().defer(lambda: batch().defer(lambda: done.append("after all")), last=True)

    batch().read(take, b"")
    assert done == ["after all"]


async def test_only_a_read_has_an_end_to_wait_for() -> None:
    found: list[bool] = []
    assert not batch().reading
    batch().read(lambda _: batch().read(lambda _: found.append(batch().reading), b""), b"")
    assert found == [True]
    assert not batch().reading


async def test_an_error_ends_neither_the_read_nor_what_else_was_put_off() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError

    def take(_: bytes) -> None:
        batch().defer(fail)
        batch().defer(lambda: done.append("done"))
        raise ValueError("the data")

    with pytest.raises(ValueError, match="the data"):
        batch().read(take, b"")
    assert done == ["done"]
    assert [type(context["exception"]) for context in told] == [RuntimeError]


def test_each_event_loop_has_its_own() -> None:
    async def get() -> Batch:
        assert batch() is batch()
        return batch()

    assert asyncio.run(get()) is not asyncio.run(get())


def test_an_event_loop_that_is_over_is_let_go_of() -> None:
    async def get() -> weakref.ref[asyncio.AbstractEventLoop]:
        assert not batch().reading
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(get())
    gc.collect()
    assert loop() is None


_STUBBORN = """
import asyncio, sys, threading
from unpod.event_loop import THREADS, in_thread, run_main

async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main(fails, swallows):
    loop = asyncio.get_running_loop()
    for _ in range(THREADS + 10):
        loop.run_in_executor(None, threading.Event().wait)
    task = asyncio.create_task(stubborn()) if swallows else None
    await asyncio.sleep(0)
    assert await in_thread(lambda: 1) == 1
    assert await loop.getaddrinfo("localhost", 80)
    if fails:
        raise LookupError("no such thing")

run_main(main("fails" in sys.argv, "swallows" in sys.argv), left_s=0.2)
"""


@pytest.mark.parametrize(("how", "status"), [((), 0), (("fails",), 1), (("swallows",), 0), (("swallows", "fails"), 1)])
def test_a_process_ends_whatever_hangs_in_its_threads_or_swallows_its_cancellation(
    how: tuple[str, ...], status: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _STUBBORN, *how], check=False, timeout=20, capture_output=True, text=True
    )
    assert ended.returncode == status
    assert ("no such thing" in ended.stderr) == bool(status)
