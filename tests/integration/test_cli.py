"""The other commands, as a user runs them; and the processes that they start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from tests.integration.pty_rig import Piped, environment, run

from unpod.jetstream import connect, embedded_topology, open_log
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_cli.processes import Process

AGENT = """
from unpod import AgentRunner, CallContext
from unpod.adapters import EchoAdapter

async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    print(f"it is {await ctx.session.run()}")  # one write: the log of the bridge comes into the same pipe

runner = AgentRunner(entrypoint=handle_call, agent_id="my-agent")
"""


def exported(shown: str) -> dict[str, str]:
    """Return the variables that `unpod orchestrator` says to export."""
    lines = [line.removeprefix("export ") for line in shown.splitlines() if line.startswith("export ")]
    return dict(line.split("=", 1) for line in lines)


# --- unpod orchestrator, unpod run ------------------------------------------------------------------------------------


async def test_an_orchestrator_and_a_runner_that_is_pointed_at_it(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(AGENT)
    async with await Piped.start("orchestrator", "--port", "0", "--key", "sk_mine", "--speed", "20") as orchestrator:
        await orchestrator.until("UNPOD_API_KEY")
        variables = exported(await orchestrator.until("listening"))
        assert variables["UNPOD_API_KEY"] == "sk_mine"
        env = environment(PYTHONUNBUFFERED="1", **variables)
        async with await Piped.start("run", "shop:runner", cwd=tmp_path, env=env) as runner:
            await runner.until("ready: agent my-agent")
            place = {"agent_id": "my-agent", "script": [{"step": "says", "text": "hi"}, {"step": "hears_reply"}]}
            base = variables["UNPOD_ORCHESTRATOR_URL"].replace("ws://", "http://")
            async with httpx2.AsyncClient(headers={"Authorization": "Bearer sk_mine"}) as client:
                placed = await client.post(f"{base}/_local/calls", json=place)
            assert placed.status_code == 201
            await runner.until("it is hangup")
            runner.process.terminate()
            assert (await runner.ended()).status == 0
        orchestrator.process.terminate()
        done = await orchestrator.ended()
        assert done.status == 0
        assert "Traceback" not in done.out


async def test_an_orchestrator_for_programs_that_is_interrupted() -> None:
    async with await Piped.start("orchestrator", "--port", "0", "--json", "--agent-secret", "hush") as orchestrator:
        shown = await orchestrator.until("}")
        told = json.loads(next(line for line in shown.splitlines() if line.startswith("{")))
        assert told["UNPOD_ORCHESTRATOR_URL"] == f"ws://127.0.0.1:{told['port']}"
        assert told["UNPOD_AGENT_SECRET"] == "hush"
        orchestrator.process.send_signal(signal.SIGINT)
        done = await orchestrator.ended()
        assert done.status == 0
        assert "Traceback" not in done.out


async def test_a_taken_port_and_an_address_of_somebody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await run("orchestrator", "--port", str(port))
    line = f"Error: port {port} is taken: choose another with --port, or --port 0 for a free one\n"
    assert (done.status, done.out, done.err) == (1, "", line)
    done = await run("orchestrator", "--host", "192.0.2.1", "--port", "0")
    assert done.status == 1
    assert done.err.startswith("Error: cannot listen on 192.0.2.1: ")
    assert done.err.endswith("choose an address of this machine with --host\n")


async def test_a_runner_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(AGENT)
    done = await run("run", "shop:runner", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("unpod: UNPOD_API_KEY is not set: ")
    assert done.err.count("\n") == 1


async def test_a_runner_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(AGENT)
    done = await run("run", "shop:other", cwd=tmp_path)
    assert (done.status, done.err) == (2, "Error: other is not there in shop: it has runner\n")


# --- unpod bridge -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as running:
        async with connect(running.connection()) as nats:
            await open_log(nats, embedded_topology().calls)  # as large as fits into an embedded server
        yield running


async def test_a_bridge_until_it_is_asked_to_end(server: EmbeddedServer) -> None:
    options = ("--nats-url", server.url, "--orchestrator-url", "ws://127.0.0.1:1")
    async with await Piped.start("bridge", *options, env=environment(UNPOD_API_KEY="sk_secret")) as bridge:
        await bridge.until("is up: NATS nats://127.0.0.1:")
        bridge.process.terminate()
        done = await bridge.ended()
        assert done.status == 0
        assert "has ended" in done.out
        assert "sk_secret" not in done.out
        assert server.url not in done.out  # it holds a password


async def test_a_bridge_that_cannot_begin() -> None:
    done = await run("bridge", "--nats-url", "nats://127.0.0.1:4222")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("Error: UNPOD_API_KEY is not set: ")
    done = await run("bridge", env=environment(UNPOD_API_KEY="sk_secret"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("Error: UNPOD_NATS_URL is not set: ")


# --- processes --------------------------------------------------------------------------------------------------------


async def lines_of(code: str) -> tuple[int, list[str], list[str]]:
    """Return how a Python process ends, what it writes, and what it reports."""
    wrote: list[str] = []
    reported: list[str] = []
    process = Process(wrote.append)
    await process.start([sys.executable, "-c", code], environment(), on_status=reported.append)
    status = await process.wait()
    assert await process.stop(0.0) == status
    return status, wrote, reported


async def test_what_a_process_writes_and_reports() -> None:
    code = (
        "import os, sys; print('one'); sys.stdout.flush(); print('two', file=sys.stderr); sys.stderr.flush();"
        "os.write(int(sys.argv[1]), b'ready\\n' + b'x' * 100_000 + b'\\n'); print('three', end=''); sys.exit(4)"
    )
    assert await lines_of(code) == (4, ["one", "two", "three"], ["ready", "x" * 100_000])


async def test_a_line_without_end_comes_in_parts_and_nonsense_does_no_harm() -> None:
    _, wrote, _ = await lines_of("import os; os.write(1, b'x' * 100_000 + b'\\xff\\r\\n')")
    assert len(wrote) > 1
    assert "".join(wrote) == "x" * 100_000 + "\N{REPLACEMENT CHARACTER}"


async def test_a_process_that_does_not_want_to_end() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    up = asyncio.Event()
    process = Process(lambda _: up.set())
    await process.start([sys.executable, "-c", code], environment())
    await up.wait()
    assert await process.stop(0.05) == -signal.SIGKILL
    assert process.last_line == "up"


async def test_what_a_process_has_started_does_not_hold_us_up() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'])"
    status, _, _ = await lines_of(code)
    assert status == 0
