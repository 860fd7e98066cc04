"""Recording: while it is paused no text of the call is kept anywhere, and everybody on the call still gets it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext, LLMCall, Session, ToolCall, ToolResult
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.controls import PauseSessionRecording
from unpod.testing import ALL_VERBS, SimulatedCall, simulate_call
from unpod.testing.clock import settle

SECRET = "4111 1111 1111 1111"
NOT_NEGOTIATED = tuple(verb for verb in ALL_VERBS if not verb.startswith("recording"))


def session_of(call: SimulatedCall) -> Session:
    assert call.context is not None
    return call.context.session


def stored(call: SimulatedCall) -> bytes:
    """Return every byte that the log keeps of a call, its headers among them."""
    return b"\n".join(
        message.data + repr(sorted(message.headers.items())).encode() for message in call.line.log.broker.records
    )


async def test_pause_and_resume_are_commands_and_it_counts_as_paused_until_the_bridge_has_resumed() -> None:
    async with simulate_call(agent()) as call:
        recording = session_of(call).recording
        paused = [recording.paused]
        await recording.pause(reason="PII")
        paused.append(recording.paused)
        await settle()
        await recording.resume()
        paused.append(recording.paused)
        await settle()
        paused.append(recording.paused)
        assert paused == [False, True, True, False]
        assert call.commands == (cmd.PauseRecording(reason="PII"), cmd.ResumeRecording())


async def everything_with_the_secret(call: SimulatedCall, brain: Brain) -> None:
    """Say the secret in every way in which anybody can."""
    session = session_of(call)
    await call.partial(f"my card is {SECRET}")
    await call.user(f"my card number is {SECRET}", language="en", wait=False)
    await settle()
    await brain.say(
        ToolCall("charge", {"card": SECRET}, "t1"),
        ToolResult("charge", {"charged": SECRET}, "t1"),
        LLMCall(model="gpt", prompt_messages=[{"content": SECRET}], response_json={"text": SECRET}),
        f"Thank you, {SECRET}.",
    )
    await session.say(f"I repeat: {SECRET}")
    await session.set_filler(f"Still typing {SECRET}")
    await call.barge_in(f"Thank you, {SECRET[:4]}")
    await call.frame("error", severity="warn", source="stt", code="unsure", message=f"heard {SECRET}?")
    await call.frame("turn.metrics", turn_id=1, asr_ms=80.0, transcript=SECRET)
    await call.frame("state", state="listening", last_words=SECRET)
    await call.frame("user.emotion", text=SECRET)


async def test_no_text_of_the_pause_is_stored_and_everybody_on_the_call_still_gets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await session_of(call).recording.pause("PII")
        await settle()
        await everything_with_the_secret(call, brain)
        await call.advance(1)

        # The call itself: the brain was asked, the caller heard the answer, the hooks were told.
        assert brain.asked == [f"my card number is {SECRET}"]
        assert call.line.replies[1].text == f"Thank you, {SECRET}."
        assert call.said == (f"I repeat: {SECRET}",)
        assert ear.args("user_turn") == [(f"my card number is {SECRET}",)]
        assert ear.args("user_partial") == [(f"my card is {SECRET}",)]
        assert ear.args("agent_turn") == [(f"Thank you, {SECRET}.",)]
        assert ear.args("tool_call") == [("charge", {"card": SECRET}, "t1")]
        assert ear.args("tool_result") == [("charge", {"charged": SECRET}, "t1")]
        assert brain.marks == [f"Thank you, {SECRET[:4]}"]
        [fields] = ear.fields("turn_complete")
        assert (fields["user_text"], fields["heard_text"]) == (
            f"my card number is {SECRET}",
            f"Thank you, {SECRET[:4]}",
        )

        # What is kept: that something was said, and no word of it.
        assert SECRET.encode() not in stored(call)
        assert SECRET[:4].encode() not in stored(call)
        bodies = [record.body for record in await call.records()]
        assert ev.UserText(language="en", withheld=True) in bodies
        assert cmd.Say(text=None, withheld=True) in bodies
        assert cmd.SetFiller(text=None, withheld=True) in bodies
        [turn] = [body for body in bodies if isinstance(body, ev.TurnCompleted)]
        assert (turn.withheld, turn.user_text, turn.agent_text, turn.heard_text) == (True, None, None, None)
        assert turn.asr_ms == 80.0
        [exchange] = (await call.state()).history
        assert exchange.withheld
    assert SECRET not in caplog.text


async def test_what_was_said_before_and_after_is_kept() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        session = session_of(call)
        assert await call.user("before") == "yes"
        await call.advance(1)
        await session.recording.pause()
        await settle()
        await call.user(SECRET)
        await call.advance(1)
        await session.recording.resume()
        await settle()
        await call.user("after")
        await call.advance(1)
        texts = [(e.user, e.agent, e.withheld) for e in (await call.state()).history]
        assert texts == [("before", "yes", False), (None, None, True), ("after", "yes", False)]
        assert SECRET.encode() not in stored(call)


async def test_a_turn_that_was_open_at_the_pause_is_withheld_as_a_whole() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("take my card", wait=False)
        await brain.say("Go ahead.")
        await session_of(call).recording.pause()
        await brain.finish(f" So it is {SECRET}.")
        await call.advance(1)
        await session_of(call).recording.resume()
        await settle()
        await call.hang_up()
        assert SECRET.encode() not in stored(call)
        assert (await call.state()).history[0].withheld


async def test_a_text_of_the_pause_stays_withheld_where_its_turn_comes_later() -> None:
    """It waits behind an open reply, and is answered when the recording goes on again."""
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("one", wait=False)
        await brain.say("well")
        await session_of(call).recording.pause()
        await settle()
        await call.user(f"it is {SECRET}", wait=False)
        await settle()
        await session_of(call).recording.resume()
        await settle()
        assert not session_of(call).recording.paused
        await brain.finish()
        await brain.finish("Thank you.")
        assert brain.asked == ["one", f"it is {SECRET}"]
        await call.advance(1)
        await call.hang_up()
        assert SECRET.encode() not in stored(call)
        assert [exchange.withheld for exchange in (await call.state()).history] == [True, True]


async def test_what_a_later_prompt_repeats_of_the_pause_is_withheld_too() -> None:
    """A model is shown the whole conversation at each call, so each later report would hold the texts of the pause."""

    class Remembering(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.memory: list[str] = []

        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            self.memory.append(text)
            yield LLMCall(model="gpt", tokens_in=3, prompt_messages=list(self.memory), response_json={"text": "yes"})
            yield "yes"

    ear = Ear()
    async with simulate_call(agent(ear, Remembering())) as call:
        await call.user("before")
        await session_of(call).recording.pause()
        await settle()
        await call.user(SECRET)
        await session_of(call).recording.resume()
        await settle()
        await call.user("after")
        await settle()
        assert SECRET.encode() not in stored(call)
        calls = [record.body for record in await call.records() if isinstance(record.body, ev.LLMCalled)]
        assert [fact.withheld for fact in calls] == [False, True, True]
        assert calls[0].prompt_messages == ["before"]
        assert (await call.metrics()).tokens_in == 9
    assert ear.fields("llm_call")[2]["prompt_messages"] == ["before", SECRET, "after"]


async def test_an_error_that_quotes_the_pause_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = Plain("well", ValueError(f"cannot parse {SECRET}"))

        @session.on("user_turn")
        async def breaks(text: str) -> None:
            raise KeyError(text)

        await session.recording.pause()
        await session.run()
        raise RuntimeError(f"cleanup of {SECRET}")

    async with simulate_call(handle) as call:
        await call.user(SECRET)
        await call.advance(1)
        await call.hang_up()
        assert SECRET.encode() not in stored(call)
        bodies = [record.body for record in await call.records()]
        assert {ev.HookFailed, ev.AdapterFailed, ev.EntrypointFailed} <= {type(body) for body in bodies}
    assert SECRET not in caplog.text
    assert "KeyError" in caplog.text


async def test_what_comes_of_a_text_of_the_pause_after_it_does_not_quote_it_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    brain = Brain()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain

        @ctx.session.on("agent_turn")
        async def breaks(text: str) -> None:
            raise KeyError(text)

        await ctx.session.recording.pause()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user(SECRET, wait=False)
        await settle()
        await session_of(call).recording.resume()
        await settle()
        assert not session_of(call).recording.paused
        await brain.say(ToolCall("charge", {"card": SECRET}), SECRET, ValueError(f"cannot parse {SECRET}"))
        await call.advance(1)
        assert SECRET.encode() not in stored(call)
        bodies = {type(record.body) for record in await call.records()}
        assert {ev.ToolCalled, ev.HookFailed, ev.AdapterFailed, ev.TurnCompleted} <= bodies
    assert SECRET not in caplog.text


async def test_what_is_not_said_is_kept_during_the_pause() -> None:
    async with simulate_call(agent()) as call:
        await session_of(call).recording.pause()
        await settle()
        await call.frame("metric", cost_usd_so_far=0.5)
        await session_of(call).transfer_to_human("support", mode="warm", announcement=SECRET)
        await settle()
        bodies = [record.body for record in await call.records()]
        assert ev.CallMetric(cost_usd_so_far=0.5) in bodies
        assert cmd.Transfer(transfer_type="human", target="support", mode="warm") in bodies
        assert (await call.metrics()).cost.voice == 0.5


async def test_a_call_that_is_not_recorded_ignores_the_pause_but_keeps_its_texts_out_of_the_log() -> None:
    async with simulate_call(agent(brain=Plain("yes")), verbs=NOT_NEGOTIATED, metadata={"recording": False}) as call:
        session = session_of(call)
        await session.recording.pause()
        await settle()
        assert await call.user(SECRET) == "yes"
        await session.recording.resume()
        await settle()
        assert not session.recording.paused
        assert SECRET.encode() not in stored(call)


async def test_a_resume_without_a_pause_changes_nothing() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        await session_of(call).recording.resume()
        await call.user("kept")
        assert b"kept" in stored(call)


async def test_a_second_pause_before_the_resume_has_arrived_goes_on() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        recording = session_of(call).recording
        await recording.pause()
        await recording.resume()
        await recording.pause()
        await settle()
        assert recording.paused
        await call.user(SECRET)
        await call.advance(1)
        assert SECRET.encode() not in stored(call)


async def test_a_pause_from_outside_takes_the_texts_out_of_what_waits_for_the_log() -> None:
    phrases = [*(f"phrase {number}" for number in range(100)), f"I repeat: {SECRET}"]
    async with simulate_call(agent()) as call:
        for phrase in phrases:
            await session_of(call).say(phrase)
        await call.control(PauseSessionRecording())
        await settle(500)
        assert call.said == tuple(phrases)  # the caller hears it all the same
        assert b"phrase 0" in stored(call)  # it was on its way
        assert SECRET.encode() not in stored(call)
        records = await call.records()
        said = [record for record in records if isinstance(record.body, cmd.Say)]
        assert [record.envelope.index for record in said] == sorted(record.envelope.index for record in said)
        assert said[-1].body == cmd.Say(text=None, withheld=True)
