"""Threads for code that is not ours, and waiting for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from contextlib import suppress

import pytest

from unpod.session.task_owner import belongs
from unpod.user_code import DaemonThreads, TimedOut, bounded, cancelled, is_theirs, owners


async def test_threads_are_made_as_they_are_needed_and_used_again() -> None:
    pool = DaemonThreads(3, "test")
    loop = asyncio.get_running_loop()
    first = await loop.run_in_executor(pool, threading.current_thread)
    assert first.daemon
    for _ in range(5):
        assert await loop.run_in_executor(pool, threading.current_thread) is first
    gate = threading.Barrier(3)
    names = {await job for job in [loop.run_in_executor(pool, _meet, gate) for _ in range(3)]}
    assert names == {"test-0", "test-1", "test-2"}


def _meet(gate: threading.Barrier) -> str:
    gate.wait(10)
    return threading.current_thread().name


async def test_when_all_threads_are_busy_it_is_said_once_and_what_waits_can_be_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, release = DaemonThreads(1, "test"), threading.Event()
    hangs = pool.submit(release.wait, 10)
    done = list[int]()
    given_up, waits = pool.submit(done.append, 1), pool.submit(done.append, 2)
    assert given_up.cancel()
    release.set()
    await asyncio.wrap_future(waits)
    assert hangs.result()
    assert done == [2]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_an_idle_thread_holds_nothing_of_its_last_job() -> None:
    class Big:
        def work(self) -> None: ...

    pool, big = DaemonThreads(1, "test"), Big()
    there = weakref.ref(big)
    await asyncio.wrap_future(pool.submit(big.work))
    del big
    await asyncio.wrap_future(pool.submit(int))
    assert there() is None


async def test_what_swallows_its_cancellation_is_not_waited_for() -> None:
    over = asyncio.Event()

    async def stubborn() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    async with asyncio.timeout(5):
        with pytest.raises(TimedOut):
            await bounded(stubborn(), 0.01, "it")
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await cancelled([task], 0.01)
        assert not task.done()
        over.set()
        await task


async def test_a_bounded_one_that_is_given_up_is_cancelled_and_has_cleaned_up_by_then() -> None:
    happened = list[str]()

    async def cleans_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            happened.append("clean")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bounded(cleans_up(), 10, "it")
    assert happened == ["clean"]


async def test_whose_code_a_bounded_one_is_stays_known() -> None:
    async def whose() -> str | None:
        task = asyncio.current_task()
        assert task is not None
        return owners.get(task)

    task = asyncio.create_task(bounded(whose(), 1, "it"))
    belongs(task, "s1")
    assert await task == "s1"


async def test_a_timeout_error_of_its_own_is_no_time_out() -> None:
    async def fails() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as raised:
        await bounded(fails(), 1, "it")
    assert not isinstance(raised.value, TimedOut)


async def test_only_the_running_tasks_own_cancellation_is_ours() -> None:
    assert is_theirs(asyncio.CancelledError())
    assert not is_theirs(KeyboardInterrupt())

    async def ours() -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            return is_theirs(error)
        return True

    task = asyncio.create_task(ours())
    await asyncio.sleep(0)
    task.cancel()
    assert not await task
