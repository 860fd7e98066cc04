from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.runner.stage import stage

from unpod import CallContext, ConfigurationError, OrchestratorTooOld, RunnerAuthError
from unpod.errors import RunnerBroken
from unpod.testing.clock import settle


async def until_the_end(ctx: CallContext) -> None:
    await ctx.session.run()


async def never_ends(ctx: CallContext) -> None:
    await asyncio.Event().wait()


async def test_a_drain_waits_for_the_calls_and_no_longer() -> None:
    async with stage(until_the_end) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        await settle()
        assert on.bridge.heard[-1].draining
        assert await on.bridge.offer("job-2") is None
        await on.clock.advance(10)
        assert not on.serving.done()
        await line.end("hangup")
        await on.drained()
        assert on.service.stats().completed_last_hour == 1


async def test_an_idle_runner_drains_at_once() -> None:
    async with stage(until_the_end) as on:
        on.stop.requested.set()
        await on.drained()


async def test_a_call_that_was_promised_still_comes_during_a_drain() -> None:
    async with stage(until_the_end) as on:
        runner = await on.bridge.promised("job-1")
        on.stop.requested.set()
        await settle()
        line, until_seq = await on.bridge.connect()
        assert (await on.bridge.tell(runner, on.bridge.start("job-1", line, until_seq))).ok
        await on.clock.advance(5)
        assert not on.serving.done()
        await line.end("hangup")
        await on.drained()
        assert on.service.stats().completed_last_hour == 1


async def test_after_its_time_a_drain_ends_what_is_left_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(until_the_end, drain_timeout_s=20) as on:
        line = await on.bridge.call("job-1")
        on.stop.requested.set()
        await settle()
        await on.clock.advance(19)
        assert line.commands == []
        await on.clock.advance(1.5)
        await on.drained()
        assert line.ended == "error"
        assert on.service.stats().failed_last_hour == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(line.session_id in text and "1 calls" in text for text in warnings)


async def test_an_entrypoint_that_does_not_return_is_cancelled_in_the_end() -> None:
    async with stage(never_ends, drain_timeout_s=1) as on:
        await on.bridge.call("job-1")
        on.stop.requested.set()
        await settle()
        for _ in range(10):
            await on.clock.advance(1)
        await on.drained()
        assert on.service.stats().in_flight == 0


async def test_a_second_signal_ends_at_once() -> None:
    async with stage(never_ends) as on:
        await on.bridge.call("job-1")
        on.stop.on_signal(15)
        await settle()
        assert not on.serving.done()
        on.stop.on_signal(2)
        await settle()
        await on.clock.advance(1)
        await on.drained()


async def test_a_refused_key_ends_the_runner_by_name() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.announce(agents={"agent": "refused"}, detail="HTTP 401")
        with pytest.raises(RunnerAuthError, match=r"UNPOD_API_KEY.*401"):
            await on.drained()


async def test_a_key_that_is_refused_later_lets_the_calls_end_first() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.announce(agents={"agent": "registered"})
        line = await on.bridge.call("job-1")
        await on.bridge.announce(agents={"agent": "refused"})
        await on.clock.advance(5)
        assert not on.serving.done()
        await line.end("hangup")
        with pytest.raises(RunnerAuthError):
            await on.drained()


async def test_an_orchestrator_too_old_ends_the_runner_by_transport() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.announce(agents={"agent": "too_old"})
        with pytest.raises(OrchestratorTooOld, match="transport"):
            await on.drained()


async def test_one_bridge_that_is_registered_is_enough() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.announce(agents={"agent": "registered"})
        await on.bridge.announce(bridge="b2", agents={"agent": "refused"})
        await on.bridge.announce(bridge="b3", agents={"other": "refused"})
        await settle()
        assert not on.serving.done()


async def test_a_bridge_that_cannot_run_ends_the_runner() -> None:
    async with stage(until_the_end) as on:
        assert on.service.bridge_died(-9, "")
        assert not on.service.bridge_died(2, "unpod bridge: UNPOD_ORCHESTRATOR_URL is no host")
        with pytest.raises(ConfigurationError, match=r"^UNPOD_ORCHESTRATOR_URL is no host"):
            await on.drained()
        assert not on.service.bridge_died(1, "")


