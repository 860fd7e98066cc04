"""Another owner for a call: whoever takes it goes on where the former one was, and the caller notices little."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.unit.bridge.call.takeover_rig import CALL, House, a_house, handed

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS
from unpod.core.dispatch_messages import Hold, Offer, Release, Start, Suspicion
from unpod.errors import Fenced, RecordTooLarge
from unpod.ports import Fence, Message
from unpod.testing.clock import settle
from unpod.testing.memory import MemoryLog
from unpod_bridge.call import takeover as successions
from unpod_bridge.call.call import STORED_S
from unpod_bridge.journal.placements import placement_headers

# --- a takeover -------------------------------------------------------------------------------------------------------


async def test_another_runner_takes_over_in_this_order(house: House) -> None:
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert second.offers == [Offer(job="job-1", bridge="bridge-1", agent="agent-1", resume=True, session="session-1")]
    assert [type(told) for told in second.told] == [Hold, Start]
    first, own = house.records(ev.OwnerAppointed)
    assert isinstance(own.body, ev.OwnerAppointed)
    assert (own.body.runner, own.body.takeover) == ("runner-2", 1)
    assert own.body.waited_ms is not None
    change = house.records(ev.OwnerChanged)[-1]
    assert change.body == ev.OwnerChanged(epoch=own.seq, runner="runner-2", takeover=1)
    assert (change.seq, change.envelope.index) == (own.seq + 1, 4)
    where = {"job": "job-1", "agent": "agent-1", "session": "session-1", "bridge": "bridge-1"}
    suspicion = second.starts[0].suspicion  # it had settled nothing
    assert suspicion is not None
    placed = {"epoch": own.seq, "until_seq": change.seq, "positions": second.given.positions, "held": True}
    start = Start(**where, **placed, suspicion=Suspicion(silent_s=suspicion.silent_s))  # type: ignore[arg-type]
    assert second.starts == [start]
    assert handed(second.given, house.broker)[1]  # what is held is read by then
    assert first.seq < own.seq


async def test_the_former_owner_writes_nothing_more_and_nothing_of_it_is_heard(house: House) -> None:
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    house.first.log.available = True
    house.first.speak(1, 1, "zombie")
    with pytest.raises(Fenced):
        await house.first.write(cmd.Say(text="zombie"))
    await settle()
    await second.write(cmd.Say(text="hello"))
    await settle()
    assert (house.said, house.spoken) == (["hello"], [])


@pytest.mark.parametrize("in_time", [True, False])
async def test_an_owner_that_a_bridge_without_the_line_has_appointed_makes_place_at_once(
    house: House, *, in_time: bool
) -> None:
    second = await house.runner("runner-2")
    former = house.first.epoch
    services = replace(house.services, bridge_id="bridge-2")
    body = ev.OwnerAppointed(runner="runner-3", takeover=1)
    headers = placement_headers(services, "own", body, "session-1")
    if in_time:  # else the log refuses it, and there is nothing to do
        await house.log.append(CALL.own, codec.encode(body), headers, fence=Fence(CALL.own, former))
    else:
        with pytest.raises(Fenced):
            await house.log.append(CALL.own, codec.encode(body), headers, fence=Fence(CALL.own, former - 1))
    await settle()
    await house.clock.advance(STORED_S)
    await settle(60)
    if not in_time:
        assert len(house.records(ev.OwnerAppointed)) == 1
        return
    await house.until(lambda: second.starts)
    stray, own = house.records(ev.OwnerAppointed)[1:]
    assert isinstance(own.body, ev.OwnerAppointed)
    assert (own.body.runner, own.body.takeover) == ("runner-2", 2)
    assert house.changes[-1].epoch == own.seq > stray.seq
    assert house.changes[-1].skip == ""


async def test_a_replica_that_lags_does_not_make_the_line_of_a_refused_appointment_anothers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await house.runner("runner-2")
    before, newest, asked = await house.log.newest([CALL.line, CALL.own]), house.log.newest, 0

    async def lagging(patterns: Sequence[str], *, until_seq: int = 0) -> list[Message] | None:
        nonlocal asked
        found = await newest(patterns, until_seq=until_seq)
        if CALL.line not in patterns:
            return found
        asked += 1
        return before if asked < 4 else found

    monkeypatch.setattr(house.log, "newest", lagging)
    body = ev.OwnerAppointed(runner="runner-3", takeover=1)
    headers = placement_headers(replace(house.services, bridge_id="bridge-2"), "own", body, "session-1")
    house.broker.drop(CALL.own)
    fence = Fence(CALL.own, house.first.epoch)
    await house.log.append(CALL.own, codec.encode(body), headers, fence=fence)
    await house.kill(house.first)
    await house.until(lambda: asked)
    await house.clock.advance(1.0)
    await house.until(lambda: second.starts)
    assert asked == 4
    bodies = [record.body for record in house.records(ev.OwnerAppointed)]
    assert [body.takeover for body in bodies if isinstance(body, ev.OwnerAppointed)] == [0, 1, 2]


async def test_what_the_former_owner_had_stored_is_performed_though_the_tail_lost_it(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    await settle()
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="two"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.said == ["one", "two"]
    assert house.changes[-1].last_owner_index == 2
    second.index = 2
    await second.write(cmd.Say(text="three"))
    await settle()
    assert house.said == ["one", "two", "three"]


async def test_a_hole_in_what_was_heard_of_the_former_owner_is_filled(house: House) -> None:
    second = await house.runner("runner-2")
    house.log.available = False
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.log.available = True
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="four"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.said == ["one", "two", "three", "four"]
    assert house.changes[-1].last_owner_index == 4


async def test_a_reply_in_the_middle_goes_on(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.first.speak(1, 1, "one ")
    await settle()
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    change = house.changes[-1]
    assert (change.turn, change.part, change.chars, change.text) == (1, 0, 4, "one ")
    second.speak(1, 1, "two", part=1)
    await settle()
    await second.write(cmd.EndReply(turn=1, part=1, deltas=1, chars=3))
    await settle()
    assert house.spoken == ["one ", "two", None]


async def test_the_caller_goes_on_meanwhile(house: House) -> None:
    await house.kill(house.first)
    house.hear("is anybody there?")
    await settle()
    assert len(house.records(ev.UserText)) == 1
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    assert house.records(ev.OwnerChanged)[-1].envelope.index == house.records(ev.UserText)[0].envelope.index + 1


async def test_indexes_have_no_gap_though_the_caller_talks_all_the_time(house: House) -> None:
    second = await house.runner("runner-2")
    house.broker.delay_s = 0.002
    await house.kill(house.first)
    for number in range(200):
        house.hear(f"text {number}")
        await asyncio.sleep(0)
    await house.until(lambda: second.starts)
    change = house.records(ev.OwnerChanged)[-1]
    before = [record for record in house.records(object) if 0 < record.envelope.index < change.envelope.index]
    assert all(record.seq < change.seq for record in before if record.channel in ("evt", "ack"))
    indexes = [record.envelope.index for record in house.records(object) if record.channel in ("evt", "ack")]
    assert sorted(indexes) == list(range(1, len(indexes) + 1))


# --- who takes it -----------------------------------------------------------------------------------------------------


async def test_the_only_runner_dies_and_another_comes_later(house: House) -> None:
    house.hear("hi")
    await house.kill(house.first)
    await house.clock.advance(20)
    assert house.said == ["One moment please."]
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    await house.clock.advance(200)
    assert not house.task or not house.task.done()


async def test_nobody_ever_takes_it(house: House) -> None:
    await house.kill(house.first)
    await house.clock.advance(119)
    assert house.task is not None
    assert not house.task.done()
    await house.clock.advance(2)
    result = await house.task
    assert result.reason == "error"
    assert result.after is not None


async def test_a_runner_that_dies_before_it_has_begun_costs_another_try(house: House) -> None:
    second = await house.runner("runner-2")
    second.deaf_to = Start
    await house.kill(house.first)
    await house.until(lambda: len(second.told) > 1)
    second.die()
    third = await house.runner("runner-3")
    await house.until(lambda: third.starts)
    assert [change.takeover for change in house.changes] == [0, 1, 2]
    assert house.changes[-1].skip == ""


async def test_one_that_is_held_when_its_owner_dies_is_not_blamed(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("hi")
    owner = house.first
    for number in range(2, 6):
        following = await house.runner(f"runner-{number}")
        following.lets_in = False
        await house.kill(owner)
        await house.until(lambda runner=following: len(runner.told) > 1)  # type: ignore[misc]
        assert house.suspects.count(following.runner_id) == 0
        owner = following
    owner.let_in()
    await settle()
    assert house.suspects.count(owner.runner_id) == 1
    assert {change.skip for change in house.changes} == {""}


async def test_a_first_runner_that_does_not_begin_is_replaced() -> None:
    async with a_house(started=False) as house:
        second = await house.runner("runner-2")
        house.dispatcher.changed()
        await house.until(lambda: second.starts)
        assert house.place.released == ["not started"]
        await second.write(cmd.Say(text="hello"))
        await settle()
        assert house.said == ["hello"]


async def test_one_that_was_only_stopped_keeps_its_call_while_nobody_else_is_there(house: House) -> None:
    house.first.log.frozen = True
    house.lose("does not answer for it")
    await house.clock.advance(6)
    assert house.said == []
    house.hear("hello?")
    await house.clock.advance(1)
    assert house.said == ["One moment please."]
    house.first.log.frozen = False
    await house.clock.advance(1.0)
    await house.first.write(cmd.Say(text="here I am"))
    await settle()
    assert house.said[1:] == ["here I am"]
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.clock.advance(1.0)
    assert second.offers == []


async def test_one_that_has_just_failed_is_not_asked_again_at_once(house: House) -> None:
    house.first.willing = True
    house.lose("has not turned for 6 s")
    await house.until(lambda: house.first.told)
    assert {type(told) for told in house.first.told} == {Release}
    await house.until(lambda: len(house.first.starts) == 2)  # but before nobody is


# --- letting go -------------------------------------------------------------------------------------------------------


async def test_a_call_is_handed_over_between_turns(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.first.speak(1, 1, "one")
    await settle()
    house.runner_health._sessions["session-1"].session.hand_over()
    await house.until(lambda: second.told)
    await house.clock.advance(3)
    house.first.speak(1, 2, " two")
    await settle()
    await house.first.write(cmd.EndReply(turn=1, deltas=2, chars=7))
    await settle()
    assert second.starts == []
    await house.clock.advance(0.1)
    await house.until(lambda: second.starts)
    assert house.spoken == ["one", " two", None]
    assert [type(told) for told in second.told] == [Hold, Hold, Start]


async def test_a_turn_that_takes_long_is_handed_over_in_its_middle(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.runner_health._sessions["session-1"].session.hand_over()
    await house.until(lambda: second.told)
    await house.clock.advance(successions.BETWEEN_TURNS_S + 0.1)
    await house.until(lambda: second.starts)
    assert house.changes[-1].skip == ""


async def test_one_that_dies_while_it_lets_go_is_not_waited_for(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.runner_health._sessions["session-1"].session.hand_over()
    await house.until(lambda: second.told)
    await house.kill(house.first)
    await house.clock.advance(0.1)
    await house.until(lambda: second.starts)


# --- the log and the tail ---------------------------------------------------------------------------------------------


async def test_a_last_record_that_the_tail_has_lost_is_found_by_the_second_ping(house: House) -> None:
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="lost"))
    await settle()
    assert house.said == []
    await house.clock.advance(1.1)
    assert house.said == []  # what an owner has just written may be on its way
    await house.clock.advance(1.1)
    assert house.said == ["lost"]


async def test_a_takeover_waits_for_the_log(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    await settle()
    house.broker.skip_acks = 1  # the answer to `own` is lost: whether it is stored is not known
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert len(house.records(ev.OwnerAppointed)) == 2
    assert house.changes[-1].epoch == house.records(ev.OwnerAppointed)[-1].seq


async def test_a_line_that_is_another_bridges_is_let_go(house: House) -> None:
    await house.runner("runner-2")
    line = house.records(ev.LineTaken)[0]
    newest = next(m for m in house.broker.records if m.subject == CALL.line)
    await MemoryLog(house.broker).append(CALL.line, line.data, {**newest.headers, "Nats-Msg-Id": "other"})
    await house.kill(house.first)
    assert house.task is not None
    async with asyncio.timeout(5):
        result = await house.task
    assert result.after is None
    assert house.worker.socket.closed == 1012


async def test_a_takeover_after_megabytes_of_one_reply_goes_on(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("tell me everything")
    await settle()
    for number in range(1, 31):
        house.first.speak(1, number, str(number % 10) * 100_000)
    await settle()
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    change = house.changes[-1]
    assert (change.turn, change.chars) == (1, 3_000_000)
    assert change.text == "0" * 100_000  # the end of it, from which an adapter goes on
    await second.write(cmd.Say(text="I am here"))
    await settle()
    assert house.said == ["I am here"]


async def test_what_the_log_refuses_leaves_no_gap_in_the_indexes(house: House) -> None:
    journal = house.line._journal
    assert journal is not None
    refused = asyncio.ensure_future(journal.append(ev.OwnerChanged(epoch=1, text="x" * house.broker.max_payload)))
    house.hear("hello")
    with pytest.raises(RecordTooLarge):
        await refused
    await settle()
    house.hear("anybody?")
    await settle()
    indexes = [record.envelope.index for record in house.records(object) if record.channel in BRIDGE_CHANNELS]
    assert indexes == list(range(1, journal.index + 1))
    assert [getattr(record.body, "text", "") for record in house.records(ev.UserText)] == ["hello", "anybody?"]
