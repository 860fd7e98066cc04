"""How a call ends, for the developer's code and in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle


async def bodies(call: SimulatedCall) -> list[object]:
    return [record.body for record in await call.records()]


async def test_a_hang_up_before_run_makes_run_return_at_once() -> None:
    go_on, ear = asyncio.Event(), Ear()

    async def handle(ctx: CallContext) -> None:
        await ctx.session.say("hello")
        await go_on.wait()
        await agent(ear)(ctx)

    async with simulate_call(handle) as call:
        await call.line.end("hangup")
        await settle()
        go_on.set()
        assert await call.ended() == "hangup"
    assert ear.returned == "hangup"
    assert ear.events == ["call_start", "call_end"]


async def test_inputs_wait_for_run() -> None:
    go_on, ear, brain = asyncio.Event(), Ear(), Plain("yes")

    async def handle(ctx: CallContext) -> None:
        await go_on.wait()
        await agent(ear, brain)(ctx)

    async with simulate_call(handle) as call:
        await call.user("early", wait=False)
        await settle()
        assert ear.events == []
        go_on.set()
        assert (await call.reply()).text == "yes"
    assert ear.events[:2] == ["call_start", "user_turn"]


async def test_lines_after_run_are_run() -> None:
    done: list[str] = []

    async def handle(ctx: CallContext) -> None:
        reason = await ctx.session.run()
        done.append(reason)
        await settle()
        done.append(f"{ctx.session.metrics.live().turns} turns")

    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.hang_up()
    assert done == ["hangup", "1 turns"]


async def test_an_entrypoint_that_returns_without_run_ends_the_call_after_what_it_said() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.say("We are closed. Goodbye.")

    async with simulate_call(handle) as call:
        assert await call.ended() == "completed"
        assert call.commands == (cmd.Say(text="We are closed. Goodbye."), cmd.EndCall(reason="completed"))
        assert (await call.state()).finished
    assert call.result is not None
    assert (call.result.failed, call.result.reason) == (False, "completed")


async def test_an_entrypoint_that_raises_ends_the_call_with_error_and_failed_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs: list[str] = []

    async def handle(ctx: CallContext) -> None:
        runs.append(ctx.session_id)
        await ctx.session.say("hello")
        raise ValueError("no such customer")

    async with simulate_call(handle) as call:
        assert await call.ended() == "error"
        found = await bodies(call)
        assert found.count(ev.EntrypointFailed(error="ValueError: no such customer")) == 1
        assert call.commands == (cmd.Say(text="hello"), cmd.EndCall(reason="error"))
        [summary] = [body for body in found if isinstance(body, ev.CallCompleted)]
        assert summary.reason == "error"
        assert found[-1] == ev.SessionFinished(failed=True)
    assert call.result is not None
    assert (call.result.failed, call.result.reason) == (True, "error")
    assert len(runs) == 1
    assert "the entrypoint raised ValueError" in caplog.text


async def test_cleanup_that_raises_is_failed_and_changes_not_how_the_call_ended() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()
        raise ValueError

    async with simulate_call(handle) as call:
        await call.hang_up()
        assert call.commands == ()
        found = await bodies(call)
        assert found.count(ev.EntrypointFailed(error="ValueError: ")) == 1
        [ended] = [body for body in found if isinstance(body, ev.CallEnded)]
        assert ended.reason == "hangup"
    assert call.result is not None
    assert (call.result.failed, call.result.reason) == (True, "hangup")


async def test_the_longest_a_call_may_take() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain, max_duration_s=60, silence_timeout_s=None)) as call:
        await call.advance(59)
        await call.user("one more thing", wait=False)
        await brain.say("well")
        assert list(call.commands) == []
        await call.advance(1)
        assert await call.ended() == "max_duration"
        assert call.commands == (
            cmd.EndReply(turn=1, deltas=1, chars=4, reason="ended"),
            cmd.EndCall(reason="max_duration"),
        )
        assert (await call.metrics()).duration_s == 60.0
    assert ear.returned == "max_duration"
    assert call.result is not None
    assert not call.result.failed


async def test_without_a_limit_a_call_may_take_long() -> None:
    async with simulate_call(agent(silence_timeout_s=None)) as call:
        await call.advance(100_000)
        assert call.commands == ()
        assert call.reason is None


async def test_a_call_ends_with_its_summary_and_then_it_is_closed() -> None:
    async with simulate_call(agent(brain=Plain("yes")), session_id="s-1", metadata={"direction": "outbound"}) as call:
        await call.advance(2)
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, asr_ms=100, tts_ttfb_ms=50, llm_total_ms=300)
        await call.frame("metric", cost_usd_so_far=0.25)
        await call.advance(3)
        await call.hang_up()
        found = await bodies(call)
    assert [type(body) for body in found[-3:]] == [ev.CallEnded, ev.CallCompleted, ev.SessionFinished]
    assert found[-2] == ev.CallCompleted(
        call_id="s-1",
        agent_id="agent",
        runner_id="memory",
        reason="hangup",
        direction="outbound",
        started_at=1_700_000_000.0,
        ended_at=1_700_000_005.0,
        duration_s=5.0,
        turns=1,
        avg_stt_ms=100.0,
        avg_llm_ms=300.0,
        avg_tts_ms=50.0,
        stt_p95_ms=100,
        llm_p95_ms=300,
        tts_p95_ms=50,
        cost_voice=0.25,
    )


async def test_a_call_that_ends_twice_ended_once() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.line.record({"event": "call.ended", "reason": "hangup", "by": "caller"}, "call.ended")
        await call.line.record({"event": "call.ended", "reason": "lost", "by": "system"}, "call.ended")
        assert await call.ended() == "hangup"
        assert len([body for body in await bodies(call) if isinstance(body, ev.CallCompleted)]) == 1
        assert (await call.state()).ended == ev.CallEnded(reason="hangup", by="caller")
    assert ear.args("call_end") == [("hangup",)]


async def test_the_line_is_lost_in_mid_reply_and_the_call_ends_once() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.line.end("lost", by="system")
        assert await call.ended() == "lost"
        assert [body for body in call.commands if isinstance(body, cmd.EndReply)] == []
        assert brain.happened == ["asked hi", "closed hi"]
    assert ear.args("agent_turn") == [("well",)]
    assert ear.args("call_end") == [("lost",)]
    assert call.result is not None
    assert call.result.failed


async def test_what_comes_after_the_end_harms_nothing() -> None:
    go_on, ear = asyncio.Event(), Ear()

    async def handle(ctx: CallContext) -> None:
        await agent(ear, Plain("yes"))(ctx)
        await go_on.wait()

    async with simulate_call(handle) as call:
        await call.line.end("hangup")
        await settle()
        await call.user("hello?", wait=False)
        await call.partial("hel")
        await call.barge_in("x")
        await call.frame("metric", turns=3)
        go_on.set()
        assert await call.ended() == "hangup"
        assert call.commands == ()
        assert (await call.metrics()).turns == 0
    assert ear.args("user_turn") == []


async def test_two_calls_have_data_of_their_own() -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.data["customer"] = ctx.call_id
        await ctx.session.run()

    async with simulate_call(handle) as one, simulate_call(handle) as other:
        assert one.context is not None
        assert other.context is not None
        assert one.context.session.data == {"customer": one.context.call_id}
        assert other.context.session.data == {"customer": other.context.call_id}
        assert one.context.call_id != other.context.call_id


async def test_an_end_that_is_not_heard_of_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    go_on = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        await go_on.wait()

    async with simulate_call(handle, settings=SessionSettings(end_timeout_s=0.01)) as call:
        call.line.closing_s = 3_600.0
        go_on.set()
        await call.ended()
        assert call.commands == (cmd.EndCall(reason="completed"),)
    assert "the call's end was not heard of" in caplog.text


async def test_run_can_be_called_again_and_returns_the_same() -> None:
    reasons: list[str] = []

    async def handle(ctx: CallContext) -> None:
        reasons.extend([await ctx.session.run(), await ctx.session.run()])

    async with simulate_call(handle) as call:
        await call.hang_up()
    assert reasons == ["hangup", "hangup"]


async def test_the_figures_are_the_same_during_after_and_in_any_other_process() -> None:
    brain = Plain("yes")

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain
        await ctx.session.run()
        after.append(ctx.session.metrics.live())

    after: list[object] = []
    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, asr_ms=100.0, llm_total_ms=300.0)
        await call.frame("metric", cost_usd_so_far=0.5)
        await call.advance(4)
        assert call.context is not None
        live = call.context.session.metrics.live()
        assert live == await call.metrics()
        assert (live.turns, live.avg_stt_ms, live.avg_llm_ms, live.cost.voice, live.duration_s) == (1, 100, 300, 0.5, 4)
        await call.hang_up()
        await call.advance(100)
        assert after == [await call.metrics()]
