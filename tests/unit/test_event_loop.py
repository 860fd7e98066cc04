from __future__ import annotations

import asyncio
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


async def test_outside_a_read_it_is_done_in_the_next_turn_and_once() -> None:
    done: list[str] = []
    batch().defer(lambda: done.append("first"))
    assert not done
    assert batch().read(bytes.decode, b"a read in between") == "a read in between"
    assert not done
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["first"]
    batch().defer(lambda: done.append("second"))
    await asyncio.sleep(0)
    assert done == ["first", "second"]


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