async def test_it_says_when_it_is_ready_and_when_the_orchestrator_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="unpod")
    async with stage(until_the_end, capacity=4) as on:
        for registration in ("connecting", "registered", "registered", "unreachable", "unreachable", "registered"):
            await on.bridge.announce(agents={"agent": registration})
        assert not on.serving.done()
    said = [record.getMessage() for record in caplog.records if record.name == "unpod.runner"]
    assert sum("ready: agent agent, capacity 4" in text for text in said) == 1
    assert sum("UNPOD_ORCHESTRATOR_URL" in text for text in said) == 1
    assert sum("again" in text and "registered" in text for text in said) == 1


async def test_it_says_that_it_has_heard_of_no_bridge(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(until_the_end) as on:
        await on.clock.advance(6)
    assert any("unpod bridge" in record.getMessage() for record in caplog.records)


async def test_runner_hooks_run_once_in_order_after_those_of_the_session() -> None:
    told: list[str] = []

    async def entrypoint(ctx: CallContext) -> None:
        @ctx.session.on("call_end")
        def of_the_session(reason: str) -> None:
            told.append(f"session {reason}")

        await ctx.session.run()

    async with stage(entrypoint) as on:

        @on.hooks.on("call_start")
        async def first(ctx: CallContext) -> None:
            told.append(f"start {ctx.session_id}")

        @on.hooks.on("call_start")
        def second(ctx: CallContext) -> None:
            told.append("second")

        @on.hooks.on("call_end")
        def end(ctx: CallContext, final_state: str) -> None:
            told.append(f"end {final_state}")

        line = await on.bridge.call("job-1")
        await line.end("hangup")
        await settle()
        assert told == [f"start {line.session_id}", "second", "session hangup", "end ended"]


async def test_a_raising_entrypoint_is_failed_once() -> None:
    told: list[str] = []

    async def entrypoint(ctx: CallContext) -> None:
        raise RuntimeError("no")

    async with stage(entrypoint) as on:

        @on.hooks.on("call_end")
        def end(ctx: CallContext, final_state: str) -> None:
            told.append(final_state)

        await on.bridge.call("job-1")
        await settle()
        stats = on.service.stats()
        assert (stats.completed_last_hour, stats.failed_last_hour, told) == (0, 1, ["failed"])


async def test_a_call_whose_log_says_nothing_counts_nowhere_and_fires_nothing() -> None:
    told: list[str] = []
    async with stage(until_the_end, capacity=1) as on:

        @on.hooks.on("call_start")
        @on.hooks.on("call_end")
        def any_hook(*_: object) -> None:
            told.append("fired")

        runner = await on.bridge.promised("job-1")
        line, until_seq = await on.bridge.connect("elsewhere")
        start = on.bridge.start("job-1", line, until_seq)
        other = type(start)(job="job-1", agent="agent", session="empty", epoch=start.epoch, until_seq=until_seq)
        await on.bridge.tell(runner, other)
        await settle()
        stats = on.service.stats()
        assert (stats.in_flight, stats.completed_last_hour, stats.failed_last_hour, told) == (0, 0, 0, [])
        await on.bridge.promised("job-2")


async def test_the_data_of_two_calls_is_apart() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.call("job-1")
        await on.bridge.call("job-2")
        one, two = on.service.contexts()
        one.session.data["x"] = 1
        assert "x" not in two.session.data


@pytest.mark.parametrize("what", ["subscribe", "publish"])
async def test_a_runner_that_can_get_no_call_any_more_because_of_a_defect_ends(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    async with stage(until_the_end, capacity=1) as on:
        line = await on.bridge.call("job-1")
        with monkeypatch.context() as patch:
            patch.setattr(on.bus, what, broken)
            await line.end("hangup")
            await settle(100)
            await on.clock.advance(1)
        assert "has stopped (RuntimeError)" in on.service.missing()[0]
        with pytest.raises(RunnerBroken, match="no call would come any more"):
            await on.drained()
