"""`simulate_call`, as users have it: what a test can say, see and wait for."""

from __future__ import annotations

import asyncio
import time

import pytest

import unpod.testing
from unpod import CallContext, UnpodError
from unpod.core import commands as cmd
from unpod.testing import MemoryLog, ScriptedAdapter, SessionSettings, simulate_call
from unpod.testing.clock import settle


async def greet(ctx: CallContext) -> None:
    ctx.session.dialog_machine = ScriptedAdapter([("bye", "Goodbye.")], fallback="You are welcome.")
    await ctx.session.say("Hello!")
    await ctx.session.run()


def test_what_is_public_is_there() -> None:
    for name in unpod.testing.__all__:
        assert getattr(unpod.testing, name) is not None
    assert {"simulate_call", "SimulatedCall", "VirtualClock", "MemoryLog", "MemoryBroker"} <= set(unpod.testing.__all__)


async def test_a_conversation() -> None:
    async with simulate_call(greet) as call:
        assert call.said == ("Hello!",)
        assert await call.user("thanks") == "You are welcome."
        assert await call.user("bye") == "Goodbye."
        assert call.spoken[0] == ("say", "Hello!")
        assert "".join(text for kind, text in call.spoken if kind == "reply") == "You are welcome.Goodbye."
        await call.hang_up()
    assert call.reason == "hangup"


async def test_it_takes_milliseconds() -> None:
    began = time.process_time()
    async with simulate_call(greet) as call:
        for _ in range(20):
            await call.user("thanks")
        await call.advance(3_600)
    assert time.process_time() - began < 2.0


async def test_a_call_that_a_test_leaves_is_hung_up() -> None:
    async with simulate_call(greet) as call:
        reasons = [call.reason]
    assert [*reasons, call.reason] == [None, "hangup"]


async def test_a_test_that_fails_inside_fails_with_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with simulate_call(greet):
            raise ZeroDivisionError


async def test_waiting_for_a_reply_that_never_comes_is_a_time_out() -> None:
    async def mute(ctx: CallContext) -> None:
        ctx.session.on("user_turn")(lambda _: asyncio.Event().wait())
        await ctx.session.run()

    settings = SessionSettings(hook_timeout_s=30)
    with pytest.raises(TimeoutError):
        async with simulate_call(mute, settings=settings, timeout_s=0.05) as call:
            await call.user("hello?")


async def test_a_reply_is_given_up_when_the_call_is_over() -> None:
    async def leaves(ctx: CallContext) -> None:
        await ctx.session.end()
        await ctx.session.run()

    async with simulate_call(leaves) as call:
        assert await call.user("hello?") == ""


async def test_an_entrypoint_that_fails_at_once_is_a_call_that_failed() -> None:
    async def fails(_: CallContext) -> None:
        raise ValueError

    async with simulate_call(fails) as call:
        assert await call.ended() == "error"
    assert call.result is not None
    assert call.result.failed


async def test_what_was_negotiated_and_what_the_call_brings_can_be_chosen() -> None:
    async with simulate_call(
        greet, agent_id="agt", session_id="s/1", metadata={"user_number": "+1"}, verbs=("agent.say",), frame={"x": 1}
    ) as call:
        assert call.context is not None
        assert (call.context.agent_id, call.context.call_id, call.context.user_number) == ("agt", "s/1", "+1")
        with pytest.raises(UnpodError, match=r"agent\.transfer"):
            await call.context.session.transfer("+2")
        assert b'"x":1' in call.line.log.broker.records[2].data


async def test_two_calls_at_once_are_apart() -> None:
    async with simulate_call(greet) as one, simulate_call(greet) as other:
        await one.user("thanks")
        assert await other.user("bye") == "Goodbye."
        await one.hang_up()
        assert other.reason is None


async def test_what_the_agent_says_keeps_its_order_with_its_reply() -> None:
    """A command waits for the log, a piece of a reply does not: the line puts them in order, as a bridge does."""

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = ScriptedAdapter([], fallback="d e")

        @ctx.session.on("user_turn")
        async def fill(text: str) -> None:
            for word in "abc":
                await ctx.session.say(word)

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        assert [text for _, text in call.spoken] == ["a", "b", "c", "d ", "e"]


async def test_commands_are_performed_in_the_owners_order_and_each_once() -> None:
    """While the recording is paused, the whole form of a command overtakes those that wait for the log."""
    async with simulate_call(greet) as call:
        assert call.context is not None
        session = call.context.session
        await session.say("one")
        await session.recording.pause()
        await session.say("two")
        await session.say("three")
        await settle()
        assert [type(body) for body in call.commands] == [cmd.Say, cmd.Say, cmd.PauseRecording, cmd.Say, cmd.Say]
        assert call.said == ("Hello!", "one", "two", "three")
        assert len(set(call.line.command_ids)) == len(call.line.command_ids)


async def test_the_line_takes_its_time_to_close_where_it_is_told_so() -> None:
    async with simulate_call(greet) as call:
        call.line.closing_s = 3.0
        assert call.context is not None
        await call.context.session.end("completed")
        await call.advance(2.9)
        assert call.line.ended is None
        await call.advance(0.1)
        assert await call.ended() == "completed"


async def test_the_log_can_be_read_by_anybody() -> None:
    async with simulate_call(greet, session_id="s-1") as call:
        await call.user("thanks")
        log = MemoryLog(call.line.log.broker)
        subjects = [message.subject async for message in log.read("unpod.call.agent.s-1.>")]
        assert subjects[:3] == [
            "unpod.call.agent.s-1.line",
            "unpod.call.agent.s-1.evt.hello.ack",
            "unpod.call.agent.s-1.evt.call.started",
        ]
        assert (await call.state()).turn_count == 1
