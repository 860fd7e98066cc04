"""Runners as real processes, with their nats-server and bridge, against the local orchestrator."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from unpod import AgentRunner, CallContext, ConfigurationError, EchoAdapter, RunnerAuthError
from unpod.jetstream import EmbeddedOptions, EmbeddedServer, connect, embedded_topology, ensure
from unpod.runner.call import Entrypoint
from unpod_bridge.orchestrator import Call, CallRefused, LocalOrchestrator

pytestmark = pytest.mark.integration

KEY = "sk_local"
AGENT = "my-agent"

SCRIPT = """
import asyncio, os, sys, time
from unpod import AgentRunner, CallContext, EchoAdapter

async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    await ctx.session.say("Hello!")
    if os.environ.get("BLOCK"):
        print("blocking", flush=True)
        time.sleep(60)
    await ctx.session.run()
    print("cleaned up", flush=True)

AgentRunner(entrypoint=handle_call, agent_id="my-agent", **eval(os.environ.get("ARGUMENTS", "{}"))).start()
"""


class Process:
    """An agent's script as a process of its own, and the processes that it starts."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: dict[str, object]) -> None:
        self.dir = folder
        self._out, self._err = folder / f"{time.monotonic_ns()}.out", folder / f"{time.monotonic_ns()}.err"
        script = folder / "agent.py"
        script.write_text(SCRIPT)
        base = {"PATH": os.environ["PATH"], "HOME": str(folder), "ARGUMENTS": repr(arguments)}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, str(script)], cwd=folder, env=base | environment, stdout=out, stderr=err
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def children(self) -> list[int]:
        """The nats-server and the bridge."""
        return [pid for pid, parent in parents().items() if parent == self.popen.pid]

    def child(self, needle: str) -> int:
        """The child whose command line has `needle` in it."""
        return next(pid for pid in self.children() if needle in command_of(pid))

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    async def ended(self, timeout_s: float = 15) -> int:
        """Return the exit status."""
        return await asyncio.to_thread(self.popen.wait, timeout_s)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


def parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(status.parent.name)] = int(parent)
    return found


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


async def until_gone(pids: list[int], timeout_s: float = 5) -> None:
    await until(lambda: not parents().keys() & set(pids), timeout_s)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


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


class Start:
    """Starts scripts, with only the key and the orchestrator's URL set, and what else is given."""

    def __init__(self, folder: Path, url: str, started: list[Process]) -> None:
        self._folder = folder
        self._alone = {"UNPOD_API_KEY": KEY, "UNPOD_ORCHESTRATOR_URL": url}
        self._started = started

    def __call__(self, arguments: dict[str, object] | None = None, **environment: str) -> Process:
        return self.exactly({**self._alone, **environment}, arguments)

    def exactly(self, environment: dict[str, str], arguments: dict[str, object] | None = None) -> Process:
        process = Process(self._folder, environment, arguments or {})
        self._started.append(process)
        return process


@pytest.fixture
def start(tmp_path: Path, orchestrator: LocalOrchestrator, processes: list[Process]) -> Start:
    return Start(tmp_path, orchestrator.url, processes)


async def another_worker(orchestrator: LocalOrchestrator, old: str) -> None:
    await orchestrator.wait_until(lambda: any(w.worker_id != old for w in orchestrator.workers), "a new worker", 10)


async def until(holds: Callable[[], bool], timeout_s: float = 5) -> None:
    """Return when something holds of which nobody tells: of processes, or of figures that are only there to be read."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def talks(call: Call) -> None:
    await call.user("one two")
    assert "one two" in await call.reply()


# ------------------------------------------------------------------------------------------------------ a whole system


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


async def test_sigterm_waits_for_the_call_and_takes_no_other(start: Start, orchestrator: LocalOrchestrator) -> None:
    process = start(UNPOD_LOG_LEVEL="info")
    await orchestrator.wait_for_worker(AGENT, 10)
    call = await orchestrator.place_call(AGENT)
    await talks(call)
    process.send(signal.SIGTERM)
    await until(lambda: "draining" in process.stderr)
    with pytest.raises(CallRefused) as refused:
        await orchestrator.place_call(AGENT, deadline_ms=500, even_if_full=True)
    assert set(refused.value.reasons) == {"draining"}
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
    process.send(signal.SIGINT)
    process.send(signal.SIGTERM)
    assert await process.ended(6) in {128 + signal.SIGTERM, 128 + signal.SIGINT}
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


# ------------------------------------------------------------------------------------------------------------ the fleet


@asynccontextmanager
async def fleet(tmp_path: Path, orchestrator: LocalOrchestrator) -> AsyncIterator[str]:
    """A NATS server and a bridge; yields where the server is."""
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        async with connect(server.connection()) as nats:
            streams = embedded_topology()
            await ensure(nats, streams.calls, streams.jobs)
        environment = {**os.environ, "UNPOD_NATS_URL": server.url, "UNPOD_API_KEY": KEY, "UNPOD_LOG_LEVEL": "ERROR"}
        environment["UNPOD_ORCHESTRATOR_URL"] = orchestrator.url
        bridge = await asyncio.create_subprocess_exec(sys.executable, "-m", "unpod_bridge", env=environment)
        try:
            yield server.url
        finally:
            bridge.terminate()
            await bridge.wait()


@asynccontextmanager
async def running(runner: AgentRunner) -> AsyncIterator[AgentRunner]:
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        await runner.shutdown()
        await task


async def echo(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    await ctx.session.run()


def joined(url: str, entrypoint: Entrypoint = echo, **arguments: Any) -> AgentRunner:  # noqa: ANN401 - as AgentRunner has them
    return AgentRunner(entrypoint, AGENT, nats_url=url, drain_timeout_s=1, **arguments)


async def counted(runner: AgentRunner, calls: int) -> None:
    await until(lambda: runner.stats().completed_last_hour + runner.stats().failed_last_hour >= calls)


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


async def test_permits_limit_how_fast_calls_are_taken(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    async with (
        fleet(tmp_path, orchestrator) as url,
        running(joined(url, permits_per_minute=2)),
    ):
        await orchestrator.wait_for_worker(AGENT, 10)
        for _ in range(2):
            await orchestrator.place_call(AGENT)
        with pytest.raises(CallRefused):
            await orchestrator.place_call(AGENT, deadline_ms=400)


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
        async with asyncio.timeout(5):
            await task
        assert runner.stats().completed_last_hour == 1


async def test_shutdown_while_it_starts_ends_it(tmp_path: Path, orchestrator: LocalOrchestrator) -> None:
    runner = AgentRunner(echo, AGENT, api_key=KEY, base_url=orchestrator.url, data_dir=tmp_path / "data")
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0)
    await runner.shutdown()
    await task
