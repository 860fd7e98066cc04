"""A runner that drains hands its calls over, and lets go of none before another has it."""

from __future__ import annotations

import logging

import pytest
from tests.unit.runner.stage import stage

from unpod import CallContext, EchoAdapter
from unpod.testing.clock import settle


async def echo(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    await ctx.session.run()


@pytest.mark.parametrize(("mode", "waits_s"), [("wait", 20), ("handoff", 0)])
async def test_a_drain_hands_its_calls_over_and_ends_when_they_have_gone(mode: str, waits_s: float) -> None:
    async with stage(echo, drain_timeout_s=20, drain=mode) as one:  # type: ignore[arg-type]
        lines = [await one.bridge.call("job-1"), await one.bridge.call("job-2")]
        async with stage(echo, runner_id="runner-2", broker=one.bus.broker, clock=one.clock) as two:
            one.stop.requested.set()
            await one.clock.advance(max(0.0, waits_s - 1))
            assert waits_s == 0 or one.bridge.handed_over == []
            await one.clock.advance(2.5)
            asked = one.bridge.handed_over
            assert len(asked) >= 2
            assert asked[0].runner == "runner-1"
            assert set(asked[0].sessions) == {line.session_id for line in lines}
            # It goes on with them meanwhile.
            await lines[0].record({"event": "user.text", "text": "hi", "is_final": True}, "user.text")
            await settle(100)
            assert "".join(text for _, text in lines[0].spoken) == "You said: hi"
            for number, line in enumerate(lines, start=1):
                assert not one.serving.done()
                assert await one.bridge.move(f"job-{number}", line) == "runner-2"
            await one.clock.advance(1)
            await one.drained()
            assert two.service.stats().in_flight == 2
            assert one.service.stats().failed_last_hour == 0
            assert [line.ended for line in lines] == [None, None]


async def test_a_call_that_says_nothing_is_let_go_though_the_news_of_its_new_owner_is_lost() -> None:
    async with stage(echo, drain="handoff") as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        await on.clock.advance(0.5)
        on.bus.broker.drop(line.call.ack)
        await line.takeover()
        await on.clock.advance(0.4)
        assert not on.serving.done()
        await on.clock.advance(1)
        await on.drained()
        assert on.service.stats().failed_last_hour == 0


async def test_what_nobody_takes_is_ended_in_the_end_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(echo, drain_timeout_s=5) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        for _ in range(6):
            await on.bridge.announce_runner(in_flight=1)
            await on.clock.advance(1)
        assert on.bridge.handed_over != []
        await on.clock.advance(28)
        assert [line.ended] == [None]
        await on.clock.advance(3)
        await on.drained()
        assert line.ended == "error"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(line.session_id in text for text in warnings)


@pytest.mark.parametrize(
    "other", [{"draining": True}, {"capacity": 1, "in_flight": 1}, {"agent": "b"}, {"dev": True}, {"gone": True}]
)
async def test_without_another_runner_that_has_room_a_drain_hands_nothing_over(other: dict[str, object]) -> None:
    async with stage(echo, drain_timeout_s=5) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        for _ in range(6):
            await on.bridge.announce_runner(**other)
            await on.clock.advance(1)
        await on.drained()
        assert (on.bridge.handed_over, line.ended) == ([], "error")


async def test_a_runner_that_has_just_begun_listens_for_others_before_it_ends_a_call() -> None:
    async with stage(echo, drain_timeout_s=0.1) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        await on.clock.advance(1)
        assert (on.bridge.handed_over, line.ended) == ([], None)
        await on.bridge.announce_runner()
        await on.clock.advance(1)
        assert on.bridge.handed_over != []
        await line.end("hangup")
        await on.clock.advance(1)
        await on.drained()


async def test_handoff_leaves_a_call_that_nobody_takes_the_time_that_a_drain_has() -> None:
    async with stage(echo, drain="handoff", drain_timeout_s=50) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        await on.clock.advance(49)
        assert line.ended is None
        await line.end("hangup")
        await on.clock.advance(1)
        await on.drained()
        assert on.service.stats().completed_last_hour == 1
