"""Code that does not end when it is told to, and code that must not begin."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from tests.unit.runner.stage import stage

from unpod import CallContext
from unpod.testing import SessionSettings, simulate_call
from unpod.testing.clock import settle


async def test_an_entrypoint_does_not_begin_where_the_call_was_lost_while_call_start_ran() -> None:
    begun = list[str]()

    async def handle(ctx: CallContext) -> None:
        begun.append(ctx.session_id)
        await ctx.session.run()

    async with stage(handle) as on:

        @on.hooks.on("call_start")
        async def moves(ctx: CallContext) -> None:
            await on.bridge.lines[ctx.session_id].takeover()
            await settle()

        await on.bridge.call("job-1")
        await settle(100)
        assert begun == []
        assert on.service.stats().in_flight == 0


async def stubborn(over: asyncio.Event) -> None:
    """Go on, however often it is cancelled."""
    while not over.is_set():
        with suppress(asyncio.CancelledError):
            await over.wait()


async def test_an_entrypoint_that_swallows_its_cancellation_is_not_waited_for_once_its_call_has_moved() -> None:
    over = asyncio.Event()

    async def handle(_: CallContext) -> None:
        await stubborn(over)

    async with stage(handle) as on:
        line = await on.bridge.call("job-1")
        assert on.service.stats().in_flight == 1
        await line.takeover()
        async with asyncio.timeout(5):
            while on.service.stats().in_flight:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
        assert on.service.stats().in_flight == 0
        over.set()


async def test_an_entrypoint_whose_call_has_moved_is_cancelled_once_and_cleans_up() -> None:
    happened = list[str]()

    async def handle(ctx: CallContext) -> None:
        try:
            await ctx.session.run()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            happened.append("clean")

    async with stage(handle) as on:
        line = await on.bridge.call("job-1")
        await line.takeover()
        await settle(100)
        assert happened == ["clean"]
        assert on.service.stats().in_flight == 0


async def test_hooks_and_tasks_that_swallow_their_cancellation_are_not_waited_for_at_the_calls_end() -> None:
    over = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def hook(_: str) -> None:
            await stubborn(over)

        _ = ctx.session.spawn("stubborn", stubborn(over))
        await ctx.session.run()

    settings = SessionSettings(hook_timeout_s=0.01, hook_grace_s=0.01)
    async with simulate_call(handle, settings=settings) as call:
        await call.user("hi", wait=False)
        await call.hang_up()
    assert call.reason == "hangup"
    over.set()


async def test_a_step_in_the_clean_up_of_a_call_that_has_moved_is_no_failure_of_its_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(ctx: CallContext) -> None:
        try:
            await ctx.session.run()
        finally:
            await ctx.session.step("note", lambda: None)

    async with stage(handle) as on:
        line = await on.bridge.call("job-1")
        await settle()
        await line.takeover()
        await settle(100)
        assert on.service.stats().in_flight == 0
    assert "another runner owns it now" in caplog.text
    assert "the entrypoint raised" not in caplog.text
