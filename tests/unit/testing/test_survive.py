"""`assert_survives_crashes`: lets good code pass, and says of other code where and how it fails."""

from __future__ import annotations

import asyncio
import random
import re
from itertools import count

import pytest

from unpod import CallContext, EchoAdapter
from unpod.testing import SessionSettings, SimulatedCall, assert_survives_crashes, simulate_call


async def two_texts(call: SimulatedCall) -> None:
    await call.user("one")
    await call.user("two")


async def test_it_goes_through_every_point_of_the_call() -> None:
    crashes: list[int] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = EchoAdapter()
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        await two_texts(call)
        crashes.append(call.crashes)

    async with simulate_call(handle) as call:
        await two_texts(call)
        await call.hang_up()
        points = len(call.points)
    assert await assert_survives_crashes(handle, script) == points
    assert len(crashes) == points + 1
    assert crashes[:2] == [0, 1]


async def test_it_prepares_each_run_and_hands_its_options_on() -> None:
    prepared = count()

    async def handle(ctx: CallContext) -> None:
        assert ctx.user_number == "+15550100"
        assert ctx.session.silence_timeout_s == 3
        await ctx.session.run()

    points = await assert_survives_crashes(
        handle,
        two_texts,
        prepare=lambda: next(prepared),
        metadata={"user_number": "+15550100"},
        settings=SessionSettings(silence_timeout_s=3),
        verbs=["agent.text.delta", "agent.text.end"],
    )
    assert next(prepared) == points + 1


async def fails(handle: object, script: object = two_texts, **options: float) -> str:
    with pytest.raises(AssertionError) as caught:
        await assert_survives_crashes(handle, script, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert re.match(r"crash after point \d+ of \d+ \([\w. ]+\): ", text), text
    return text


async def test_state_that_is_not_built_up_again_is_found() -> None:
    seen: list[str] = []

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        def hook(text: str) -> None:
            seen.append(text)
            ctx.session.data["seen"] = len(seen)

        seen.clear() if not ctx.session.replaying else None
        await ctx.session.run()

    assert "session.data['seen'] is 2 instead of 1" in await fails(handle, lambda call: call.user("one"))


async def test_chance_is_found() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.data["number"] = random.random()  # noqa: S311
        await ctx.session.run()

    assert "session.data['number'] is 0." in await fails(handle)


async def test_code_that_does_other_things_when_it_runs_again_is_found() -> None:
    async def more(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def hook(text: str) -> None:
            if ctx.session.replaying:
                await ctx.session.say("again")
            await ctx.session.say("hm")

        await ctx.session.run()

    async def less(ctx: CallContext) -> None:
        if not ctx.session.replaying:
            await ctx.session.say("Hello!")
        await ctx.session.run()

    assert re.search(r"when the code runs again it does say by user_turn:|said: expected", await fails(more))
    assert "when the code runs again it does not do say by main" in await fails(less)


async def test_a_command_that_is_sent_again_is_found() -> None:
    async def handle(ctx: CallContext) -> None:
        async def tell() -> None:
            await ctx.session.say("I am back")

        if ctx.session.replaying:
            ctx.session.spawn("tell", tell()).add_done_callback(lambda _: None)
        await ctx.session.run()

    assert "commands: expected [], found ['say']" in await fails(handle)


async def test_a_call_that_does_not_go_on_is_found() -> None:
    async def handle(ctx: CallContext) -> None:
        if ctx.session.replaying:
            await asyncio.Event().wait()
        ctx.session.dialog_machine = EchoAdapter()
        await ctx.session.run()

    assert "the call did not go on within 0.2 s" in await fails(handle, timeout_s=0.2)


async def test_what_the_script_finds_is_told_with_its_place() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = EchoAdapter()
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        await two_texts(call)
        assert call.crashes == 0, "there was a crash"

    assert "there was a crash" in await fails(handle, script)


async def test_what_fails_without_a_crash_fails_as_it_is() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        raise LookupError("in the script")

    with pytest.raises(LookupError, match="in the script"):
        await assert_survives_crashes(handle, script)
