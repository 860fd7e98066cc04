"""Waiting for something that a change may bring."""

import asyncio

from unpod_orchestrator.notifier import Notifier


async def test_what_holds_already_is_not_waited_for() -> None:
    assert await Notifier().wait_for(lambda: True, 0.0)


async def test_it_looks_again_at_every_change_and_goes_on_waiting_where_that_was_not_it() -> None:
    notifier, seen = Notifier(), 0

    def third_look() -> bool:
        nonlocal seen
        seen += 1
        asyncio.get_running_loop().call_soon(notifier.notify)
        return seen == 3

    assert await notifier.wait_for(third_look, 30.0)
    assert seen == 3


async def test_what_never_holds_is_given_up_when_the_time_is_over() -> None:
    assert not await Notifier().wait_for(lambda: False, 0.01)
