"""A call that has ended keeps an owner until its cleanup is done, or has failed too often."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.bridge.call.takeover_rig import CALL, House

from unpod.core import events as ev
from unpod.errors import Fenced
from unpod.ports import Message
from unpod.testing.clock import settle


async def test_a_session_that_is_closed_needs_nobody(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.clean_up())
    await settle()
    assert not waiting.done()
    await house.first.write(ev.SessionFinished())
    async with asyncio.timeout(5):
        await waiting
    assert not house.runner_health._sessions


async def test_a_session_that_is_closed_at_once_needs_nobody(house: House) -> None:
    def close(message: Message) -> None:
        tasks.append(asyncio.create_task(house.first.write(ev.SessionFinished())))

    tasks: list[asyncio.Task[str]] = []
    await house.first.log.subscribe(CALL.evt("call.ended"), close)
    result = await house.hang_up()
    assert result.after is not None
    async with asyncio.timeout(5):
        await result.after.clean_up()
        await asyncio.gather(*tasks)


async def test_a_cleanup_is_begun_again_three_times_and_then_given_up(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.clean_up())
    owner = house.first
    for number in range(2, 5):
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert [change.takeover for change in house.changes] == [0, 1, 2, 3]
    indexes = [record.envelope.index for record in house.records(object) if record.channel in ("evt", "ack")]
    assert indexes == list(range(1, len(indexes) + 1))
    last = await house.runner("runner-5")
    await house.kill(owner)
    async with asyncio.timeout(5):
        await waiting
    assert last.offers == []


async def test_a_cleanup_whose_last_word_the_tail_has_lost_is_not_begun_again(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.clean_up())
    await settle()
    house.broker.drop(CALL.run("session.closed"))
    await house.first.write(ev.SessionFinished())
    second = await house.runner("runner-2")
    await house.kill(house.first)
    async with asyncio.timeout(5):
        await waiting
    assert second.offers == []


async def test_a_call_that_ends_while_nobody_owns_it_is_cleaned_up(house: House) -> None:
    house.hear("hi")
    house.first.speak(1, 1, "one")
    await settle()
    await house.kill(house.first)
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.clean_up())
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    change = house.changes[-1]
    assert (change.turn, change.text) == (1, "one")
    second.index = 0
    await second.write(ev.SessionFinished(), settled=9)
    async with asyncio.timeout(5):
        await waiting


async def test_the_word_of_one_that_owns_it_no_more_closes_nothing(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.clean_up())
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    house.first.log.available = True
    with pytest.raises(Fenced):
        await house.first.write(ev.SessionFinished())
    await settle()
    assert not waiting.done()
    await second.write(ev.SessionFinished(), index=1)
    async with asyncio.timeout(5):
        await waiting
