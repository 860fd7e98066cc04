"""What becomes of commands: known beside the loop, the same after a takeover, and never waited for for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from tests.unit.session.rig import Plain, agent

from unpod import CallContext, CommandHandle, Outcome, Session, SessionClosed, UnsupportedControl
from unpod.adapters import ToolCall, ToolResult
from unpod.core import commands as cmd
from unpod.core.state import ToolUse
from unpod.core.verbs import VERBS
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle

Verb = Callable[[Session], Awaitable[CommandHandle]]

TARGET = "+15550100"


async def outcome_of(call: SimulatedCall, verb: Verb) -> Outcome:
    handle = await verb(call.context.session)
    return await handle.outcome(timeout_s=1)


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        (lambda session: session.say("hello"), "written"),
        (lambda session: session.say(""), "ignored"),
        (lambda session: session.interrupt(), "written"),
        (lambda session: session.set_filler("Hm."), "written"),
        (lambda session: session.recording.pause(), "written"),
        (lambda session: session.recording.resume(), "written"),
        (lambda session: session.transfer(TARGET, mode="warm"), "delivered"),
        (lambda session: session.transfer_to_human("tier-2"), "delivered"),
        (lambda session: session.dispatch("helper", metadata={"topic": "billing"}), "delivered"),
        (lambda session: session.add_participant("sip", config={"number": TARGET}), "delivered"),
        (lambda session: session.remove_participant("p-1"), "delivered"),
        (lambda session: session.end("no_response"), "delivered"),
    ],
)
async def test_each_verb_tells_what_became_of_it(verb: Verb, status: str) -> None:
    async with simulate_call(agent()) as call:
        assert (await outcome_of(call, verb)).status == status


async def test_a_worker_without_an_interrupt_has_nothing_to_interrupt_between_replies() -> None:
    async with simulate_call(agent(), verbs=VERBS) as call:
        assert (await outcome_of(call, lambda session: session.interrupt())).status == "ignored"


async def test_what_comes_after_the_end_is_ignored() -> None:
    async with simulate_call(agent()) as call:
        session = call.context.session
        await call.hang_up()
        for verb in (session.say("late"), session.interrupt(), session.end()):
            assert await (await verb).outcome() == Outcome("ignored", "the call is over")


async def test_a_hook_that_waits_for_an_outcome_holds_up_nothing() -> None:
    heard: list[Outcome] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            heard.append(await (await ctx.session.say("Let me look.")).outcome())

        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "yes"
        assert heard == [Outcome("written")]


async def test_a_cold_transfer_is_known_when_it_is_refused() -> None:
    async with simulate_call(agent()) as call:
        call.line.refuses_transfers = True
        handle = await call.context.session.transfer(TARGET)
        waiting = asyncio.ensure_future(handle.outcome(timeout_s=5))
        await settle()
        await call.advance(5)
        with pytest.raises(TimeoutError):
            await waiting
        await call.line.refuse_transfer("no such number")
        assert await handle.outcome() == Outcome("refused", "no such number")
        await call.settled()
        call.line.refuses_transfers = False
        again = await call.context.session.transfer(TARGET)
        assert await again.outcome() == Outcome("delivered")


async def test_a_takeover_finds_what_became_of_a_command_and_asks_nobody_again() -> None:
    heard: list[Outcome] = []

    async def handle(ctx: CallContext) -> None:
        handles = await ctx.session.say("hello"), await ctx.session.dispatch("helper")
        heard.extend([await handle.outcome() for handle in handles])
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.until(lambda: len(heard) == 2)
        await call.crash()
        await call.settled()
        assert heard == [Outcome("written"), Outcome("delivered")] * 2
        assert call.said == ("hello",)
        assert [type(command) for command in call.commands] == [cmd.Say, cmd.DispatchAgent]


@pytest.mark.parametrize("crash_at", range(1, 12))
async def test_wherever_the_runner_dies_the_outcome_comes(crash_at: int) -> None:
    heard: list[Outcome] = []

    async def handle(ctx: CallContext) -> None:
        handle = await ctx.session.transfer(TARGET)
        await ctx.session.run()
        heard.append(await handle.outcome())

    async with simulate_call(handle, crash_at=crash_at) as call:
        assert await call.ended() == "transferred"
    assert {outcome.status for outcome in heard} == {"delivered"}


async def test_who_waits_when_the_call_ends_is_told_that_nobody_knows() -> None:
    async with simulate_call(agent()) as call:
        handle = call.context.session._driver.kernel.outcomes.of("never heard of", cmd.Interrupt())
        waiting = asyncio.ensure_future(handle.outcome())
        await settle()
        assert not waiting.done()
        await call.hang_up()
        assert (await waiting).status == "unknown"


@pytest.mark.parametrize(
    "verb",
    [
        lambda session: session.dispatch("helper"),
        lambda session: session.add_participant("sip"),
        lambda session: session.remove_participant("p-1"),
    ],
)
async def test_participants_need_a_worker_that_can_and_a_call_that_goes_on(verb: Verb) -> None:
    async with simulate_call(agent(), verbs=("agent.say",)) as call:
        with pytest.raises(UnsupportedControl):
            await verb(call.context.session)
    with pytest.raises(SessionClosed):
        await verb(call.context.session)


async def test_the_history_has_the_turns_and_the_tools_also_after_a_takeover() -> None:
    class Brain(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield ToolCall("look_up", {"text": text}, "c1")
            yield ToolResult("look_up", {"found": 1}, "c1")
            yield "one"

    async with simulate_call(agent(brain=Brain())) as call:
        await call.user("hi")
        await call.user("and?")
        for _ in range(2):
            await call.advance(2)
            [first, second] = call.context.session.history
            assert (first.turn, first.user, first.agent, first.heard) == (1, "hi", "one", "one")
            assert first.tools == (ToolUse("look_up", {"text": "hi"}, "c1", {"found": 1}, returned=True),)
            assert second.tools[0].arguments == {"text": "and?"}
            await call.crash()
            await call.settled()
