"""What user code lets through is its own, and reported like any exception.

Such as the `CancelledError` of a task that it has cancelled itself, `sys.exit()`, and a group of both.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine

import pytest
from tests.unit.session.rig import Ear, Plain, agent

from unpod import CallContext
from unpod.adapters.chat import ChatAdapter, Prompt
from unpod.adapters.memory import Used
from unpod.adapters.metering import Meter
from unpod.adapters.pieces import ToolCall
from unpod.core import events as ev
from unpod.errors import StepFailed
from unpod.testing import SimulatedCall, simulate_call


class Whole(BaseException):
    """What no library that catches `Exception` would stop."""


async def cancelled() -> None:
    """Await a task that one has cancelled: everyday in voice agents."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def exits() -> None:
    """Do what a script does."""
    sys.exit("enough")


async def grouped() -> None:
    """Raise a group that is no `Exception`."""
    raise BaseExceptionGroup("both", [asyncio.CancelledError(), ValueError("no")])


async def whole() -> None:
    """Raise what is no `Exception`."""
    raise Whole


NASTY = pytest.mark.parametrize(
    ("fails", "kind"),
    [
        (cancelled, "CancelledError"),
        (exits, "SystemExit"),
        (grouped, "BaseExceptionGroup"),
        (whole, "Whole"),
    ],
)
Fails = Callable[[], Coroutine[object, object, None]]


async def facts(call: SimulatedCall, kind: type[ev.SessionEvent]) -> list[ev.SessionEvent]:
    return [record.body for record in await call.records() if isinstance(record.body, kind)]


@NASTY
async def test_an_entrypoint_that_lets_it_through_fails_once_and_the_call_ends(fails: Fails, kind: str) -> None:
    begun = 0

    async def handle(_: CallContext) -> None:
        nonlocal begun
        begun += 1
        await fails()

    async with simulate_call(handle) as call:
        assert await call.ended() == "error"
    assert begun == 1
    (closed,) = await facts(call, ev.SessionFinished)
    assert isinstance(closed, ev.SessionFinished)
    assert closed.failed
    assert kind


@NASTY
async def test_a_hook_is_reported_and_the_next_one_runs(fails: Fails, kind: str) -> None:
    told: list[str] = []

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def first(_: str) -> None:
            await fails()

        @ctx.session.on("user_turn")
        async def second(text: str) -> None:
            told.append(text)

        ctx.session.dialog_machine = Plain("hello")
        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "hello"
    (failed,) = await facts(call, ev.HookFailed)
    assert isinstance(failed, ev.HookFailed)
    assert failed.error is not None
    assert failed.error.startswith(kind)
    assert told == ["hi"]


@NASTY
async def test_an_adapter_fails_its_reply_at_once(fails: Fails, kind: str) -> None:
    class Brain(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield "well"
            if text == "hi":
                await fails()

    ear = Ear()
    async with simulate_call(agent(ear, Brain(), on_adapter_error=None)) as call:
        assert await call.user("hi") == "well"
        assert await call.user("again") == "well"
    ((code, message, _, source),) = ear.args("error")
    assert (code, source) == ("adapter_error", "adapter")
    assert str(message).startswith(kind)


@NASTY
async def test_what_an_adapter_raises_beside_its_stream_is_logged(
    fails: Fails, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Brain(Plain):
        async def mark_interrupted(self, _: str | None) -> None:
            await fails()

        async def restore(self, _: object) -> None:
            await fails()

    async with simulate_call(agent(None, Brain("one"))) as call:
        assert await call.user("hi") == "one"
        await call.barge_in("on")
        assert await call.user("again") == "one"
        await call.crash()
        assert await call.user("once more") == "one"
    assert f"mark_interrupted failed: {kind}" in caplog.text
    assert f"take up the conversation: {kind}" in caplog.text


@NASTY
async def test_a_step_fails_and_is_recorded(fails: Fails, kind: str) -> None:
    raised: list[str] = []

    async def handle(ctx: CallContext) -> None:
        try:
            await ctx.session.step("book", fails)
        except StepFailed as error:
            raised.append(error.error_type)
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.hang_up()
    assert raised == [kind]


@NASTY
async def test_a_task_is_reported_and_the_call_goes_on(fails: Fails, kind: str) -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("hello")
        _ = ctx.session.spawn("watch", fails())
        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "hello"
    (failed,) = await facts(call, ev.HookFailed)
    assert isinstance(failed, ev.HookFailed)
    assert (failed.hook, failed.function) == ("task", "watch")
    assert failed.error is not None
    assert failed.error.startswith(kind)


class Caller(ChatAdapter):
    """Uses its one tool, and says what it returned."""

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall, None]:
        meter.see("x")
        used = [entry for entry in prompt.conversation if isinstance(entry, Used)]
        if not used:
            yield ToolCall("book", {}, "c1")
            return
        yield str(used[0].result_of(used[0].calls[0]))


@NASTY
async def test_a_tools_failure_is_told_to_the_model(fails: Fails, kind: str) -> None:
    async def book() -> None:
        """Book a table."""
        await fails()

    brain = Caller("m", provider="p", tools=[book])
    async with simulate_call(agent(None, brain)) as call:
        assert kind in await call.user("hi")


async def test_a_task_that_its_owner_cancels_is_cancelled_and_nothing_is_reported() -> None:
    async def handle(ctx: CallContext) -> None:
        task = ctx.session.spawn("watch", asyncio.Event().wait())
        await asyncio.sleep(0)
        task.cancel()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.hang_up()
    assert await facts(call, ev.HookFailed) == []


async def test_a_step_that_its_caller_gives_up_is_no_step_that_failed() -> None:
    given_up = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        try:
            async with asyncio.timeout(0.01):
                await ctx.session.step("book", asyncio.Event().wait)
        except TimeoutError:
            given_up.set()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await given_up.wait()
        await call.hang_up()
    assert await facts(call, ev.StepCompleted) == []
