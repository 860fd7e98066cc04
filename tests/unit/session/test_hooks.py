"""Hooks in general: order, sync and async, and that none can harm a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.rig import Ear, Plain, agent

from unpod import CallContext, UnknownEvent
from unpod.core import events as ev
from unpod.session.hooks import EVENTS
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle

IMPATIENT = SessionSettings(hook_timeout_s=0.01)
RUTHLESS = SessionSettings(hook_timeout_s=0.01, hook_grace_s=0.01)


async def failures(call: SimulatedCall) -> list[ev.HookFailed]:
    return [record.body for record in await call.records() if isinstance(record.body, ev.HookFailed)]


async def test_the_hooks_of_an_event_run_in_order_of_registration_one_after_the_other() -> None:
    told: list[str] = []

    async def handle(ctx: CallContext) -> None:
        on = ctx.session.on

        @on("user_turn")
        async def first(text: str) -> None:
            told.append("first begins")
            await asyncio.sleep(0)
            told.append("first ends")

        @on("user_turn")
        def second(text: str) -> None:
            told.append("second")

        @on("user_turn")
        async def third(text: str) -> None:
            told.append("third")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
    assert told == ["first begins", "first ends", "second", "third"]


async def test_one_function_can_be_registered_twice_and_for_several_events() -> None:
    told: list[tuple[object, ...]] = []

    async def handle(ctx: CallContext) -> None:
        def hook(*args: object) -> None:
            told.append(args)

        for event in ("user_turn", "user_turn", "call_end"):
            assert ctx.session.on(event)(hook) is hook
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.hang_up()
    assert told == [("hi",), ("hi",), ("hangup",)]


async def test_a_hook_can_be_any_callable() -> None:
    told: list[str] = []

    class Hook:
        async def __call__(self, text: str) -> None:
            told.append(text)

        async def method(self, text: str) -> None:
            told.append(f"method {text}")

    async def handle(ctx: CallContext) -> None:
        hook = Hook()
        ctx.session.on("user_turn")(hook)
        ctx.session.on("user_turn")(hook.method)
        ctx.session.on("user_turn")(lambda text: told.append(f"lambda {text}"))
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
    assert told == ["hi", "method hi", "lambda hi"]


async def test_an_unknown_event_is_an_error_that_lists_the_valid_ones() -> None:
    async with simulate_call(agent()) as call:
        assert call.context is not None
        with pytest.raises(UnknownEvent, match="user_says") as raised:
            call.context.session.on("user_says")  # type: ignore[call-overload]  # that is it
        assert isinstance(raised.value, ValueError)
        assert set(EVENTS) == {name for name in EVENTS if name in str(raised.value)}
        assert len(EVENTS) == 14


async def test_a_hook_that_is_registered_in_mid_call_counts_from_then_on() -> None:
    ear = Ear()
    async with simulate_call(agent()) as call:
        await call.user("one")
        assert call.context is not None
        ear.listen(call.context.session, ["user_turn"])
        await call.user("two")
    assert ear.args("user_turn") == [("two",)]


async def test_a_hook_that_raises_is_logged_and_recorded_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear = Ear()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def breaks_on_purpose(text: str) -> None:
            raise ValueError("no such customer")

        @ctx.session.on("user_turn")
        def breaks_too(text: str) -> None:
            raise KeyError("x")

        ear.listen(ctx.session)
        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "yes"
        assert await call.user("again") == "yes"
        found = await failures(call)
    assert ear.args("user_turn") == [("hi",), ("again",)]
    assert [(fact.hook, fact.timed_out) for fact in found] == [("user_turn", False)] * 4
    assert "breaks_on_purpose" in found[0].function
    assert found[0].error == "ValueError: no such customer"
    assert "breaks_too" in found[1].function
    assert caplog.text.count("breaks_on_purpose of user_turn raised ValueError") == 2
    assert "unpod.session" in {record.name for record in caplog.records if record.levelno == logging.ERROR}


async def test_a_hook_with_the_wrong_arguments_harms_nothing() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")  # type: ignore[type-var]  # that is it
        async def takes_none() -> None:
            raise AssertionError("never called")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "yes"
        [fact] = await failures(call)
    assert fact.error.startswith("TypeError")


@pytest.mark.parametrize("event", ["call_start", "agent_turn", "turn_complete", "interruption", "call_end"])
async def test_a_raising_hook_of_any_event_ends_no_call(event: str) -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on(event)  # type: ignore[call-overload]  # any event
        def breaks(*_: object, **__: object) -> None:
            raise RuntimeError

        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "yes"
        await call.barge_in()
        await call.advance(1)
        assert await call.user("still there?") == "yes"
        await call.hang_up()
        assert {fact.hook for fact in await failures(call)} == {event}
        assert (await call.state()).finished
    assert call.result is not None
    assert not call.result.failed


async def test_the_loop_goes_on_without_a_hook_that_hangs_and_it_finishes() -> None:
    go_on, told = asyncio.Event(), list[str]()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def hangs(text: str) -> None:
            await go_on.wait()
            told.append(text)

        @ctx.session.on("user_turn")
        async def waits_for_it(text: str) -> None:
            told.append(f"after {text}")

        await ctx.session.run()

    async with simulate_call(handle, settings=IMPATIENT) as call:
        assert await call.user("one") == "yes"
        assert await call.user("two") == "yes"
        assert told == []
        found = await failures(call)
        assert [(fact.hook, fact.timed_out) for fact in found] == [("user_turn", True)] * 2
        assert "hangs" in found[0].function
        go_on.set()
        await settle()
        assert sorted(told) == ["after one", "after two", "one", "two"]


@pytest.mark.parametrize(
    ("event", "seconds"), [("user_turn", 10.0), ("call_start", 10.0), ("metric", 1.0), ("call_end", 1.0)]
)
def test_a_turn_waits_longer_for_its_hooks_than_others_do_unless_a_limit_is_chosen(event: str, seconds: float) -> None:
    assert SessionSettings().hook_wait_s(event) == seconds
    assert SessionSettings(hook_timeout_s=3).hook_wait_s(event) == 3


async def test_the_brain_is_asked_with_what_a_slow_hook_of_its_text_has_done() -> None:
    class Looking(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield str(data["flag"])

    data: dict[str, object] = {}

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Looking()

        @ctx.session.on("user_turn")
        async def looks_up(text: str) -> None:
            asyncio.get_running_loop().call_later(1.2, found.set)  # longer than the others have
            await found.wait()
            data["flag"] = "seen"

        await ctx.session.run()

    found = asyncio.Event()
    async with simulate_call(handle) as call:
        assert await call.user("hi") == "seen"
        assert await failures(call) == []


async def test_a_hang_up_waits_for_the_hooks_of_a_text_no_longer_than_for_others() -> None:
    ear = Ear()

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def hangs(text: str) -> None:
            await asyncio.Event().wait()

        ear.listen(ctx.session, ["call_end"])
        await ctx.session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_grace_s=0.01)) as call:
        await call.user("hi", wait=False)
        await call.hang_up()  # within the 5 s that the test waits for anything
        assert ear.args("call_end") == [("hangup",)]
        assert [fact.timed_out for fact in await failures(call)] == [True]


async def test_what_a_hook_does_late_still_reaches_the_call() -> None:
    go_on = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def looks_up(text: str) -> None:
            await go_on.wait()
            await ctx.session.say(f"found {text}")

        await ctx.session.run()

    async with simulate_call(handle, settings=IMPATIENT) as call:
        await call.user("one")
        go_on.set()
        await settle()
        assert call.said == ("found one",)


async def test_a_hook_that_hangs_for_ever_does_not_outlive_the_call() -> None:
    cancelled = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("call_start")
        async def hangs() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        await ctx.session.run()

    async with simulate_call(handle, settings=RUTHLESS) as call:
        await call.user("hi")
        await call.hang_up()
    assert cancelled.is_set()


async def test_what_a_hook_writes_at_the_end_of_the_call_is_written_though_it_takes_its_time() -> None:
    written: list[str] = []

    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("call_end")
        async def report(reason: str) -> None:
            await ready.wait()
            written.append(reason)

        await ctx.session.run()
        asyncio.get_running_loop().call_later(0.05, ready.set)

    ready = asyncio.Event()
    async with simulate_call(handle, settings=IMPATIENT) as call:
        await call.hang_up()
        records = await call.records()
    assert written == ["hangup"]
    assert isinstance(records[-1].body, ev.SessionFinished)
    [late] = [record.envelope.index for record in records if isinstance(record.body, ev.CallEnded)]
    assert records[-1].envelope.settled == late


async def test_a_hook_that_cancels_itself_harms_nothing() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("user_turn")
        async def gives_up(text: str) -> None:
            raise asyncio.CancelledError

        await ctx.session.run()

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "yes"
        assert await call.user("again") == "yes"


async def test_a_hook_may_wait_for_what_the_call_does_meanwhile() -> None:
    """Speech passes hooks: the reply ends while a hook of its turn still waits for it."""
    told: list[str] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("yes")

        @ctx.session.on("metric")
        async def waits(event: object) -> None:
            told.append("waits")
            await over.wait()
            told.append("has seen it")

        await ctx.session.run()

    over = asyncio.Event()
    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.frame("metric", turns=1)
        assert (await call.reply()).text == "yes"
        over.set()
        await settle()
    assert told == ["waits", "has seen it"]


@pytest.mark.parametrize("said", ["Who is it?", "☎️ \x00 \u202e"])
async def test_what_was_said_stands_in_no_log_message(said: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain(said)
        await ctx.session.say(said)

        @ctx.session.on("user_turn")
        async def breaks(text: str) -> None:
            raise ValueError

        await ctx.session.run()

    async with simulate_call(handle, settings=IMPATIENT) as call:
        await call.user(said)
        await call.barge_in(said)
        await call.frame("error", severity="error", message=said, code="c", source="stt")
    assert said not in caplog.text
