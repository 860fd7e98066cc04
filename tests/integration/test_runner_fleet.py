"""Runners in this process that join a NATS server and a bridge, against the local orchestrator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.runner_rig import (
    AGENT,
    KEY,
    counted,
    echo,
    fleet,
    joined,
    running,
    talks,
    until,
)

from unpod import AgentRunner, CallContext, ConfigurationError, RunnerAuthError
from unpod_orchestrator import CallFaults, CallRefused, LocalOrchestrator


@pytest.fixture
async def orchestrator() -> AsyncIterator[LocalOrchestrator]:
    async with LocalOrchestrator(speed=50) as orchestrator:
        yield orchestrator


async def test_two_runners_in_one_process_share_the_calls_of_their_agent(
    tmp_path: Path, orchestrator: LocalOrchestrator
) -> None:
    async with fleet(tmp_path, orchestrator) as url:
        one, two = (joined(url, max_sessions=2) for _ in range(2))
        async with running(one), running(two):
            await orchestrator.wait_until(
                lambda: any(worker.free == 4 for worker in orchestrator.workers), "a worker with room for 4", 20
            )
            calls = [await orchestrator.place_call(AGENT) for _ in range(4)]
            for call in calls:
                await talks(call)
            assert (one.stats().in_flight, two.stats().in_flight) == (2, 2)
            active = {ctx.session_id for runner in (one, two) for ctx in runner.active_calls()}
            assert active == {call.session_id for call in calls}
            for call in calls:
                await call.hang_up()
            await counted(one, 2)
            await counted(two, 2)
            assert one.stats().completed_last_hour == 2
            assert one.stats().mean_call_duration_s > 0


async def test_what_finds_no_room_is_queued_and_refused_at_its_deadline(
    tmp_path: Path, orchestrator: LocalOrchestrator
) -> None:
    async with (
        fleet(tmp_path, orchestrator) as url,
        running(joined(url, max_concurrent_calls=1)) as runner,
    ):
        await orchestrator.wait_for_worker(AGENT, 10)
        first = await orchestrator.place_call(AGENT)
        await talks(first)
        placing = asyncio.create_task(orchestrator.place_call(AGENT, even_if_full=True, deadline_ms=700))
        await until(lambda: runner.stats().queued == 1)
        assert runner.stats().in_flight == 1
        with pytest.raises(CallRefused) as refused:
            await placing
        assert set(refused.value.reasons) == {"at_capacity"}
        waiting = asyncio.create_task(orchestrator.place_call(AGENT, even_if_full=True, deadline_ms=5000))
        await asyncio.sleep(0.2)
        await first.hang_up()
        await talks(await waiting)
        assert runner.stats().in_flight == 1
        assert runner.stats().queued == 0


async def test_a_call_that_never_came_about_fires_no_hook_and_frees_its_place(
    tmp_path: Path, orchestrator: LocalOrchestrator
) -> None:
    told: list[str] = []
    async with fleet(tmp_path, orchestrator) as url:
        runner = joined(url, max_concurrent_calls=1)

        @runner.on("call_start")
        @runner.on("call_end")
        def any_hook(ctx: CallContext, final_state: str = "started") -> None:
            told.append(final_state)

        async with running(runner):
            await orchestrator.wait_for_worker(AGENT, 10)
            refused = await orchestrator.place_call(AGENT, faults=CallFaults(refuse_dials=100))
            assert not runner.active_calls()
            orchestrator.cancel(refused.job_id)
            call = await orchestrator.place_call(AGENT, even_if_full=True, deadline_ms=8000)
            assert told == []
            await talks(call)
            orchestrator.cancel(call.job_id)
            await counted(runner, 1)
        assert told == ["started", "ended"]
        stats = runner.stats()
        assert (stats.completed_last_hour, stats.failed_last_hour) == (1, 0)


async def test_permits_limit_how_fast_calls_are_taken(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    async with (
        fleet(tmp_path, orchestrator) as url,
        running(joined(url, max_sessions=2, permits_per_minute=0.1)) as runner,
    ):
        await orchestrator.wait_for_worker(AGENT, 10)
        for number in range(2):  # what it has room for passes at once
            call = await orchestrator.place_call(AGENT)
            await talks(call)
            await call.hang_up()
            await counted(runner, number + 1)
        with pytest.raises(CallRefused) as refused:
            await orchestrator.place_call(AGENT, deadline_ms=400)
        assert refused.value.reasons == ("rate_limited",) * 3


async def test_dev_mode_registers_in_a_pool_of_its_own(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    async with fleet(tmp_path, orchestrator) as url:
        dev = joined(url, dev_mode=True)
        async with running(dev), running(joined(url)) as live:
            await orchestrator.wait_for_worker(AGENT, 10)
            await orchestrator.wait_for_worker(AGENT, 10, pool=f"{AGENT}@dev")
            await talks(await orchestrator.place_call(AGENT, pool=f"{AGENT}@dev"))
            assert (dev.stats().in_flight, live.stats().in_flight) == (1, 0)
            for call in orchestrator.calls:
                await call.hang_up()
            await talks(await orchestrator.place_call(AGENT))
            assert live.stats().in_flight == 1


async def test_a_refused_key_is_an_auth_error_of_run(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    orchestrator.faults.refuse_key = "close_1008"
    runner = AgentRunner(echo, AGENT, api_key=KEY, base_url=orchestrator.url, data_dir=tmp_path / "data")
    with pytest.raises(RunnerAuthError, match="UNPOD_API_KEY"):
        await runner.run()


async def test_a_runner_runs_once_at_a_time_and_again_after_its_end(
    tmp_path: Path, orchestrator: LocalOrchestrator
) -> None:
    async with fleet(tmp_path, orchestrator) as url:
        runner = joined(url)
        for _ in range(2):
            async with running(runner):
                await orchestrator.wait_for_worker(AGENT, 10)
                with pytest.raises(ConfigurationError, match="runs already"):
                    await runner.run()
                call = await orchestrator.place_call(AGENT)
                await talks(call)
                await call.hang_up()
            await orchestrator.wait_until(lambda: not orchestrator.workers, "the worker is gone", 10)
        assert runner.stats().completed_last_hour == 2


async def test_shutdown_from_inside_a_call_does_not_wait_for_that_call(
    tmp_path: Path, orchestrator: LocalOrchestrator
) -> None:
    async def one_call(ctx: CallContext) -> None:
        await echo(ctx)
        await runner.shutdown()

    async with fleet(tmp_path, orchestrator) as url:
        runner = joined(url, entrypoint=one_call)
        task = asyncio.create_task(runner.run())
        await orchestrator.wait_for_worker(AGENT, 10)
        call = await orchestrator.place_call(AGENT)
        await talks(call)
        await call.hang_up()
        async with asyncio.timeout(15):
            await task
        assert runner.stats().completed_last_hour == 1


async def test_shutdown_while_it_starts_ends_it(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    runner = AgentRunner(echo, AGENT, api_key=KEY, base_url=orchestrator.url, data_dir=tmp_path / "data")
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0)
    await runner.shutdown()
    await task
