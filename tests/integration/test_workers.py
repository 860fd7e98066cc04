"""`unpod run --workers`: several runner processes around one agent, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.pty_rig import Piped, environment, run
from tests.integration.runner_rig import parents, until_gone

from unpod.jetstream import connect, embedded_topology, ensure
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_orchestrator import LocalOrchestrator

KEY = "sk_mine"
PATIENCE_S = 20.0
AGENT = """
import os, sys
from unpod import AgentRunner, CallContext
from unpod.adapters import EchoAdapter

if "worker_process" in sys.argv[0] and os.environ.get("DIES"):
    print("dying", flush=True)
    os._exit(3)

async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    print(f"pid {os.getpid()} has {ctx.session_id}", flush=True)
    await ctx.session.run()

runner = AgentRunner(entrypoint=handle_call, agent_id="my-agent", drain_timeout_s=10)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(AGENT)
    return tmp_path


@pytest.fixture
async def orchestrator() -> AsyncIterator[LocalOrchestrator]:
    async with LocalOrchestrator(api_keys={KEY}, speed=50) as orchestrator:
        yield orchestrator


def settings(orchestrator: LocalOrchestrator, **changes: str) -> dict[str, str]:
    given = {"UNPOD_API_KEY": KEY, "UNPOD_ORCHESTRATOR_URL": orchestrator.url, "PYTHONUNBUFFERED": "1"}
    return environment(**(given | changes))


async def found(crew: Piped, pattern: str, times: int = 1) -> list[str]:
    """Return what a pattern has found in the output, once it was there so often."""
    assert crew.process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while len(matches := re.findall(pattern, crew.seen)) < times:
            data = await crew.process.stdout.read(65_536)
            assert data, f"{pattern!r} never came {times} times:\n{crew.seen}"
            crew.seen += data.decode()
    return matches


def children_of(crew: Piped) -> list[int]:
    return [child for child, parent in parents().items() if parent == crew.process.pid]


async def test_a_call_survives_the_death_of_its_worker_which_is_started_again(
    folder: Path, orchestrator: LocalOrchestrator
) -> None:
    env = settings(orchestrator)
    async with await Piped.start("run", "shop:runner", "--workers", "2", cwd=folder, env=env) as crew:
        await found(crew, "ready: agent my-agent", 2)
        call = await orchestrator.place_call("my-agent")
        await call.connected()
        await call.user("hi")
        assert await call.reply() == "You said: hi"
        [pid] = await found(crew, rf"pid (\d+) has {call.session_id}")
        os.kill(int(pid), signal.SIGKILL)
        await found(crew, r"worker \d has died \(SIGKILL\); starting it again")
        await call.user("still there?")
        assert await call.reply() == "You said: still there?"
        assert len(set(await found(crew, rf"pid (\d+) has {call.session_id}", 2))) == 2
        await found(crew, "ready: agent my-agent", 3)
        await call.hang_up()
        assert (await call.ended()).reason == "hangup"
        children = children_of(crew)
        assert len(children) == 4  # two workers, a server, a bridge
        crew.process.terminate()
        done = await crew.ended()
        assert done.status == 0
        assert "Traceback" not in done.out
        assert call.violations == []
    await until_gone(children)


async def test_sigterm_lets_the_workers_calls_end_and_a_second_one_does_not(
    folder: Path, orchestrator: LocalOrchestrator
) -> None:
    env = settings(orchestrator)
    async with await Piped.start("run", "shop:runner", "--workers", "2", cwd=folder, env=env) as crew:
        await found(crew, "ready: agent my-agent", 2)
        call = await orchestrator.place_call("my-agent")
        await call.connected()
        children = children_of(crew)
        crew.process.terminate()
        await found(crew, "draining: waiting for 1 calls")
        await call.user("hi")
        assert await call.reply() == "You said: hi"
        assert crew.process.returncode is None
        crew.process.send_signal(signal.SIGINT)
        assert (await crew.ended()).status == 128 + signal.SIGINT
    await until_gone(children)


async def test_a_worker_that_dies_young_is_started_again_less_and_less_often(folder: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(folder / "nats")) as server:
        env = environment(UNPOD_NATS_URL=server.url, DIES="1", PYTHONUNBUFFERED="1")
        async with await Piped.start("run", "shop:runner", "--workers", "1", cwd=folder, env=env) as crew:
            pauses = await found(crew, r"worker 1 has died \(exit status 3\); starting it again in ([\d.]+) s", 3)
            assert pauses[:3] == ["0.2", "0.4", "0.8"]
            assert crew.seen.count("dying") == 3
            crew.process.terminate()
            assert (await crew.ended()).status == 0


async def test_workers_of_a_fleet_start_neither_a_server_nor_a_bridge_and_die_with_their_supervisor(
    folder: Path,
) -> None:
    async with EmbeddedServer(EmbeddedOptions(folder / "nats")) as server:
        async with connect(server.connection("test")) as nats:
            await ensure(nats, embedded_topology().calls)
        env = environment(UNPOD_NATS_URL=server.url, PYTHONUNBUFFERED="1", UNPOD_DATA_DIR=str(folder / "other"))
        async with await Piped.start("run", "shop:runner", "--workers", "3", cwd=folder, env=env) as crew:
            await found(crew, "no bridge speaks for agent my-agent", 3)
            children = children_of(crew)
            assert len(children) == 3
            crew.process.kill()
            await crew.ended()
        await until_gone(children)
        assert not (folder / "other").exists()


async def test_a_refused_key_stops_all_workers_with_one_line(folder: Path, orchestrator: LocalOrchestrator) -> None:
    done = await run(
        "run", "shop:runner", "--workers", "3", cwd=folder, env=settings(orchestrator, UNPOD_API_KEY="sk_wrong")
    )
    assert done.status == 1
    assert "UNPOD_API_KEY" in done.err.splitlines()[-1]
    assert [line for line in done.err.splitlines() if "ERROR" in line or "Traceback" in line] == []
    assert "sk_wrong" not in done.err + done.out


@pytest.mark.parametrize(
    ("target", "changes", "told"),
    [
        ("shop:nobody", {}, "nobody"),
        ("broken:runner", {}, "nothing_of_that_name"),
        ("shop:runner", {"UNPOD_API_KEY": ""}, "UNPOD_API_KEY"),
        ("shop:runner", {"UNPOD_ORCHESTRATOR_URL": "http://:x"}, "UNPOD_ORCHESTRATOR_URL"),
        ("shop:runner", {"UNPOD_NATS_URL": "nats://127.0.0.1:1"}, "UNPOD_NATS_URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_run_is_told_before_anything_is_started(
    folder: Path, orchestrator: LocalOrchestrator, target: str, changes: dict[str, str], told: str
) -> None:
    (folder / "broken.py").write_text("import nothing_of_that_name")
    done = await run("run", target, "--workers", "2", cwd=folder, env=settings(orchestrator, **changes))
    assert (done.status, "Traceback" in done.err) == (2, False), done.err
    assert told in done.err.splitlines()[-1]


async def test_no_workers_are_refused(folder: Path, orchestrator: LocalOrchestrator) -> None:
    done = await run("run", "shop:runner", "--workers", "0", cwd=folder, env=settings(orchestrator))
    assert done.status == 2
