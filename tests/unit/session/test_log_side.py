"""A session and its log: gaps, foreign and unreadable records, fences, and records that do not fit."""

from __future__ import annotations

import logging
from itertools import pairwise

import msgspec
import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext, Session
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS
from unpod.core.live import Again
from unpod.errors import RecordTooLarge
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle


def session_of(call: SimulatedCall) -> Session:
    assert call.context is not None
    return call.context.session


async def put(call: SimulatedCall, event: str, payload: bytes) -> None:
    """Record a frame byte for byte."""
    await call.line._append("evt", event, payload)
    await settle()


# --- what comes in ----------------------------------------------------------------------------------------------------


async def test_what_the_tail_missed_is_read_from_the_log() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        call.line.log.broker.drop(call.line.call.evt("user.text"))
        await call.user("missed", wait=False)
        await settle()
        assert ear.args("user_turn") == []
        await call.frame("metric", turns=1)
        assert (await call.reply()).text == "yes"
        await settle()
    assert ear.events[:3] == ["call_start", "user_turn", "metric"]
    assert len(ear.args("metric")) == 1


async def test_a_record_that_comes_twice_counts_once() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("hi")
        for message in tuple(call.line.log.broker.records):
            call.line.log.send(message.subject, message.data, message.headers)
        await settle()
        assert ear.args("user_turn") == [("hi",)]
        assert (await call.metrics()).turns == 1


