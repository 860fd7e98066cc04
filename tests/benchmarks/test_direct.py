"""*direct* is a peer that one could ship: it validates, it can be interrupted, it takes a bad frame for what it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.benchmarks.brain import REPLY, SPOKEN, STREAM
from tests.benchmarks.line import LineCall, Timing, open_line
from tests.benchmarks.processes import process
from tests.benchmarks.rig import DIRECT, MODULES

pytestmark = pytest.mark.integration


@pytest.fixture
async def call() -> AsyncIterator[LineCall]:
    async with open_line() as line, process("-m", MODULES[DIRECT], line.url):
        [call] = await line.place(DIRECT, 1)
        yield call
        call.hang_up()


async def test_a_reply_is_whole(call: LineCall) -> None:
    assert (await call.turn(STREAM)).text == REPLY


async def test_a_caller_who_cuts_in_ends_the_reply_once(call: LineCall) -> None:
    ended: asyncio.Queue[Timing] = asyncio.Queue()
    call.ask(SPOKEN, lambda _, timing: ended.put_nowait(timing))
    call.interrupt()
    assert (await ended.get()).text != REPLY
    assert (await call.turn(STREAM)).text == REPLY  # a second end of the first reply would be the end of this one
    assert ended.empty()


async def test_a_frame_that_is_not_valid_ends_nothing(call: LineCall) -> None:
    call.send(event="user.text", text=7)
    call.send(event="nothing.known")
    assert (await call.turn(STREAM)).text == REPLY
