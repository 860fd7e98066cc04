"""Runners for tests: as processes with all that they start, and in this process beside a server and a bridge."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from unpod import AgentRunner, CallContext, EchoAdapter
from unpod.jetstream import connect, embedded_topology, ensure
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod.runner.call import Entrypoint
from unpod_orchestrator import LocalCall, LocalOrchestrator

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


async def another_worker(orchestrator: LocalOrchestrator, old: str) -> None:
    await orchestrator.wait_until(lambda: any(w.worker_id != old for w in orchestrator.workers), "a new worker", 10)


async def until(holds: Callable[[], bool], timeout_s: float = 5) -> None:
    """Return when something holds of which nobody tells: of processes, or of figures that are only there to be read."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def talks(call: LocalCall) -> None:
    await call.user("one two")
    assert "one two" in await call.reply()


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
