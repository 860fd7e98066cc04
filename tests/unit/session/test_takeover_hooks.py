"""Hooks and takeovers: what runs again, what a crash has cut off, and what changed code does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.unit.session.takeover_rig import Gates, data_of, facts

from unpod import CallContext, EchoAdapter, Session
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle

Register = Callable[[Session, Callable[[], Awaitable[None]]], object]


def on_text(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("user_turn")
    async def hook(text: str) -> None:
        await body()


def on_silence(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("silence")
    async def hook(seconds: float) -> None:
        await body()


def on_reply(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("agent_turn")
    async def hook(text: str) -> None:
        await body()


def on_completion(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("turn_complete")
    async def hook(**fields: object) -> None:
        await body()


def on_cut(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("interruption", replay=False)
    async def hook() -> None:
        await body()


async def cut_in(call: SimulatedCall) -> None:
    await call.user("hi")
    await call.barge_in("hel")


async def say_hi_and_wait(call: SimulatedCall) -> None:
    await call.user("hi", wait=False)
    await settle()
    await call.advance(2)


async def wait_long(call: SimulatedCall) -> None:
    await call.advance(10)


@pytest.mark.parametrize(
    ("register", "script"),
    [
        (on_text, say_hi_and_wait),
        (on_silence, wait_long),
        (on_reply, say_hi_and_wait),
        (on_completion, say_hi_and_wait),
        (on_cut, cut_in),
    ],
)
async def test_a_hook_that_a_crash_cuts_off_does_the_rest_of_it_once(
    register: Register, script: Callable[[SimulatedCall], Awaitable[None]]
) -> None:
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        async def body() -> None:
            await session.say("one")
            await gates.wait()
            await session.say("two")

        register(session, body)
        await session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_timeout_s=600)) as call:
        playing = asyncio.ensure_future(script(call))
        await gates.reached.wait()
        await settle()
        await call.crash()
        await playing
        await call.advance(1)
        assert gates.passed == 2
        await call.crash()
        await settle()
        await call.hang_up()
        assert call.said == ("one", "two")
        assert facts(await call.records(), ev.Diverged) == []


@pytest.mark.parametrize(("event", "again"), [("user_turn", True), ("turn_complete", False), ("agent_turn", False)])
@pytest.mark.parametrize("replay", [True, False, None])
async def test_a_hook_that_had_returned_runs_again_as_its_rule_says(
    event: str,
    again: bool,  # noqa: FBT001
    replay: bool | None,  # noqa: FBT001
) -> None:
    ran = 0

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on(event, replay=replay)  # type: ignore[call-overload]  # any event
        async def hook(*_: object, **__: object) -> None:
            nonlocal ran
            ran += 1
            assert session.replaying == (call.crashes > 0)
            await session.say("ran")

        await session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.advance(2)
        assert ran == 1
        await call.crash()
        assert ran == (2 if replay or (replay is None and again) else 1)
        assert call.said == ("ran",)


async def test_a_hook_that_raised_is_recorded_once() -> None:
    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def hook(text: str) -> None:
            raise RuntimeError("no")

        @ctx.session.on("user_turn")
        async def slow(text: str) -> None:
            await asyncio.Event().wait()

        await ctx.session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_timeout_s=0.01, hook_grace_s=0.01)) as call:
        await call.user("hi")
        await call.crash()
        await call.user("you")
        await call.crash()
        failed = facts(await call.records(), ev.HookFailed)
    assert [fact.timed_out for fact in failed] == [False, True, False, True]  # type: ignore[attr-defined]


# --- changed code -----------------------------------------------------------------------------------------------------


async def twenty_turns(call: SimulatedCall) -> None:
    for number in range(20):
        await call.user(f"text {number}")


async def test_new_code_says_nothing_anew_and_what_it_does_otherwise_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = 1

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if version == 1:
                await session.say(f"noted: {text}")
            else:
                await session.set_filler("hm")

        await session.say(f"Hello from {version}")
        if version == 2:
            await session.say("I am new here")
        await session.run()

    async with simulate_call(handle) as call:
        await twenty_turns(call)
        before = call.said
        version = 2
        await call.crash()
        assert call.said == before
        assert not any(isinstance(command, cmd.SetFiller) for command in call.commands)
        assert await call.user("and now?") == "You said: and now?"
        assert any(isinstance(command, cmd.SetFiller) for command in call.commands)
        diverged = [(what.expected, what.found) for what in facts(await call.records(), ev.Diverged)]  # type: ignore[attr-defined]
    assert diverged[0] == ("", "say by main")
    hook = f"user_turn:{test_new_code_says_nothing_anew_and_what_it_does_otherwise_is_recorded.__name__}.handle.hook:0"
    assert set(diverged[1:]) == {(f"say by {hook}", f"filler.set by {hook}"), (f"say by {hook}", "")}
    assert "the code has changed" in caplog.text
    assert "text 1" not in caplog.text


async def test_a_step_that_is_new_in_old_places_runs_and_is_recorded_as_new() -> None:
    version, ran = 1, 0

    def step() -> int:
        nonlocal ran
        ran += 1
        return ran

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if version == 2:
                session.data["got"] = await session.step("new", step)

        await session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        version = 2
        await call.crash()
        await call.crash()
        assert ran == 1
        assert data_of(call) == {"got": 1}
        found = [what.found for what in facts(await call.records(), ev.Diverged)]  # type: ignore[attr-defined]
    assert len(found) == 1
    assert found[0].startswith("step new by user_turn:")


async def test_replaying_and_now_tell_of_the_past() -> None:
    told: list[tuple[bool, float]] = []

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            told.append((session.replaying, session.now()))

        told.append((session.replaying, session.now()))
        await session.run()

    async with simulate_call(handle, settings=SessionSettings(silence_timeout_s=None)) as call:
        await call.advance(100)
        await call.user("hi")
        await call.advance(100)
        await call.crash()
        await call.user("you")
    start = told[0][1]
    assert told == [(False, start), (False, start + 100), (True, start), (True, start + 100), (False, start + 200)]


async def test_a_hook_that_runs_again_finds_the_call_as_it_was_then() -> None:
    found: list[list[tuple[str, int]]] = []

    async def handle(ctx: CallContext) -> None:
        seen: list[tuple[str, int]] = []
        found.append(seen)
        ctx.session.dialog_machine = EchoAdapter()

        @ctx.session.on("user_turn")
        async def hook(text: str) -> None:
            seen.append((text, len(ctx.session.history)))

        await ctx.session.run()

    async with simulate_call(handle) as call:
        for number, text in enumerate(("one", "two", "three"), 1):
            await call.user(text)
            await call.frame("turn.metrics", turn_id=number)
        await call.crash()
        await call.user("four")
    before, after = found
    assert before == [("one", 0), ("two", 1), ("three", 2)]
    assert after == [*before, ("four", 3)]
