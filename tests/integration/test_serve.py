"""The serve transport: workers dial in to a bridge process."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.integration.bridge_stack import BridgeProcess, FakeRunner, Stack

from unpod.jetstream import connect, embedded_topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_orchestrator import CallRefused, LocalCall, LocalOrchestrator
from unpod_orchestrator.control.serve_dialer import signed_url

SECRET = "shared between orchestrator and agent"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Stack]:
    async with (
        EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server,
        connect(server.connection("test")) as nats,
        LocalOrchestrator(speed=50.0, heartbeat_interval_s=1, agent_secret=SECRET) as orchestrator,
    ):
        made = Stack(server, nats, orchestrator, tmp_path)
        await made.open(embedded_topology())
        try:
            yield made
        finally:
            await made.close()


def served(port: int, **environment: str) -> dict[str, str]:
    return {"UNPOD_RUNNER_URL": f"ws://127.0.0.1:{port}", "UNPOD_AGENT_SECRET": SECRET, **environment}


async def place(world: Stack, runner: FakeRunner, agent: str) -> LocalCall:
    """Place a call, and return once its runner hears it: it is a simple one, and does not read the log."""
    call = await world.orchestrator.place_call(agent)
    await call.connected()
    await world.news.until(lambda: call.job_id in runner.hearing)
    return call


def is_clean(bridge: BridgeProcess) -> bool:
    return "Traceback" not in bridge.text and SECRET not in bridge.text and "signature=" not in bridge.text


async def test_a_call_that_is_dialled_in_from_its_start_to_its_end(world: Stack) -> None:
    async with world.bridge(**served(free_port())) as bridge:
        runner = await world.runner(capacity=7)
        worker = await world.orchestrator.wait_for_worker("agent")
        assert worker.capabilities.serving_url is not None
        assert worker.capabilities.transport is None
        call = await place(world, runner, "agent")
        await call.user("good morning")
        assert await call.reply() == "good morning"
        assert list(runner.started) == [call.job_id]
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
        assert is_clean(bridge)
    assert not call.violations
    assert not world.orchestrator.violations


async def test_a_worker_that_was_cut_off_dials_in_again_and_the_call_goes_on(world: Stack) -> None:
    async with world.bridge(**served(free_port())) as bridge:
        runner = await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        call = await place(world, runner, "agent")
        await call.user("one")
        assert await call.reply() == "one"
        call.drop()
        await call.user("two")
        assert await call.reply() == "two"
        await call.hang_up()
        assert (await call.ended()).reason == "hangup"
        await bridge.said("call ended")
        assert is_clean(bridge)
    assert not call.violations


async def closed_with(url: str) -> int | None:
    """Dial as a worker, and return the close code; nothing must be said before it."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as line:
        message = await line.receive(timeout=15)
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return line.close_code


async def test_those_who_may_not_come_in_are_told_nothing_and_each_for_its_own_reason(world: Stack) -> None:
    port = free_port()
    async with world.bridge(**served(port)) as bridge:
        await world.runner()
        await world.orchestrator.wait_for_worker("agent")
        base = f"ws://127.0.0.1:{port}"
        good = signed_url(base, "s1", "j1", SECRET)
        old = good.replace(f"ts={time.time_ns() // 10**15}", "ts=1")
        for url, why in (
            (base, "it is not signed"),
            (signed_url(base, "s1", "j1", "another secret"), "its signature is wrong"),
            (old, "its signature is wrong"),
        ):
            assert await closed_with(url) == 1000
            await bridge.said(why)
        async with aiohttp.ClientSession() as session, session.ws_connect(good) as line:
            assert (await line.receive_json(timeout=15))["event"] == "hello"
            assert await closed_with(good) == 1000
            await bridge.said("its nonce has been used before")
        assert is_clean(bridge)


async def test_two_agents_are_told_apart_by_what_the_call_says(world: Stack) -> None:
    async with world.bridge(**served(free_port())) as bridge:
        runners = {agent: await world.runner(f"runner-{agent}", agent=agent) for agent in ("one", "two")}
        for agent, runner in runners.items():
            await world.orchestrator.wait_for_worker(agent)
            call = await place(world, runner, agent)
            await call.user("hi")
            assert await call.reply() == "hi"
            assert list(runner.started) == [call.job_id]
            await call.hang_up()
        assert is_clean(bridge)


async def test_another_bridge_goes_on_when_the_worker_comes_to_it(world: Stack) -> None:
    ports = free_port(), free_port()
    first = served(ports[0], UNPOD_RUNNER_URL=f"ws://127.0.0.1:{ports[0]}")
    async with world.bridge(**first) as former:
        runner = await world.runner()
        worker = await world.orchestrator.wait_for_worker("agent")
        call = await place(world, runner, "agent")
        await call.user("one")
        assert await call.reply() == "one"
        async with world.bridge(**served(ports[1])) as heir:
            await heir.said("is up")
            former.process.send_signal(signal.SIGKILL)
            await former.exited()
            # What stands before the bridges leads the worker to the one that lives.
            relay = await asyncio.start_server(lambda r, w: _pipe(r, w, ports[1]), "127.0.0.1", ports[0])
            async with relay:
                await call.user("two", timeout_s=20)
                assert await call.reply(20) == "two"
                await call.hang_up()
                await heir.said("call ended")
            assert is_clean(heir)
    assert worker.capabilities.serving_url == f"ws://127.0.0.1:{ports[0]}"


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


async def test_a_bridge_that_is_ending_lets_no_new_call_in(world: Stack) -> None:
    async with world.bridge(**served(free_port())) as bridge:
        runner = await world.runner()
        worker = await world.orchestrator.wait_for_worker("agent")
        call = await place(world, runner, "agent")
        bridge.process.terminate()
        await bridge.said("no more calls are taken")
        assert worker.capabilities.serving_url is not None
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await session.ws_connect(signed_url(worker.capabilities.serving_url, "s9", "j9", SECRET))
        call.drop()
        await call.user("still there?")
        assert await call.reply() == "still there?"
        await call.hang_up()
        assert await bridge.exited() == 0


async def test_a_call_for_nobody_is_let_go_of(world: Stack) -> None:
    port = free_port()
    async with world.bridge(**served(port)) as bridge:
        with pytest.raises(CallRefused):
            await world.orchestrator.place_call("agent")
        await bridge.said("is up")


async def test_a_port_that_is_taken_ends_the_bridge_with_the_variable(world: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with world.bridge(**served(taken.getsockname()[1])) as bridge:
            assert await bridge.exited() == 1
            assert "UNPOD_RUNNER_URL" in bridge.text.strip().splitlines()[-1]