HOSTILE = {
    "another type": b'{"event":"user.text","text":5}',
    "no JSON": b"\xff\xfe",
    "a nesting bomb": b'{"event":"user.text","extra":' + b"[" * 200_000,
    "the tag of another": b'{"event":"call.ended","reason":"forged"}',
    "nothing": b"",
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_record_that_cannot_be_read_is_passed_over_and_the_call_goes_on(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await put(call, "user.text", payload)
        assert await call.user("still there?") == "yes"
        assert ear.args("user_turn") == [("still there?",)]
    assert "cannot be read" in caplog.text or "payload of another" in caplog.text


async def test_an_unknown_record_is_passed_over_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        await put(call, "user.emotion", b'{"event":"user.emotion","mood":"good"}')
        assert await call.user("hi") == "yes"
    assert not caplog.records


ODD_FRAMES = {
    "a huge number": b'{"event":"metric","turns":1,"x":' + b"9" * 5_000 + b"}",
    "infinity": b'{"event":"metric","turns":1,"x":1e999}',
    "bad UTF-8 in a key": b'{"event":"metric","turns":1,"\xff":1}',
}


@pytest.mark.parametrize("payload", ODD_FRAMES.values(), ids=ODD_FRAMES.keys())
async def test_a_frame_with_odd_extras_reaches_its_hook_without_them(payload: bytes) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await put(call, "metric", payload)
        assert await call.user("hi") == "yes"
    [(event,)] = ear.args("metric")
    assert (event["turns"], event.get("x")) == (1, None)  # type: ignore[attr-defined, index]


async def test_a_malformed_message_on_a_live_subject_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        for data in (b"", b"[", b"[1]", b'["x",1,1,1]', b"\xff"):
            call.line.log.send(call.line.call.again, data)
            call.line.log.send(call.line.call.text, data, {"Unpod-Subject": "not a subject of the log"})
        await settle()
        assert await call.user("hi") == "yes"
    assert caplog.text.count("malformed request for pieces") == 5


async def test_pieces_that_the_bridge_has_missed_are_sent_again() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("one ")
        call.line.log.broker.drop(call.line.call.delta)
        await brain.say("two ")
        await brain.say("three ")
        assert call.line.replies[1].text == "one "
        again = Again(call.line.epoch, 1, 0, 2)
        call.line.log.send(call.line.call.again, msgspec.json.encode(again))
        await settle()
        assert call.line.replies[1].text == "one two three "


async def test_pieces_are_not_sent_again_for_another_owner_or_turn() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        call.line.log.broker.drop(call.line.call.delta)
        await brain.say("one ")
        epoch = call.line.epoch
        for again in (Again(epoch + 1, 1, 0, 1), Again(epoch, 2, 0, 1), Again(epoch, 1, 1, 1)):
            call.line.log.send(call.line.call.again, msgspec.json.encode(again))
        await settle()
        assert 1 not in call.line.replies


# --- what goes out ----------------------------------------------------------------------------------------------------


async def test_the_owners_records_have_indexes_without_gaps_and_say_what_it_had_seen() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        for text in ("one", "two"):
            await call.user(text)
            await call.frame("metric", turns=1)
        await call.advance(12)
        await call.hang_up()
        own = [record.envelope for record in await call.records() if record.channel in OWNER_CHANNELS]
    assert [envelope.index for envelope in own] == list(range(1, len(own) + 1))
    assert {envelope.epoch for envelope in own} == {call.line.epoch}
    for before, after in pairwise(own):
        assert before.seen <= after.seen
        assert before.settled <= after.settled
    assert all(envelope.settled <= envelope.seen for envelope in own)


async def test_an_input_whose_hooks_are_still_to_run_is_not_called_settled() -> None:
    """A successor would not run them again, so nobody would."""
    async with simulate_call(agent(Ear(), Plain("yes"))) as call:
        await call.user("hi")
        await call.advance(1)
        await call.hang_up()
        records = await call.records()
    [ended] = [record.envelope.index for record in records if isinstance(record.body, ev.CallEnded)]
    [summary] = [record.envelope for record in records if isinstance(record.body, ev.CallCompleted)]
    assert summary.settled < ended
    assert records[-1].envelope.settled == ended


async def test_nothing_is_settled_before_run() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.say("hello")
        await ctx.session.run()

    async with simulate_call(handle) as call:
        [say] = [record.envelope for record in await call.records() if isinstance(record.body, cmd.Say)]
        assert say.settled == 0


async def test_the_records_say_what_caused_them() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def fill(text: str) -> None:
            await ctx.session.say("hm")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.advance(1)
        records = await call.records()
    [text] = [record.envelope for record in records if isinstance(record.body, ev.UserText)]
    [say] = [record.envelope for record in records if isinstance(record.body, cmd.Say)]
    [end] = [record.envelope for record in records if isinstance(record.body, cmd.EndReply)]
    assert say.cause == end.cause == text.id


async def test_a_command_that_does_not_fit_into_a_record_is_refused_and_the_call_goes_on() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        with pytest.raises(RecordTooLarge):
            await session_of(call).say("x" * 2_000_000)
        assert await call.user("still there?") == "yes"
        assert call.said == ()
        assert [r.envelope.index for r in await call.records() if r.channel in OWNER_CHANNELS] == [1]


async def test_a_turn_whose_texts_do_not_fit_into_a_record_is_stored_without_them() -> None:
    ear, long = Ear(), "x" * 1_040_000
    async with simulate_call(agent(ear, Plain("y" * 15_000))) as call:
        assert await call.user(long) == "y" * 15_000
        await call.advance(1)
        assert await call.user("still there?") == "y" * 15_000
        [turn] = [r.body for r in await call.records() if isinstance(r.body, ev.TurnCompleted)]
        assert (turn.turn_id, turn.withheld, turn.user_text) == (1, True, None)
    assert ear.fields("turn_complete")[0]["user_text"] == long


@pytest.mark.parametrize("text", [5, b"bytes", ["a"], {"say": "a"}])
async def test_a_command_that_nobody_could_read_is_refused(text: object) -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        with pytest.raises(TypeError):
            await session_of(call).say(text)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await session_of(call).end(reason=text)  # type: ignore[arg-type]
        assert await call.user("still there?") == "yes"


# --- who owns the call ------------------------------------------------------------------------------------------------


async def test_a_session_that_hears_of_a_newer_owner_says_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        epoch = call.line.epoch
        await call.line.acknowledge(ev.OwnerChanged(epoch=epoch + 100, runner="another", takeover=1))
        await call.line.record({"event": "call.ended", "reason": "hangup"}, "call.ended")
        assert await call.ended() == "moved"
        assert call.commands == ()
        assert [record for record in await call.records() if record.channel in OWNER_CHANNELS] == []
    assert "another runner owns it now" in caplog.text
    assert ear.args("call_end") == []


async def test_a_session_whose_record_is_refused_says_nothing_more() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.line._place("own", ev.OwnerAppointed(runner="another", takeover=1), call.line.epoch)
        await call.user("hi", wait=False)
        assert await call.ended() == "moved"
        assert [record for record in await call.records() if record.channel in OWNER_CHANNELS] == []
    assert call.result is not None
    assert not call.result.failed
