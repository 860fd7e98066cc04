from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.runner.stage import stage

from unpod.runner.runner_hooks import RunnerHooks
from unpod.testing.clock import settle

if TYPE_CHECKING:
    from unpod import CallContext, CallMetrics


def context() -> CallContext:
    return cast("CallContext", object())  # hooks are handed it, and nothing here looks inside


async def test_a_hook_that_raises_is_logged_by_name_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    hooks, told = RunnerHooks(1.0), list[str]()

    @hooks.on("call_start")
    async def breaks(_: CallContext) -> None:
        raise ValueError("what the caller said")

    @hooks.on("call_start")
    async def works(_: CallContext) -> None:
        told.append("works")

    await hooks.call_start(context())
    assert told == ["works"]
    assert "breaks" in caplog.text
    assert "ValueError" in caplog.text
    assert "what the caller said" not in caplog.text


async def test_a_hook_that_takes_long_keeps_no_call_waiting_and_finishes(caplog: pytest.LogCaptureFixture) -> None:
    hooks, go_on, told = RunnerHooks(0.01), asyncio.Event(), list[str]()

    @hooks.on("call_end")
    async def slow(_: CallContext, final_state: str) -> None:
        await go_on.wait()
        told.append(final_state)

    async with asyncio.timeout(10):
        await hooks.call_end(context(), "ended")
    assert told == []
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    go_on.set()
    await hooks.over()
    assert told == ["ended"]


async def test_hooks_that_never_return_are_cancelled_in_the_end() -> None:
    hooks = RunnerHooks(0.01)

    @hooks.on("call_end")
    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    await hooks.call_end(context(), "ended")
    hooks.cancel_all()
    async with asyncio.timeout(10):
        await hooks.over()
    await settle()


async def test_the_figures_of_each_call_are_told_with_its_context() -> None:
    told = list[tuple[str, float]]()

    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()

    async with stage(handle) as on:

        @on.hooks.on("metric")
        async def figures(ctx: CallContext, metrics: CallMetrics) -> None:
            told.append((ctx.session_id, metrics.cost.voice))

        line = await on.bridge.call("job-1")
        await line.record({"event": "metric", "turns": 1, "cost_usd_so_far": 0.25}, "metric")
        await settle(100)
        assert [cost for _, cost in told] == [0.25]
        assert [ctx.session_id for ctx in on.service.contexts()] == [session for session, _ in told]
