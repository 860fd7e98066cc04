"""The bridge as a process: registering, taking calls, ending."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
from tests.integration.bridge_stack import BridgeProcess, Stack, bridge_process, stack

from unpod.core.dispatch_messages import Release
from unpod.core.envelope import Envelope, to_headers
from unpod.jetstream import topology
from unpod.jetstream.streams.topology import MIB
from unpod_orchestrator import CallFaults, CallRefused
from unpod_orchestrator.faults import KeyRefusal


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(tmp_path) as made:
        await made.open()
        yield made


async def test_a_call_from_its_assignment_to_its_end(world: Stack) -> None:
    async with world.bridge() as bridge:
        runner = await world.runner(capacity=7)
        worker = await world.orchestrator.wait_for_worker("agent")
        assert worker.pool == "agent"
        assert worker.capabilities.max_concurrent == 7
        assert worker.worker_id.startswith("agent#")
        await world.news.until(lambda: world.states() == ["registered"])

        call = await world.orchestrator.place_call("agent", metadata={"caller": "x"})
        await call.connected()
        await world.news.until(lambda: bool(runner.hearing))
        assert [type(told).__name__ for told in runner.told] == ["Hold", "Start"]
        await call.user("good morning")
        assert await call.reply() == "good morning"
        record = await world.jobs.get(call.job_id)
        assert record is not None
        assert call.session_id.encode() in record.value
        await world.orchestrator.wait_until(lambda: world.orchestrator.workers[0].active_jobs == 1, "no heartbeat")
        await call.hang_up()
        assert (await call.ended()).reason == "hangup"
        await world.news.until(lambda: not runner.held)
        await world.orchestrator.wait_until(lambda: world.orchestrator.workers[0].active_jobs == 0, "no heartbeat")
        await world.forgotten(call.job_id)

        bridge.process.terminate()
        assert await bridge.exited() == 0
        assert f"call ended: job {call.job_id}" in bridge.text
        assert "hangup" in bridge.text
        assert call.token not in bridge.text
        assert "sk_local" not in bridge.text
        assert "good morning" not in bridge.text
        assert "Traceback" not in bridge.text
    assert not call.violations
    assert not world.orchestrator.violations


def last_line(bridge: BridgeProcess) -> str:
    assert "Traceback" not in bridge.text
    return bridge.text.strip().splitlines()[-1]


# ---------------------------------------------------------------------------------------------- what ends it at once


@pytest.mark.parametrize("how", get_args(KeyRefusal))
async def test_a_refused_key(world: Stack, how: KeyRefusal) -> None:
    world.orchestrator.faults.refuse_key = how
    async with world.bridge() as bridge:
        await world.runner()
        await world.news.until(lambda: world.states() == ["refused"])
        assert await bridge.exited() == 1
        assert len([line for line in bridge.text.splitlines() if " ERROR " in line]) == 1
        assert "UNPOD_API_KEY" in bridge.text
        assert "sk_local" not in bridge.text
        assert "Traceback" not in bridge.text
        [said] = world.bridges.values()
        assert "UNPOD_API_KEY" in said.detail
    assert len(world.orchestrator.control_frames) == 0


async def test_an_orchestrator_too_old(world: Stack) -> None:
    world.orchestrator.faults.transport_ack = None
    async with world.bridge() as bridge:
        await world.runner()
        await world.news.until(lambda: world.states() == ["too_old"])
        assert await bridge.exited() == 1
        assert len([line for line in bridge.text.splitlines() if " ERROR " in line]) == 1
        assert "dial_out" in bridge.text
        assert "Traceback" not in bridge.text


@pytest.mark.slow
async def test_no_nats(tmp_path: Path, unused_port: int) -> None:
    settings = {"UNPOD_API_KEY": "k", "UNPOD_NATS_URL": f"nats://me:hidden@127.0.0.1:{unused_port}"}
    async with bridge_process(tmp_path / "log", **settings) as bridge:
        assert await bridge.exited() == 1
        assert "UNPOD_NATS_URL" in last_line(bridge)
        assert "hidden" not in bridge.text
        assert len(bridge.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "UNPOD_API_KEY"),
        ({"UNPOD_API_KEY": "k"}, "UNPOD_NATS_URL"),
        ({"UNPOD_API_KEY": "k", "UNPOD_NATS_URL": "nats://x", "UNPOD_BASE_URL": "ftp://x"}, "UNPOD_BASE_URL"),
    ],
)
async def test_a_setting_that_is_missing_or_wrong(tmp_path: Path, settings: dict[str, str], name: str) -> None:
    async with bridge_process(tmp_path / "log", **settings) as bridge:
        assert await bridge.exited() == 2
        assert name in last_line(bridge)
        assert len(bridge.text.splitlines()) == 1


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------------------- registering


async def test_an_unreachable_orchestrator_is_tried_again(world: Stack, unused_port: int) -> None:
    async with world.bridge(UNPOD_ORCHESTRATOR_URL=f"ws://127.0.0.1:{unused_port}") as bridge:
        await world.runner()
        await world.news.until(lambda: world.states() == ["unreachable"])
        assert "UNPOD_ORCHESTRATOR_URL" in next(iter(world.bridges.values())).detail
        assert "UNPOD_ORCHESTRATOR_URL" in bridge.text
        bridge.process.terminate()
        assert await bridge.exited() == 0


async def test_each_agent_and_dev_has_a_worker_of_its_own_while_it_has_runners(world: Stack) -> None:
    async with world.bridge():
        first = await world.runner("runner-1", capacity=2)
        second = await world.runner("runner-2", capacity=3, agent="other agent.*>")
        third = await world.runner("runner-3", capacity=4, dev=True)
        for pool in ("agent", "other agent.*>", "agent@dev"):
            await world.orchestrator.wait_for_worker("", pool=pool)
        workers = {worker.pool: worker for worker in world.orchestrator.workers}
        assert {pool: worker.capabilities.max_concurrent for pool, worker in workers.items()} == {
            "agent": 2,
            "other agent.*>": 3,
            "agent@dev": 4,
        }
        assert workers["agent@dev"].capabilities.agent_id == "agent"
        call = await world.orchestrator.place_call("agent", pool="agent@dev")
        await call.connected()
        await world.news.until(lambda: bool(third.started))
        await second.stop()
        await first.stop()
        await third.stop()
        # The call in progress keeps the socket over which it may be cancelled.
        await world.orchestrator.wait_until(lambda: len(world.orchestrator.workers) == 1, "still registered")
        assert world.orchestrator.workers[0].pool == "agent@dev"
        await call.hang_up()
        await world.orchestrator.wait_until(lambda: not world.orchestrator.workers, "still registered")
    assert not world.orchestrator.violations


@pytest.mark.slow
async def test_a_changed_capacity_is_registered_again_under_the_same_id(world: Stack) -> None:
    async with world.bridge():
        await world.runner("runner-1", capacity=2)
        before = await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.runner("runner-2", capacity=3)

        def grown() -> bool:
            return [worker.capabilities.max_concurrent for worker in world.orchestrator.workers] == [5]

        await world.orchestrator.wait_until(grown, "not registered again")
        assert world.orchestrator.workers[0].worker_id == before.worker_id
        await call.user("still there?")
        assert await call.reply() == "still there?"
    assert not world.orchestrator.violations


async def test_a_lost_control_socket_is_not_noticed_by_the_call(world: Stack) -> None:
    async with world.bridge():
        runner = await world.runner()
        before = await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        world.orchestrator.drop_control()
        await world.orchestrator.wait_until(lambda: not world.orchestrator.workers, "not dropped")
        await call.user("hello?")
        assert await call.reply() == "hello?"
        after = await world.orchestrator.wait_for_worker("agent")
        assert after.worker_id == before.worker_id
        await world.orchestrator.wait_until(lambda: world.orchestrator.workers[0].active_jobs == 1, "not counted")
        world.orchestrator.cancel(call.job_id)
        assert (await call.ended()).reason == "cancelled"


async def test_a_control_socket_that_is_lost_in_mid_assignment(world: Stack) -> None:
    async with world.bridge():
        runner = await world.runner(capacity=1)
        await world.orchestrator.wait_for_worker("agent")
        first = await world.orchestrator.place_call("agent")
        await first.connected()
        await world.news.until(lambda: bool(runner.started))
        placing = world.place(even_if_full=True)
        await world.news.until(lambda: 1 in world.queued)
        world.orchestrator.drop_control()
        await world.news.until(lambda: world.queued[-1] == 0)
        await first.hang_up()
        second = await placing
        await second.connected()
        assert len(second.dials) == 1
    assert not world.orchestrator.violations


async def test_nats_killed_and_started_again(world: Stack) -> None:
    async with world.bridge() as bridge:
        runner = await world.runner()
        before = await world.orchestrator.wait_for_worker("agent")
        await world.server.kill()
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        await call.user("hello?")
        assert await call.reply() == "hello?"
        assert world.orchestrator.workers[0].worker_id == before.worker_id
        bridge.process.terminate()
        await call.hang_up()
        assert await bridge.exited() == 0
        assert "Traceback" not in bridge.text


async def test_hostile_control_frames_harm_nothing(world: Stack) -> None:
    async with world.bridge() as bridge:
        await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        for payload in (
            "",
            "{}",
            "[" * 100_000,
            '{"type":"surprise"}',
            '{"type":"job.assign","job_id":1}',
            b"\xff\x00",
        ):
            world.orchestrator.send_control_raw(payload)
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        assert "unknown type 'surprise'" in bridge.text
    assert not world.orchestrator.violations


# --------------------------------------------------------------------------------------------------------------- jobs


async def test_a_call_that_is_still_dialled_takes_a_place(world: Stack) -> None:
    async with world.bridge():
        runner = await world.runner(capacity=1)
        await world.orchestrator.wait_for_worker("agent")
        first = await world.orchestrator.place_call("agent", faults=CallFaults(silent_handshakes=9))
        with pytest.raises(CallRefused) as refused:
            await world.orchestrator.place_call("agent", deadline_ms=400, even_if_full=True)
        assert refused.value.reasons[0] == "at_capacity"
        assert 1 in world.queued
        assert not runner.started
        world.orchestrator.cancel(first.job_id)
        await world.news.until(lambda: any(isinstance(told, Release) for told in runner.told))
        second = await world.orchestrator.place_call("agent")
        await second.connected()
        await world.news.until(lambda: list(runner.started) == [second.job_id])


async def test_a_job_waits_for_a_place_and_gets_it(world: Stack) -> None:
    async with world.bridge():
        runner = await world.runner(capacity=1)
        await world.orchestrator.wait_for_worker("agent")
        first = await world.orchestrator.place_call("agent")
        await first.connected()
        await world.news.until(lambda: bool(runner.started))
        world.queued.clear()
        placing = world.place(even_if_full=True)
        await world.news.until(lambda: 1 in world.queued)
        await first.hang_up()
        second = await placing
        await second.connected()
        assert world.queued[-1] == 0


async def test_capacity_0_refuses_everything_at_once(world: Stack) -> None:
    async with world.bridge():
        await world.runner(capacity=0)
        await world.orchestrator.wait_for_worker("agent")
        with pytest.raises(CallRefused) as refused:
            await world.orchestrator.place_call("agent", even_if_full=True)
        assert refused.value.reasons[0] == "at_capacity"


async def test_the_same_job_again_while_its_call_lives_dials_nothing(world: Stack) -> None:
    async with world.bridge():
        runner = await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        assert await world.orchestrator.reassign(call.job_id) is None
        await call.user("one line?")
        assert await call.reply() == "one line?"
        assert len(call.dials) == 1


async def test_a_job_whose_call_lives_at_another_bridge_is_accepted_and_not_dialled(world: Stack) -> None:
    async with world.bridge() as first:
        runner = await world.runner()
        before = await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        async with world.bridge() as second:
            await world.orchestrator.wait_for_worker("agent", count=2)
            [other] = [worker for worker in world.orchestrator.workers if worker.worker_id != before.worker_id]
            assert await world.orchestrator.reassign(call.job_id, worker_id=other.worker_id) is None
            assert "lives at another bridge" in second.text
            await call.user("still one line?")
            assert await call.reply() == "still one line?"
            assert len(call.dials) == 1
        assert first.process.returncode is None


async def test_a_log_that_is_nearly_full_takes_no_new_calls(tmp_path: Path) -> None:
    async with stack(tmp_path) as world:
        await world.open(topology(max_bytes=4 * MIB))
        subjects = world.subjects.call("agent", "old")
        for index in range(1, 40):
            envelope = Envelope(
                id=f"id{index}", type="evt.noise", source="test", session="old", time=0.0, epoch=0, index=index
            )
            await world.log.append(subjects.evt("noise"), b"x" * 100_000, to_headers(envelope))
        assert await world.log.usage() > 0.9
        async with world.bridge() as bridge:
            await world.runner()
            await world.orchestrator.wait_for_worker("agent")
            with pytest.raises(CallRefused) as refused:
                await world.orchestrator.place_call("agent")
            assert refused.value.reasons[0] == "at_capacity"
            assert "full" in bridge.text


# ---------------------------------------------------------------------------------------------------------------- end


async def test_sigterm_waits_for_the_calls(world: Stack) -> None:
    async with world.bridge() as bridge:
        runner = await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        bridge.process.terminate()
        await bridge.said("waiting for 1 to end")
        with pytest.raises(CallRefused) as refused:
            await world.orchestrator.place_call("agent", even_if_full=True)
        assert refused.value.reasons[0] == "draining"
        await call.user("still there?")
        assert await call.reply() == "still there?"
        await call.hang_up()
        assert await bridge.exited() == 0
        assert all(said.gone for said in world.bridges.values())
    assert not world.orchestrator.violations


async def test_a_second_signal_ends_at_once_and_drops_the_line_without_hanging_up(world: Stack) -> None:
    async with world.bridge() as bridge:
        runner = await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        call = await world.orchestrator.place_call("agent")
        await call.connected()
        await world.news.until(lambda: bool(runner.started))
        bridge.process.send_signal(signal.SIGINT)
        await bridge.said("waiting for 1 to end")
        bridge.process.send_signal(signal.SIGINT)
        assert await bridge.exited() == 1
        await call.observed(lambda call: not call.live, "the line to drop")
        assert call.outcome is None  # it can be dialled again: the record of its job is still there
        assert await world.jobs.get(call.job_id) is not None
