"""An owner is told where the records of its session stand, so that it need not search for them."""

from __future__ import annotations

from functools import partial

from tests.unit.bridge.call.takeover_rig import CALL, House, handed

from unpod.core import commands as cmd
from unpod.core.dispatch_messages import Start
from unpod.core.positions import unpack


async def test_the_first_owner_is_told_where_all_stands(house: House) -> None:
    [start] = house.first.starts
    assert handed(start, house.broker) == ([1, 2, 3, 4, 5], True)


async def test_another_owner_is_told_where_all_stands(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    house.hear("hello")
    await house.first.write(cmd.Say(text="two"))
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 2))
    await house.first.write(cmd.Say(text="three"))  # which nobody has asked after
    searched = house.log.records_searched
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert handed(second.given, house.broker)[1]
    assert house.log.records_searched - searched <= second.given.epoch - house.first.seqs[2]


async def test_owners_take_turns_and_the_last_is_told_where_all_stands(house: House) -> None:
    runners = [house.first, await house.runner("runner-2")]
    for number in range(4):
        owner = runners[number]
        runners.append(await house.runner(f"runner-{number + 3}"))
        runners[-1].willing = False
        await owner.write(cmd.Say(text=f"{number}"), index=number + 1, settled=3)
        await house.clock.advance(1.1)
        await house.until(partial(house.is_charted, number + 1))
        runners[number + 1].willing = True
        await house.kill(owner)
        await house.until(partial(len, runners[number + 1].starts))
        assert handed(runners[number + 1].given, house.broker)[1]


async def test_an_owner_that_does_not_say_where_its_records_stand_is_replaced_as_ever(house: House) -> None:
    house.first.tells = False
    second = await house.runner("runner-2")
    for text in ("one", "two"):
        await house.first.write(cmd.Say(text=text))
    await house.clock.advance(1.1)
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    seqs, is_whole = handed(second.given, house.broker)
    assert (seqs[:5], is_whole) == ([1, 2, 3, 4, 5], False)
    assert unpack(second.given.positions).through < min(house.first.seqs.values())
    assert house.changes[-1].last_owner_index == 2


async def test_a_wrong_word_on_where_records_stand_costs_a_search_and_nothing_else(house: House) -> None:
    second = await house.runner("runner-2")
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.first.seqs = {index: seq + 50 for index, seq in house.first.seqs.items()}
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 3))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert (house.said, house.changes[-1].last_owner_index) == (["one", "two", "three"], 3)


async def test_a_place_that_is_left_out_costs_a_search_and_nothing_else(house: House) -> None:
    second = await house.runner("runner-2")
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.first.seqs[2] = house.first.seqs[1] + 1  # which is another session's, or none
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 3))
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="four"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert (house.said, house.changes[-1].last_owner_index) == (["one", "two", "three", "four"], 4)


async def test_an_owner_of_a_call_that_has_ended_is_told_where_all_stands(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    await house.clock.advance(1.1)
    await house.hang_up()
    await house.clock.advance(1.1)
    await house.kill(house.first)
    await house.until(lambda: any(isinstance(told, Start) for told in second.told))
    assert handed(second.given, house.broker)[1]
