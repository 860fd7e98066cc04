"""Texts that wait, timers, transfers and ends, when their runner dies."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from tests.unit.session.takeover_rig import Gates, Slow, data_of, facts, slowly

from unpod import CallContext, EchoAdapter
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle
from unpod.testing.survive import assert_survives_crashes


@pytest.mark.slow
async def test_texts_that_wait_are_answered_in_order_and_their_hooks_run_in_their_turn() -> None:
    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            await asyncio.sleep(0)
            await session.say(f"about {text}")

        await session.run()

    async def script(call: SimulatedCall) -> None:
        for text in ("a", "b", "c"):
            await call.user(text, wait=False)
        await call.reply(3)

    points = await assert_survives_crashes(handle, script)
    async with simulate_call(handle) as call:
        await script(call)
        expected = call.said
    for first in range(1, points):
        for second in range(1, 8):
            async with simulate_call(handle, crash_at=(first, first + second)) as call:
                await script(call)
                assert call.said == expected == ("about a", "about b", "about c"), (first, second)


async def test_timers_that_are_overdue_start_afresh() -> None:
    silences: list[float] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.max_duration_s = 60

        @ctx.session.on("silence", replay=False)
        def silent(seconds: float) -> None:
            silences.append(seconds)

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.advance(11)
        assert silences == [10]
        call.line.log.broker.watch = lambda _: None
        call._runner.kill()
        await call.advance(89)  # nobody is there
        await call.crash()
        assert call.commands == ()
        await call.advance(9)
        assert silences == [10]
        await call.advance(2)
        assert silences == [10, 10]
        await call.advance(48)
        assert call.commands == ()
        await call.advance(2)
        assert await call.ended() == "max_duration"


@pytest.mark.parametrize("mode", ["cold", "warm"])
async def test_a_transfer_happens_once_and_its_end_is_told_once(mode: str) -> None:
    ends: list[str] = []

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if text == "human":
                await session.say("One moment")
                await session.transfer("+15550100", mode=mode)  # type: ignore[arg-type]

        @session.on("call_end")
        async def end(reason: str) -> None:
            ends.append(await session.step("told", str, reason))

        session.data["reason"] = await session.run()
        await session.step("clean", lambda: 1)

    async def script(call: SimulatedCall) -> None:
        await call.user("hi")
        await call.user("human")
        await call.hang_up("transferred")

    assert await assert_survives_crashes(handle, script, prepare=ends.clear) > 10
    assert set(ends) == {"transferred"}


async def test_a_transfer_that_was_refused_and_what_came_after_it_comes_out_the_same_wherever_the_runner_dies() -> None:
    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("error")
        async def refused(code: str, *_: object) -> None:
            await session.say(f"Sorry: {code}.")

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if text == "human":
                await session.transfer("+15550100")

        session.data["reason"] = await session.run()

    async def script(call: SimulatedCall) -> None:
        call.line.refuses_transfers = True
        await call.user("human", wait=False)
        await call.user("thanks", wait=False)
        await call.until(lambda: any(isinstance(command, cmd.Transfer) for command in call.commands))
        await call.settled()
        await call.line.refuse_transfer()
        await call.reply(2)
        await call.user("still there?")

    assert await assert_survives_crashes(handle, script) > 10


@pytest.mark.parametrize("goes_on", [True, False])
async def test_an_end_in_a_reply_that_its_runner_s_death_has_cut_comes_after_what_the_policy_says(
    *, goes_on: bool
) -> None:
    brains: list[Slow] = []
    async with simulate_call(slowly(brains, goes_on=goes_on)) as call:
        await call.user("hi", wait=False)
        await settle()
        assert list(call.spoken) == [("reply", "one ")]
        assert call.context is not None
        await call.context.session.end("done")
        await call.user("wait", wait=False)
        await call.crash()
        assert await call.ended() == "done"
        assert call.line.replies[1].text == "one two" if goes_on else call.line.replies[1].text.startswith("one Sorry")
        assert [type(command) for command in call.commands] == [cmd.EndReply, cmd.EndCall]
        assert call.commands[-1] == cmd.EndCall(reason="done", turn=1)
        assert len(brains[-1].asked) == goes_on


async def test_a_call_that_is_over_replays_to_its_end_and_cleans_up() -> None:
    ran: Counter[str] = Counter()
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("call_end")
        async def end(reason: str) -> None:
            ran[f"call_end {reason}"] += 1

        @session.on("turn_complete")
        async def complete(**fields: object) -> None:
            ran["turn_complete"] += 1

        session.data["reason"] = await session.run()
        await session.step("first", lambda: ran.update(["first"]))
        await gates.wait()
        await session.step("second", lambda: ran.update(["second"]))

    async with simulate_call(handle) as call:
        await call.user("hi")
        ending = asyncio.ensure_future(call.hang_up())
        await gates.reached.wait()
        await call.crash()
        await ending
        assert (call.reason, data_of(call)) == ("hangup", {"reason": "hangup"})
        assert ran == {"call_end hangup": 1, "turn_complete": 1, "first": 1, "second": 1}
        assert len(facts(await call.records(), ev.CallCompleted)) == 1
        assert len(facts(await call.records(), ev.TurnCompleted)) == 1


async def test_a_call_that_ends_while_its_new_owner_begins_is_gone_through_as_it_was() -> None:
    begun: list[CallContext] = []
    gate = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def note(text: str) -> None:
            await session.say(f"noted {text}")

        begun.append(ctx)
        if len(begun) > 1:
            await gate.wait()
        await session.say("Hello!")
        if len(begun) > 1:
            await session.say("what nobody hears")
        session.data["reason"] = await session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        crashing = asyncio.ensure_future(call.crash())
        await settle()
        assert len(begun) == 2
        ending = asyncio.ensure_future(call.hang_up())
        await settle()
        gate.set()
        await asyncio.gather(crashing, ending)
        assert (call.reason, data_of(call)) == ("hangup", {"reason": "hangup"})
        assert call.said == ("Hello!", "noted hi")
        assert [fact.found for fact in facts(await call.records(), ev.Diverged)] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("times", [1, 2])
async def test_an_entrypoint_that_raises_or_never_runs_the_call_ends_it_once(times: int) -> None:
    async def raises(ctx: CallContext) -> None:
        await ctx.session.say("Hello!")
        if times == 2:
            await ctx.session.run()
        raise RuntimeError("no")

    async def returns(ctx: CallContext) -> None:
        await ctx.session.say("Sorry, we are closed")

    async def script(call: SimulatedCall) -> None:
        if times == 2:
            await call.user("hi")
            await call.hang_up()
        await call.ended()

    assert await assert_survives_crashes(raises, script) > 3
    assert await assert_survives_crashes(returns, script) > 3
    async with simulate_call(raises, crash_at=4) as call:
        await script(call)
        assert len(facts(await call.records(), ev.EntrypointFailed)) == 1


async def test_a_crash_before_run_begins_the_call_anew() -> None:
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        await session.say("one")
        await gates.wait()
        await session.say("two")
        await session.run()

    async with simulate_call(handle) as call:
        await gates.reached.wait()
        await call.user("hi", wait=False)
        await call.crash()
        await call.reply(1)
        assert call.said == ("one", "two")


@pytest.mark.parametrize("point", ["evt.error", "cmd.reply.end"])
async def test_an_end_that_was_due_comes_though_its_runner_died_before_it(point: str) -> None:
    class Closing(EchoAdapter):
        is_complete = True

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Closing() if point == "cmd.reply.end" else EchoAdapter()
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        await call.user("hi", wait=False)
        await settle()
        if point == "evt.error":
            await call.frame("error", severity="fatal", code="gone", message="", source="stt")
        await call.ended()

    async with simulate_call(handle) as call:
        await script(call)
        crash_at = call.points.index(point) + 1
    async with simulate_call(handle, crash_at=crash_at) as call:
        await script(call)
        assert call.reason == ("error" if point == "evt.error" else "completed")
        assert [type(c) for c in call.commands if not isinstance(c, cmd.EndReply)] == [cmd.EndCall]
    assert await assert_survives_crashes(handle, script) > 4
