"""Runners as real processes, with their nats-server and bridge, against the local orchestrator."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.runner_rig import (
    AGENT,
    KEY,
    Process,
    Start,
    another_worker,
    command_of,
    free_port,
    talks,
    until,
    until_gone,
)

from unpod_orchestrator import CallRefused, LocalOrchestrator


@pytest.fixture
async def orchestrator() -> AsyncIterator[LocalOrchestrator]:
    async with LocalOrchestrator(speed=50) as orchestrator:
        yield orchestrator


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.close()


@pytest.fixture
def start(tmp_path: Path, orchestrator: LocalOrchestrator, processes: list[Process]) -> Start:
    return Start(tmp_path, orchestrator.url, processes)


# ------------------------------------------------------------------------------------------------------ a whole system


@pytest.mark.smoke
async def test_start_alone_is_a_whole_system_and_leaves_nothing_behind(
    start: Start, orchestrator: LocalOrchestrator
) -> None:
    process = start()
    await orchestrator.wait_for_worker(AGENT, 10)
    children = process.children()
    assert len(children) == 2
    call = await orchestrator.place_call(AGENT)
    await call.heard("Hello!")
    await talks(call)
    await call.hang_up()
    process.send(signal.SIGTERM)
    assert await process.ended() == 0
    assert process.stderr == ""
    assert process.stdout == "cleaned up\n"
    assert (process.dir / ".unpod").is_dir()
    await until_gone(children)
    assert orchestrator.violations == []


async def test_no_secret_is_on_a_command_line(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start()
    await orchestrator.wait_for_worker(AGENT, 10)
    for pid in process.children():
        command = command_of(pid)
        assert KEY not in command
        assert "@" not in command


async def test_sigkill_leaves_no_child_behind(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start()
    worker = await orchestrator.wait_for_worker(AGENT, 10)
    children = process.children()
    assert len(children) == 2
    process.send(signal.SIGKILL)
    await process.ended()
    await until_gone(children)
    again = start()  # and the data directory is free
    await another_worker(orchestrator, worker.worker_id)
    again.send(signal.SIGTERM)
    assert await again.ended() == 0


def _written(process: Process, record_type: str) -> int:
    """Return how many records of a type its NATS server has written to its files, which outlive its SIGKILL."""
    blocks = (process.dir / ".unpod").glob("**/UNPOD_CALLS/msgs/*.blk")
    return sum(block.read_bytes().count(f"ce-type: {record_type}\r\n".encode()) for block in blocks)


async def test_a_call_goes_on_when_all_of_it_was_killed_and_started_again(
    start: Start, orchestrator: LocalOrchestrator
) -> None:
    process = start(UNPOD_FAILPOINTS="line.reply_ended=kill@2")
    await orchestrator.wait_for_worker(AGENT, 10)
    call = await orchestrator.place_call(AGENT)
    await call.heard("Hello!")
    await talks(call)
    await call.user("three four")
    assert "three four" in await call.reply()  # and nobody has recorded that it was ended
    # NATS passes a record on before it writes it: killed in between, nobody knows of the end, and an apology is due.
    await until(lambda: _written(process, "io.unpod.cmd.reply.end.v1") == 2, 20)
    process.send(signal.SIGKILL)
    await process.ended()
    await call.observed(lambda seen: not seen.live, "the socket's end")
    again = start()
    await call.user("five six")  # as soon as there is a socket
    assert "five six" in await call.reply()
    await talks(call)
    await call.hang_up()
    again.send(signal.SIGTERM)
    assert await again.ended() == 0
    assert orchestrator.violations == []


async def test_a_bridge_that_dies_is_started_again(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start()
    worker = await orchestrator.wait_for_worker(AGENT, 10)
    bridge = process.child("unpod_bridge")
    os.kill(bridge, signal.SIGKILL)
    await another_worker(orchestrator, worker.worker_id)
    call = await orchestrator.place_call(AGENT)
    await talks(call)
    await call.hang_up()
    process.send(signal.SIGTERM)
    assert await process.ended() == 0
    assert "the bridge has died (-9)" in process.stderr


# --------------------------------------------------------------------------------------------------------------- drain


async def _refused(orchestrator: LocalOrchestrator) -> set[str]:
    with pytest.raises(CallRefused) as refused:
        await orchestrator.place_call(AGENT, deadline_ms=500, even_if_full=True)
    return set(refused.value.reasons)


async def test_sigterm_waits_for_the_call_and_takes_no_other(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start(UNPOD_LOG_LEVEL="info")
    await orchestrator.wait_for_worker(AGENT, 10)
    call = await orchestrator.place_call(AGENT)
    await talks(call)
    process.send(signal.SIGTERM)
    await until(lambda: "draining" in process.stderr)
    async with asyncio.timeout(15):
        reasons = await _refused(orchestrator)
        while reasons != {"draining"}:  # until the bridge has heard it, it only finds nobody
            assert reasons <= {"draining", "at_capacity"}
            reasons = await _refused(orchestrator)
    await talks(call)
    await call.hang_up()
    assert await process.ended(5) == 0
    assert process.stdout == "cleaned up\n"


async def test_after_the_drain_timeout_the_call_is_ended(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start({"drain_timeout_s": 0.5})
    await orchestrator.wait_for_worker(AGENT, 10)
    call = await orchestrator.place_call(AGENT)
    await talks(call)
    process.send(signal.SIGINT)
    outcome = await call.ended()
    assert outcome.detail == "error"
    assert await process.ended() == 0
    assert call.session_id in process.stderr


async def test_a_second_signal_ends_at_once(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start(UNPOD_LOG_LEVEL="info")
    await orchestrator.wait_for_worker(AGENT, 10)
    call = await orchestrator.place_call(AGENT)
    await call.heard("Hello!")
    children = process.children()
    process.send(signal.SIGTERM)
    await until(lambda: "draining" in process.stderr)
    assert process.popen.poll() is None
    process.send(signal.SIGINT)
    assert await process.ended(6) == 128 + signal.SIGINT
    await until_gone(children)


async def test_a_second_signal_ends_at_once_even_what_blocks_its_loop(
    start: Start, orchestrator: LocalOrchestrator
) -> None:
    process = start(BLOCK="1")
    await orchestrator.wait_for_worker(AGENT, 10)
    await orchestrator.place_call(AGENT)
    await until(lambda: "blocking" in process.stdout)
    children = process.children()

    def ended() -> bool:
        # Again and again: Python may notice a signal that comes together with another one only with the next.
        process.send(signal.SIGINT)
        return process.popen.poll() is not None

    await until(ended, 6)
    assert process.popen.returncode == 128 + signal.SIGINT
    await until_gone(children)


# ------------------------------------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"refuse_key": "http_401"}, "UNPOD_API_KEY"),
        ({"refuse_key": "close_4001"}, "UNPOD_API_KEY"),
        ({"transport_ack": None}, "transport"),
    ],
    ids=["401", "4001", "too old"],
)
async def test_a_refusal_for_good_is_one_line_and_status_1(
    start: Start, orchestrator: LocalOrchestrator, faults: dict[str, str | None], says: str
) -> None:
    for name, value in faults.items():
        setattr(orchestrator.faults, name, value)
    process = start()
    assert await process.ended(10) == 1
    assert says in process.stderr
    assert process.stderr.count("\n") == 1
    assert KEY not in process.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "UNPOD_API_KEY"),
        ({"UNPOD_API_KEY": KEY, "UNPOD_ORCHESTRATOR_URL": "ftp://nowhere"}, "UNPOD_ORCHESTRATOR_URL"),
        ({"UNPOD_NATS_URL": "http://nowhere"}, "UNPOD_NATS_URL"),
        ({"UNPOD_NATS_URL": f"nats://me:hunter2@127.0.0.1:{free_port()}"}, "UNPOD_NATS_URL"),
        ({"UNPOD_API_KEY": KEY, "UNPOD_DATA_DIR": "/proc/nowhere"}, "UNPOD_DATA_DIR"),
    ],
    ids=["no key", "no such url", "no nats url", "no nats there", "no directory"],
)
async def test_a_wrong_setting_is_one_line_and_status_2(start: Start, environment: dict[str, str], says: str) -> None:
    process = start.exactly(environment)
    assert await process.ended(10) == 2
    assert says in process.stderr
    assert process.stderr.count("\n") == 1
    assert "hunter2" not in process.stderr


async def test_a_data_directory_that_is_in_use_is_said(start: Start, orchestrator: LocalOrchestrator) -> None:
    first = start()
    await orchestrator.wait_for_worker(AGENT, 10)
    second = start()
    assert await second.ended(10) == 2
    assert "UNPOD_DATA_DIR" in second.stderr
    assert str(first.popen.pid) in second.stderr
    assert second.stderr.count("\n") == 1


async def test_an_orchestrator_that_is_away_is_waited_for(tmp_path: Path, processes: list[Process]) -> None:
    port = free_port()
    process = Start(tmp_path, f"ws://127.0.0.1:{port}", processes)()
    await until(lambda: "UNPOD_ORCHESTRATOR_URL" in process.stderr, 10)
    async with LocalOrchestrator(port=port, speed=50) as orchestrator:
        await orchestrator.wait_for_worker(AGENT, 10)
        call = await orchestrator.place_call(AGENT)
        await talks(call)
        await call.hang_up()
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
