"""`silence(seconds)`: nobody has spoken for so long; again at each multiple."""

from __future__ import annotations

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext
from unpod.core import events as ev
from unpod.testing import simulate_call
from unpod.testing.clock import settle


async def test_silence_fires_after_ten_seconds_and_at_each_multiple() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.advance(9.9)
        assert ear.args("silence") == []
        await call.advance(0.1)
        assert ear.args("silence") == [(10.0,)]
        await call.advance(25)
        assert ear.args("silence") == [(10.0,), (20.0,), (30.0,)]
        facts = [record.body for record in await call.records() if isinstance(record.body, ev.SilenceNoticed)]
        assert facts == [ev.SilenceNoticed(seconds=seconds) for seconds in (10.0, 20.0, 30.0)]
        assert call.commands == ()


async def test_the_timeout_can_be_set_on_the_session() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, silence_timeout_s=3)) as call:
        await call.advance(7)
    assert ear.args("silence") == [(3.0,), (6.0,)]


async def test_the_timeout_can_be_changed_in_mid_call() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.advance(4)
        assert call.context is not None
        call.context.session.silence_timeout_s = 5
        await call.advance(1)
        assert ear.args("silence") == [(5.0,)]


async def test_silence_can_be_switched_off() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, silence_timeout_s=None)) as call:
        await call.advance(1_000)
    assert ear.args("silence") == []


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_timeout_that_is_none_is_refused(seconds: float) -> None:
    async with simulate_call(agent()) as call:
        assert call.context is not None
        with pytest.raises(ValueError, match="silence_timeout_s"):
            call.context.session.silence_timeout_s = seconds


async def test_the_worker_speaks_and_nobody_is_silent() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.frame("state", state="speaking")
        await call.advance(60)
        assert ear.args("silence") == []
        await call.frame("state", state="listening")
        await call.advance(9)
        assert ear.args("silence") == []
        await call.advance(1)
        assert ear.args("silence") == [(10.0,)]


async def test_a_state_that_is_no_speech_does_not_break_the_silence() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.advance(6)
        await call.frame("state", state="listening")
        await call.frame("metric", turns=0)
        await call.advance(4)
    assert ear.args("silence") == [(10.0,)]


async def test_any_speech_begins_the_silence_anew() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.advance(8)
        await call.partial("hm")
        await call.advance(8)
        await call.user("hello?")
        await call.advance(8)
        assert ear.args("silence") == []
        await call.advance(13)
        assert ear.args("silence") == [(10.0,), (20.0,)]
        await call.user("hello?")
        await call.advance(10)
    assert ear.args("silence") == [(10.0,), (20.0,), (10.0,)]


async def test_what_the_agent_says_breaks_the_silence() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.advance(8)
        assert call.context is not None
        await call.context.session.say("are you there?")
        await call.advance(8)
        assert ear.args("silence") == []
        await call.advance(2)
        assert ear.args("silence") == [(10.0,)]


async def test_a_piece_of_a_reply_breaks_the_silence() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.advance(8)
        await brain.say("well")
        await call.advance(8)
        assert ear.args("silence") == []
        await brain.finish()


async def test_who_waits_for_a_slow_brain_is_not_silent() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.advance(6)
        await call.user("hi", wait=False)
        await call.user("are you there?", wait=False)
        await settle()
        await call.advance(25)
        await brain.say("well")
        await call.advance(15)
        await brain.finish()
        await call.advance(15)
        assert ear.args("silence") == []
        await brain.finish("yes")
        await call.advance(9)
        assert ear.args("silence") == []
        await call.advance(11)
    assert ear.args("silence") == [(10.0,), (20.0,)]


async def test_a_text_that_nobody_answers_begins_the_silence() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.advance(8)
        await call.user("hi")
        await call.advance(10)
    assert ear.args("silence") == [(10.0,)]


async def test_a_hook_can_end_a_call_that_is_silent() -> None:
    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("silence")
        async def on_silence(seconds: float) -> None:
            if seconds >= 20:
                await ctx.session.end("no_response")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.advance(20)
        assert await call.ended() == "no_response"


async def test_after_the_end_nobody_is_silent() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.hang_up()
        await call.advance(100)
    assert ear.args("silence") == []
