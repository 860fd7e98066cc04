"""The verbs of a session: what leaves, in which order, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext, Session, SessionClosed, UnsupportedControl
from unpod.core import commands as cmd
from unpod.testing import ALL_VERBS, SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle


def without(*verbs: str) -> tuple[str, ...]:
    return tuple(verb for verb in ALL_VERBS if verb not in verbs)


def session_of(call: SimulatedCall) -> Session:
    assert call.context is not None
    return call.context.session


def ends(call: SimulatedCall) -> list[tuple[int, str]]:
    return [(body.turn, body.reason) for body in call.commands if isinstance(body, cmd.EndReply)]


# --- say --------------------------------------------------------------------------------------------------------------


async def test_say_returns_at_once() -> None:
    async with simulate_call(agent()) as call:
        saying = session_of(call).say("hello")
        with pytest.raises(StopIteration):  # it has not waited for anything
            saying.send(None)
        await settle()
        assert call.said == ("hello",)


async def test_what_is_said_before_the_loop_leaves_before_the_loop() -> None:
    go_on = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        await ctx.session.say("hello")
        await ctx.session.say("I am Alex")
        await go_on.wait()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert call.said == ("hello", "I am Alex")
        go_on.set()


async def test_what_is_said_and_the_pieces_of_a_reply_keep_their_order() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        session = session_of(call)
        await brain.say("one ")
        for text in ("a", "b", "c", "d"):
            await session.say(text)
        await brain.say("two ")
        await session.say("e")
        await brain.finish("three")
        await settle()
        assert [text for _, text in call.spoken] == ["one ", "a", "b", "c", "d", "two ", "e", "three"]


async def test_what_a_hook_says_comes_before_the_reply() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("It was sent.")

        @ctx.session.on("user_turn")
        async def fill(text: str) -> None:
            await ctx.session.say("Let me look.")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("where is it?")
        assert call.spoken == (("say", "Let me look."), ("reply", "It was sent."))


@pytest.mark.slow
async def test_a_flood_of_phrases_is_said_in_order_and_the_call_goes_on() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def flood(text: str) -> None:
            for number in range(3_000):
                await ctx.session.say(str(number))

        await ctx.session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_timeout_s=30), timeout_s=30) as call:
        assert await call.user("hi") == "yes"
        assert call.said == tuple(str(number) for number in range(3_000))


async def test_nothing_to_say_is_not_said() -> None:
    async with simulate_call(agent()) as call:
        await session_of(call).say("")
        await settle()
        assert call.commands == ()


async def test_after_the_end_nothing_is_said_and_nobody_complains() -> None:
    ear = Ear()

    async def handle(ctx: CallContext) -> None:
        await agent(ear)(ctx)
        await ctx.session.say("too late")
        await ctx.session.interrupt()
        await ctx.session.set_filler("hm")
        await ctx.session.end()

    async with simulate_call(handle) as call:
        await call.hang_up()
        assert call.commands == ()
    assert call.result is not None
    assert not call.result.failed


# --- interrupt --------------------------------------------------------------------------------------------------------


async def test_interrupt_in_the_hook_of_a_text_stops_what_is_playing_and_the_text_is_answered() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def stop(text: str) -> None:
            await ctx.session.interrupt()

        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("stop") == "yes"
        assert call.commands == (cmd.Interrupt(), cmd.EndReply(turn=1, deltas=1, chars=3))
    async with simulate_call(handle, verbs=without("agent.interrupt")) as call:
        assert await call.user("stop") == "yes"
        assert call.commands == (cmd.EndReply(turn=1, deltas=1, chars=3),)


@pytest.mark.parametrize("negotiated", [True, False])
async def test_interrupt_ends_an_open_reply_once(negotiated: bool) -> None:  # noqa: FBT001 - a parameter of the test
    ear, brain = Ear(), Brain()
    verbs = ALL_VERBS if negotiated else without("agent.interrupt")
    async with simulate_call(agent(ear, brain), verbs=verbs) as call:
        await call.user("hi", wait=False)
        await brain.say("well, ")
        await session_of(call).interrupt()
        await brain.finish("you know")
        assert brain.happened == ["asked hi", "closed hi", "marked"]
        assert brain.marks == [None]
        reply_end = cmd.EndReply(turn=1, deltas=1, chars=6, reason="interrupted")
        assert call.commands == ((cmd.Interrupt(), reply_end) if negotiated else (reply_end,))
        assert call.line.replies[1].text == "well, "
        await call.advance(1)
        [fields] = ear.fields("turn_complete")
        assert (fields["interrupted"], fields["heard_text"]) == (True, None)
    assert ear.args("agent_turn") == [("well, ",)]
    assert ear.args("interruption") == []


async def test_interrupt_with_no_reply_open_does_nothing_where_it_was_not_negotiated() -> None:
    async with simulate_call(agent(), verbs=without("agent.interrupt")) as call:
        await session_of(call).interrupt()
        await settle()
        assert call.commands == ()


# --- set_filler -------------------------------------------------------------------------------------------------------


async def test_the_filler_is_a_command_and_is_not_spoken() -> None:
    async with simulate_call(agent()) as call:
        await session_of(call).set_filler("One moment please...")
        await settle()
        assert call.commands == (cmd.SetFiller(text="One moment please..."),)
        assert call.spoken == ()


async def test_the_filler_needs_no_negotiation_where_phrases_can_be_said() -> None:
    async with simulate_call(agent(), verbs=without("agent.filler")) as call:
        await session_of(call).set_filler("hm")
        await settle()
        assert call.commands == (cmd.SetFiller(text="hm"),)


# --- end --------------------------------------------------------------------------------------------------------------


async def test_end_lets_the_reply_come_to_its_end_and_run_returns_the_reason() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("Good")
        await session_of(call).end("no_response")
        await session_of(call).end("again")
        with pytest.raises(SessionClosed):
            await session_of(call).transfer("+15550100")
        await call.user("wait", wait=False)
        assert call.reason is None
        await brain.say("bye!")
        await session_of(call).say("By the way.")
        await brain.finish()
        assert await call.ended() == "no_response"
        assert call.commands == (
            cmd.Say(text="By the way."),
            cmd.EndReply(turn=1, deltas=2, chars=8),
            cmd.EndCall(reason="no_response", turn=1),
        )
        assert call.line.replies[1].text == "Goodbye!"
        assert brain.happened == ["asked hi", "closed hi"]
    assert ear.returned == "no_response"
    assert ear.args("agent_turn") == [("Goodbye!",)]
    assert ear.args("call_end") == [("no_response",)]


@pytest.mark.parametrize("how", ["time", "barge-in", "failure", "interrupt", "limit", "complete"])
async def test_an_end_waits_no_longer_than_the_reply(how: str) -> None:
    brain, reasons = Brain(), {"barge-in": "interrupted", "interrupt": "interrupted", "limit": "ended"}
    limit = 5.0 if how == "limit" else None
    async with simulate_call(agent(brain=brain, max_duration_s=limit)) as call:
        await call.user("hi", wait=False)
        await brain.say("Good")
        await session_of(call).end("done")
        if how == "time":
            await call.advance(29)
            assert call.reason is None
            await call.advance(1)
        elif how == "barge-in":
            await call.barge_in("Go")
            await call.user("wait", wait=False)
        elif how == "failure":
            await brain.say(ValueError("no"))
        elif how == "interrupt":
            await session_of(call).interrupt()
        elif how == "limit":
            await call.advance(5)
        else:
            brain.is_complete = True  # type: ignore[attr-defined]  # the brain has nothing more to say on this call
            await brain.finish()
            reasons["complete"] = "done"
        assert await call.ended() == "done"
        ends = [command for command in call.commands if isinstance(command, (cmd.EndReply, cmd.EndCall))]
        assert [type(end) for end in ends] == [cmd.EndReply, cmd.EndCall]
        assert ends[0] == cmd.EndReply(turn=1, deltas=1, chars=4, reason=reasons.get(how, "failed"))  # type: ignore[arg-type]


async def test_end_by_a_tool_lets_the_reply_come_to_its_end() -> None:
    class Hangs(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield "Good"
            await session_of(call).end("done")
            yield "bye!"

    async with simulate_call(agent(brain=Hangs())) as call:
        await call.user("hi", wait=False)
        assert await call.ended() == "done"
        assert call.line.replies[1].text == "Goodbye!"
        assert call.commands[-1] == cmd.EndCall(reason="done", turn=1)


async def test_end_is_completed_unless_told_otherwise() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.say("goodbye")
        await ctx.session.end()
        assert await ctx.session.run() == "completed"

    async with simulate_call(handle) as call:
        assert await call.ended() == "completed"
        assert call.commands == (cmd.Say(text="goodbye"), cmd.EndCall(reason="completed"))


async def test_the_first_end_counts() -> None:
    async with simulate_call(agent()) as call:
        await session_of(call).end("first")
        await session_of(call).end("second")
        assert await call.ended() == "first"
        assert call.commands == (cmd.EndCall(reason="first"),)


async def test_end_in_the_hook_of_a_text_asks_nobody_and_ends_its_turn_once() -> None:
    brain, ear = Brain(), Ear()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain

        @ctx.session.on("user_turn")
        async def bye(text: str) -> None:
            await ctx.session.say("Goodbye.")
            await ctx.session.end("completed")

        ear.listen(ctx.session)
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("bye", wait=False)
        await call.user("wait", wait=False)
        assert await call.ended() == "completed"
        assert brain.asked == []
        assert call.commands == (
            cmd.Say(text="Goodbye."),
            cmd.EndReply(turn=1, reason="ended"),
            cmd.EndCall(reason="completed"),
        )
    assert [fields["user_text"] for fields in ear.fields("turn_complete")] == ["bye", "wait"]


# --- transfer ---------------------------------------------------------------------------------------------------------


async def test_after_a_cold_transfer_nothing_more_is_said_and_run_returns_once_the_worker_has_closed() -> None:
    ear, brain, returned = Ear(), Brain(), list[str]()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain
        ear.listen(ctx.session)
        returned.append(await ctx.session.run())

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        call.line.closing_s = 5.0
        await session_of(call).transfer_to_human(queue="tier-2-support")
        await session_of(call).transfer_to_human(queue="another")
        await session_of(call).say("never said")
        await session_of(call).end("never")
        await call.user("thanks", wait=False)
        await call.advance(4)
        assert returned == []
        assert ear.args("call_end") == []
        await call.advance(1)
        assert await call.ended() == "transferred"
        assert call.commands == (
            cmd.EndReply(turn=1, deltas=1, chars=4, reason="ended"),
            cmd.Transfer(transfer_type="human", target="tier-2-support"),
        )
        assert brain.happened == ["asked hi", "closed hi"]
    assert returned == ["transferred"]
    assert ear.args("call_end") == [("transferred",)]
    assert len(ear.fields("turn_complete")) == 2
    assert call.result is not None
    assert not call.result.failed


async def test_after_a_cold_transfer_that_was_refused_the_session_goes_on() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"), silence_timeout_s=40)) as call:
        call.line.refuses_transfers = True
        await session_of(call).transfer("+15550100")
        await call.user("thanks", wait=False)
        await call.advance(30)
        assert ear.events == ["call_start"]
        await call.line.refuse_transfer("not connected")
        await call.reply(1)
        assert await call.user("still there?") == "yes"
        assert ear.args("error") == [("transfer_refused", "not connected", "error", "transport")]
        assert ear.args("user_turn") == [("thanks",), ("still there?",)]
        await call.advance(39)
        assert "silence" not in ear.events
        await session_of(call).transfer_to_agent("agt_b")
        await settle()
        await call.line.refuse_transfer()
        await session_of(call).end()
        assert await call.ended() == "completed"
    assert ear.args("call_end") == [("completed",)]
    assert len(ear.args("error")) == 2


@pytest.mark.parametrize("refused", [False, True])
async def test_an_entrypoint_that_transfers_and_returns_waits_for_what_comes_of_it(*, refused: bool) -> None:
    ready = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        await ready.wait()
        await ctx.session.say("One moment.")
        await ctx.session.transfer("+15550100")

    async with simulate_call(handle) as call:
        call.line.refuses_transfers, call.line.closing_s = refused, 20.0
        ready.set()
        await call.advance(10)
        assert [type(command) for command in call.commands] == [cmd.Say, cmd.Transfer]
        if refused:
            await call.line.refuse_transfer()
        await call.advance(20)
        assert await call.ended() == ("completed" if refused else "transferred")
        assert [type(command) for command in call.commands[2:]] == ([cmd.EndCall] if refused else [])


async def test_a_hook_may_try_somebody_else_where_a_transfer_was_refused() -> None:
    ready = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("error")
        async def instead(code: str, *_: object) -> None:
            if code == "transfer_refused":
                call.line.refuses_transfers = False
                await ctx.session.transfer_to_human("tier-2")

        await ready.wait()
        await ctx.session.transfer("+15550100")

    async with simulate_call(handle) as call:
        call.line.refuses_transfers = True
        ready.set()
        await settle()
        await call.line.refuse_transfer()
        assert await call.ended() == "transferred"
        assert [command.target for command in call.commands if isinstance(command, cmd.Transfer)] == [
            "+15550100", "tier-2"
        ]  # fmt: skip


async def test_after_a_warm_transfer_the_session_goes_on() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await session_of(call).transfer_to_agent(agent_id="agt_billing", mode="warm", announcement="One moment.")
        assert await call.user("still there?") == "yes"
        assert call.commands[0] == cmd.Transfer(
            transfer_type="agent", target="agt_billing", mode="warm", announcement="One moment."
        )
        assert ear.args("call_end") == []
        await call.hang_up("transferred")
    assert ear.args("call_end") == [("transferred",)]


async def test_transfer_to_a_number() -> None:
    async with simulate_call(agent()) as call:
        await session_of(call).transfer("+15551230000")
        assert await call.ended() == "transferred"
        assert call.commands == (cmd.Transfer(transfer_type="number", target="+15551230000"),)


@pytest.mark.parametrize(
    "arguments",
    [{"target": ""}, {"target": "x", "transfer_type": "fax"}, {"target": "x", "mode": "lukewarm"}],
)
async def test_a_transfer_to_nowhere_is_refused(arguments: dict[str, str]) -> None:
    async with simulate_call(agent()) as call:
        with pytest.raises(ValueError, match="transfer"):
            await session_of(call).transfer(**arguments)  # type: ignore[arg-type]
        assert call.commands == ()


async def test_what_is_asked_after_the_end_is_refused_where_somebody_relies_on_it() -> None:
    async with simulate_call(agent()) as call:
        session = session_of(call)
        await session.end()
        with pytest.raises(SessionClosed):
            await session.transfer_to_human("support")
        with pytest.raises(SessionClosed):
            await session.recording.pause()
        with pytest.raises(SessionClosed):
            await session.recording.resume()
        await settle()
        assert call.commands == (cmd.EndCall(reason="completed"),)


# --- what the other side cannot do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "ask"),
    [
        ("agent.transfer", lambda session: session.transfer("+1")),
        ("agent.transfer", lambda session: session.transfer_to_human("q", mode="warm")),
        ("recording.pause", lambda session: session.recording.pause("PII")),
        ("recording.resume", lambda session: session.recording.resume()),
    ],
    ids=["transfer", "transfer_to_human", "pause", "resume"],
)
async def test_what_was_not_negotiated_is_refused_with_the_reason_and_nothing_is_sent(verb: str, ask: object) -> None:
    assert callable(ask)
    async with simulate_call(agent(), verbs=without(verb)) as call:
        with pytest.raises(UnsupportedControl, match=verb) as raised:
            await ask(session_of(call))
        assert (raised.value.verb, len(raised.value.reason) > 20) == (verb, True)
        await settle()
        assert call.commands == ()
        assert call.spoken == ()
        assert call.reason is None
