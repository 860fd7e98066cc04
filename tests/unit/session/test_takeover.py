"""Another runner takes a call over: it comes out the same wherever its runner dies, once or twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.takeover_rig import Bank, buy, data_of, facts, shop

from unpod import CallContext, ChatMessage, ToolCall
from unpod.core import events as ev
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle
from unpod.testing.survive import assert_survives_crashes


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["continue", "apologise", "repeat"])
async def test_a_call_comes_out_the_same_wherever_its_runner_dies(policy: str) -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    points = await assert_survives_crashes(handle, buy, prepare=bank.keys.clear, settings=settings)
    assert points > 30


async def test_a_step_runs_again_only_under_its_own_key() -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    async with simulate_call(handle) as call:
        await buy(call)
        points = len(call.points)
    for crash_at in range(1, points + 1):
        bank.keys.clear()
        async with simulate_call(handle, crash_at=crash_at) as call:
            await buy(call)
            stored = facts(await call.records(), ev.StepCompleted)
        assert len(set(bank.keys)) == 1
        assert Counter(step.name for step in stored) == {"charge": 1, "refuse": 1, "clean": 1}  # type: ignore[attr-defined]


class Tools:
    """Calls a tool before each word, and goes on in the middle of a reply."""

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        async for piece in self.continue_reply(text, ""):
            yield piece

    async def continue_reply(self, text: str, said: str) -> AsyncGenerator[object, None]:
        for word in ("I ", "see."):
            if not said:
                yield ToolCall("look", {}, f"{text}-{word.strip()}")
                yield word
                await asyncio.sleep(0)
            said = said.removeprefix(word)

    async def turn(self, text: str) -> str:
        raise NotImplementedError

    def assist(self, note: str) -> None:
        return

    def restore(self, history: list[ChatMessage]) -> None:
        return


async def talkative(ctx: CallContext) -> None:
    """Says something on everything that happens, and keeps what it hears."""
    session = ctx.session
    session.dialog_machine = Tools()
    session.data |= {"silences": 0, "tools": [], "turns": [], "spoken": []}
    rang = asyncio.Event()

    async def waiter(word: str) -> None:
        await rang.wait()
        await session.say(f"{word} rang")

    for word in ("first", "second"):
        _ = session.spawn("waiter", waiter(word))

    @session.on("silence")
    async def silent(seconds: float) -> None:
        session.data["silences"] += 1
        await session.say("Are you there?")

    @session.on("tool_call", replay=True)
    async def tool(name: str, arguments: object, call_id: str) -> None:
        session.data["tools"] = [*session.data["tools"], call_id]
        await session.say(f"Looking up {call_id}")

    @session.on("turn_complete", replay=True)
    async def complete(**fields: object) -> None:
        session.data["turns"] = [*session.data["turns"], (fields["turn_id"], fields["agent_text"], fields["asr_ms"])]
        await session.say(f"That was {fields['turn_id']}")

    @session.on("agent_turn", replay=True)
    async def agent(text: str) -> None:
        session.data["spoken"] = [*session.data["spoken"], text]

    @session.on("user_partial")
    async def ring(text: str) -> None:
        rang.set()

    await session.say("Hello!")
    await session.run()


SAID = ["Hello!", "Looking up a-I", "Looking up a-see.", "Looking up b-I", "Looking up b-see.", "That was 1"]
SAID += ["That was 2", "Are you there?", "Are you there?", "first rang", "second rang"]


async def look_around(call: SimulatedCall) -> None:
    await call.user("a")
    await call.frame("turn.metrics", turn_id=1, asr_ms=10.0)
    await call.advance(25)
    await call.partial("b")
    await call.user("b")
    await call.frame("turn.metrics", turn_id=2, asr_ms=20.0)
    await call.advance(1)
    await call.hang_up()


@pytest.mark.slow
async def test_hooks_on_what_the_session_did_speak_each_time_and_once_wherever_it_dies() -> None:
    crash_at, points = 0, 1
    while crash_at <= points:
        async with simulate_call(talkative, crash_at=crash_at) as call:
            await look_around(call)
            points = points if crash_at else len(call.points)
            died_in = call.points[crash_at - 1] if crash_at else ""
            said, data = Counter(call.said), data_of(call)
        if died_in == "run.tool.call":  # the brain was asked again, and its tool called again
            assert (said - Counter(SAID)).total() == 1
            again = next(iter(said - Counter(SAID))).removeprefix("Looking up ")
            tools = data["tools"]
            assert isinstance(tools, list)
            tools.remove(again)
            said &= Counter(SAID)
        assert said == Counter(SAID), died_in
        assert data == {
            "silences": 2,
            "tools": ["a-I", "a-see.", "b-I", "b-see."],
            "turns": [(1, "I see.", 10.0), (2, "I see.", 20.0)],
            "spoken": ["I see.", "I see."],
        }, died_in
        crash_at += 1


@pytest.mark.slow
async def test_two_crashes_are_as_good_as_one() -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    async with simulate_call(handle) as call:
        await buy(call)
        points, expected = len(call.points), (call.said, data_of(call), [type(what) for what in call.commands])
    for first in range(1, points, 3):
        for second in (1, 2, 3, 5, 8, 13):
            async with simulate_call(handle, crash_at=(first, first + second)) as call:
                await buy(call)
                assert (call.said, data_of(call), [type(what) for what in call.commands]) == expected, (first, second)
                assert facts(await call.records(), ev.Diverged) == []


# --- who owns the call ------------------------------------------------------------------------------------------------


async def test_a_runner_that_starts_too_late_leaves_the_call_alone() -> None:
    begun = 0

    async def handle(ctx: CallContext) -> None:
        nonlocal begun
        begun += 1
        await ctx.session.say("Hello!")
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await settle()
        late = call._runners.start(call, await call.line.takeover())
        call._kill()
        result = await late.task
        assert (result.reason, result.started) == ("moved", False)
        assert begun == 2
        assert call.said == ("Hello!",)


async def test_a_step_of_a_runner_that_has_lost_the_call_is_not_run(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    gate = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        async def later() -> None:
            await gate.wait()
            await ctx.session.step("late", lambda: ran.append(call.line.session_id))

        _ = ctx.session.spawn("later", later())
        await ctx.session.run()

    async with simulate_call(handle) as call:
        former = call._runner
        await call.line.takeover()
        await settle()
        gate.set()
        assert (await former.task).reason == "moved"
        assert ran == []
        assert "task later raised" not in caplog.text
        call._kill()
        await call.hang_up()
        assert ran == [call.line.session_id]


async def test_that_a_clean_up_can_do_no_step_in_a_lost_call_is_no_failure_of_its_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(ctx: CallContext) -> None:
        try:
            await ctx.session.run()
        finally:
            await ctx.session.step("clean", lambda: 1)

    async with simulate_call(handle) as call:
        former = call._runner
        await call.line.takeover()
        assert (await former.task).reason == "moved"
        assert "raised" not in caplog.text
        call._kill()
        await call.hang_up()
