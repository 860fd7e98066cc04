"""An input that kills its owners is found out and skipped, and nothing else is blamed for it."""

from __future__ import annotations

import pytest
from tests.unit.bridge.call.takeover_rig import House

from unpod.core import events as ev
from unpod.core.dispatch_messages import PROBATION_S
from unpod.testing.clock import settle
from unpod_bridge.call import takeover as successions

# --- poison -----------------------------------------------------------------------------------------------------------


async def test_a_text_that_kills_its_runners_is_skipped_and_at_last_ends_the_call(house: House) -> None:
    owner = house.first
    await owner.write(ev.Settled(), settled=3)
    house.hear("boom")
    await settle()
    for number in range(2, 6):
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    text = house.records(ev.UserText)[0].envelope.id
    assert [change.skip for change in house.changes] == ["", "", text, text, text]
    (ended,) = house.records(ev.CallEnded)
    assert isinstance(ended.body, ev.CallEnded)
    assert ended.body.reason == "error"
    assert house.changes[-1].runner == "runner-5"  # for the cleanup


async def test_an_owner_that_came_past_it_is_not_blamed(house: House) -> None:
    owner = house.first
    for number in range(2, 6):
        house.hear("hi")
        await settle()
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        following.index = owner.index
        await following.write(ev.Settled(), settled=3 + 2 * number)
        await settle()
        owner = following
    assert {change.skip for change in house.changes} == {""}


@pytest.mark.parametrize(("culprit", "skipped"), [("session-1", True), ("another", False)])
async def test_a_runner_that_says_whose_code_it_stands_still_in_settles_who_is_to_blame(
    house: House, culprit: str, *, skipped: bool
) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("burn")
    await settle()
    owner = house.first
    for number in (2, 3):
        following = await house.runner(f"runner-{number}")
        owner.culprit, owner.willing = culprit, False
        await house.clock.advance(1.0)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert bool(house.changes[-1].skip) is skipped


async def test_a_call_between_turns_is_not_blamed_for_what_kills_its_runners(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    owner = house.first
    for number in range(2, 7):
        await house.clock.advance(successions.YOUNG_S)
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert {change.skip for change in house.changes} == {""}
    assert not house.records(ev.CallEnded)


async def test_while_another_is_on_probation_with_it_that_one_is_blamed(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    second.speak(1, 1, "past the hooks")
    await settle()
    assert house.suspects.count("runner-2") == 0
    house.beside(second, "other-0")
    third = await house.runner("runner-3")
    await house.kill(second)
    await house.until(lambda: third.starts)
    assert house.changes[-1].skip == ""


async def test_of_several_on_probation_none_is_blamed_and_each_is_alone_from_then_on(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("boom")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert [start.suspicion is not None and start.suspicion.alone for start in second.starts] == [False]
    house.beside(second, "other-1")
    assert house.suspects.count("runner-2") == 2
    third = await house.runner("runner-3")
    await house.kill(second)
    await house.until(lambda: third.starts)
    assert [start.suspicion is not None and start.suspicion.alone for start in third.starts] == [True]
    assert house.changes[-1].skip == ""
    fourth = await house.runner("runner-4")
    await house.kill(third)
    await house.until(lambda: fourth.starts)
    assert house.changes[-1].skip == house.records(ev.UserText)[0].envelope.id


# --- probation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["settled", "spoken", "told"])
async def test_probation_ends_when_the_owner_shows_that_it_lives(house: House, sign: str) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.suspects.count("runner-2") == 1
    if sign == "settled":
        await second.write(ev.Settled(), index=1, settled=4)
    elif sign == "told":
        second.say("over")
    else:
        second.speak(1, 1, "a")
    await settle()
    assert house.suspects.count("runner-2") == 0


async def test_probation_ends_by_itself(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    await house.clock.advance(PROBATION_S - 0.1)
    assert house.suspects.count("runner-2") == 1
    await house.clock.advance(0.2)
    assert house.suspects.count("runner-2") == 0


async def test_a_runner_of_an_older_release_is_told_to_begin_at_once(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    second.older = True
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert [(start.held, start.suspicion) for start in second.starts] == [(False, None)]
    assert house.suspects.count("runner-2") == 1


async def test_a_call_that_waits_for_nothing_is_not_on_probation(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    await house.clock.advance(successions.YOUNG_S)
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.suspects.count("runner-2") == 0


async def test_a_word_of_its_beginning_that_is_lost_makes_it_no_less_past_its_probation(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    second.lets_in = False
    await house.kill(house.first)
    await house.until(lambda: len(second.told) > 1)
    second.speak(1, 1, "a")
    await settle()
    second.say("begun")
    assert house.suspects.count("runner-2") == 0
