"""The runner's pulse on a real server: answered whatever the runner's code does, and only while it lives."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from unpod import AgentRunner, CallContext
from unpod.core.dispatch_messages import PULSE, Ping, Pulse, encode
from unpod.errors import LogUnavailable, NoResponders, RunnerBroken
from unpod.jetstream import Nats, NatsOptions, connect, embedded_topology, ensure
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod.runner.liveness import DOUBT_S, PulseThread
from unpod.session.task_owner import belongs

pytestmark = pytest.mark.faults


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        yield server


async def ping(nats: Nats, runner: str, timeout_s: float = 1.0) -> Pulse:
    asked = encode(Ping(bridge="b1", sessions={"s1": 1}))
    answer = await nats.request(f"unpod.runner.{runner}.ping", asked, timeout_s=timeout_s)
    return PULSE.decode(answer.data)


async def nobody_answers(nats: Nats, runner: str) -> None:
    """Return once nobody listens; what is asked while a connection ends may get no answer at all."""
    async with asyncio.timeout(10):
        while True:
            try:
                await ping(nats, runner, 0.2)
            except NoResponders:
                return
            except LogUnavailable:
                continue


def ignore(_: RunnerBroken) -> None: ...


def pulse_of(server: EmbeddedServer, runner: str) -> PulseThread:
    return PulseThread(
        server.connection(f"unpod {runner}"), f"unpod.runner.{runner}.ping", runner, lambda _: None, ignore
    )


def pings_from_elsewhere(options: NatsOptions, runner: str, seconds: float) -> list[tuple[float, Pulse]]:
    """Ping as another process does; return when each answer came, and what it was."""

    async def go() -> list[tuple[float, Pulse]]:
        found = []
        async with connect(options) as nats:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                pulse = await ping(nats, runner)
                found.append((time.monotonic(), pulse))
                await asyncio.sleep(0.05)
        return found

    return asyncio.run(go())


async def test_pings_are_answered_while_code_blocks_the_event_loop_and_say_for_how_long(
    server: EmbeddedServer,
) -> None:
    pulse = pulse_of(server, "r1")
    await pulse.start()
    try:
        pinging = asyncio.create_task(asyncio.to_thread(pings_from_elsewhere, server.connection("test"), "r1", 3.0))
        await asyncio.sleep(0.5)

        async def hook() -> tuple[float, float]:
            began = time.monotonic()
            time.sleep(1.5)  # noqa: ASYNC251 - this is what a hook must not do, and does
            return began, time.monotonic()

        running = asyncio.create_task(hook())
        belongs(running, "session-9")
        began, ended = await running
        answers = await pinging
    finally:
        await pulse.stop()
    blocked = [(at, found) for at, found in answers if began + 0.5 < at < ended]
    assert len(blocked) >= 5
    for at, found in blocked:
        assert at - began - 0.3 < found.lag_s < at - began + 0.3
        assert found.culprit == ("session-9" if found.lag_s >= DOUBT_S else "")
    assert any(found.culprit for _, found in blocked)
    assert all(found.lag_s < 0.3 for at, found in answers if at < began or at > ended + 0.5)
    assert all(found.runner == "r1" for _, found in answers)


async def test_a_pulse_ends_with_its_runner_and_leaves_no_thread(server: EmbeddedServer) -> None:
    threads = set(threading.enumerate())
    pulses = [pulse_of(server, f"r{number}") for number in range(3)]
    async with connect(server.connection("test")) as nats:
        for pulse in pulses:
            await pulse.start()
        assert [(await ping(nats, f"r{number}")).runner for number in range(3)] == ["r0", "r1", "r2"]
        await pulses[1].stop()
        await nobody_answers(nats, "r1")
        assert (await ping(nats, "r2")).runner == "r2"
        for pulse in (pulses[0], pulses[2]):
            await pulse.stop()
    assert not {thread.name for thread in threading.enumerate() if thread not in threads and "pulse" in thread.name}


async def test_a_pulse_is_there_again_after_the_server_was(server: EmbeddedServer) -> None:
    pulse = pulse_of(server, "r1")
    await pulse.start()
    try:
        async with connect(server.connection("test")) as nats:
            await server.kill()
            found = None
            async with asyncio.timeout(10):
                while found is None:
                    try:
                        found = await ping(nats, "r1", 0.2)
                    except (LogUnavailable, NoResponders):
                        await asyncio.sleep(0.05)
            assert found.runner == "r1"
    finally:
        await pulse.stop()


async def test_a_pulse_that_cannot_connect_says_so(server: EmbeddedServer) -> None:
    await server.down()
    options = server.connection("unpod r1")
    quick = NatsOptions(options.urls, credentials=options.credentials, connect_timeout_s=0.3)
    pulse = PulseThread(quick, "unpod.runner.r1.ping", "r1", lambda _: None, ignore)
    with pytest.raises(Exception, match="no NATS server answers"):
        await pulse.start()
    await pulse.stop()
    await server.up()


async def test_each_runner_of_a_process_has_a_pulse_while_it_runs(server: EmbeddedServer) -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()

    runners = [AgentRunner(handle, f"agent-{number}", nats_url=server.url) for number in range(2)]
    async with connect(server.connection("test")) as nats:
        await ensure(nats, embedded_topology().calls)
        running = [asyncio.create_task(runner.run()) for runner in runners]
        for runner in runners:
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert (await ping(nats, runner.runner_id)).sessions == {}
                        break
                    except NoResponders:
                        await asyncio.sleep(0.05)
        for runner in runners:
            await runner.shutdown()
        await asyncio.gather(*running)
        await nobody_answers(nats, runners[0].runner_id)


@pytest.mark.parametrize(
    ("whose", "says"),
    [("runner", "given the connection up"), ("pulse", r"liveness thread has stopped \(LogUnavailable\)")],
)
async def test_a_connection_that_is_closed_for_good_ends_the_runner(
    server: EmbeddedServer, whose: str, says: str
) -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()

    runner = AgentRunner(handle, "agent", nats_url=server.url)
    home = asyncio.get_running_loop()
    async with connect(server.connection("test")) as nats:
        await ensure(nats, embedded_topology().calls)
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(10):
            while True:
                try:
                    await ping(nats, runner.runner_id)
                    break
                except NoResponders:
                    await asyncio.sleep(0.05)
        clients = [each._client for each in connections(runner.runner_id)]
        (client,) = [each for each in clients if (each._loop is home) == (whose == "runner")]
        closing = asyncio.run_coroutine_threadsafe(client.close(), client._loop)
        with pytest.raises(RunnerBroken, match=says):
            async with asyncio.timeout(20):
                await running
        await asyncio.wrap_future(closing)


def connections(runner: str) -> list[Nats]:
    found = [each for each in gc.get_objects() if type(each) is Nats]  # a proxy would be asked for its class
    return [each for each in found if each.options.name == f"unpod {runner}"]
