"""`unpod consume traces` as processes of their own, between a real nats-server and real receivers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from tests.integration.consumers.span_collector import Spans, over_grpc, over_http
from tests.unit.consumers.records import AGENT, SUBJECTS, message

from unpod.core import codec
from unpod.core.envelope import format_time
from unpod.core.events import CallEnded, CallStarted, LineTaken, LLMCalled, OwnerAppointed, OwnerChanged, TurnCompleted
from unpod.core.traces import root_span, trace_id
from unpod.jetstream import JetStreamLog, PullConsumer, checkpoints, connect, open_jobs, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_consumers import traces
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp_traces import open_sender
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.projections.traces import spans_of_log
from unpod_consumers.telemetry import TraceSettings
from unpod_consumers.trace_reader import TraceReader

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from unpod.jetstream import Nats


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        yield server


@pytest.fixture
async def nats(server: EmbeddedServer) -> AsyncIterator[Nats]:
    async with connect(server.connection("test")) as nats:
        yield nats


@pytest.fixture
async def log(nats: Nats) -> JetStreamLog:
    return await open_log(nats, topology(max_bytes=64 * MIB).calls)


async def begin(log: JetStreamLog, session: str, turns: int = 2) -> int:
    """Write a call without its end, as bridge and owner do; return its line epoch."""
    call = SUBJECTS.call(AGENT, session)
    line = message(session, "own", LineTaken(bridge="b"), 0, 0.0, identifier=f"{session}-line", epoch=0)
    headers = {**line.headers, "ce-type": "io.unpod.line.line.taken.v1"}
    at = (await log.append(call.line, line.data, headers)).seq
    own = message(session, "own", OwnerAppointed(runner="r"), 0, 0.0, identifier=f"{session}-own", epoch=0)
    epoch = (await log.append(own.subject, own.data, own.headers)).seq
    bodies = [
        message(session, "evt", CallStarted(session_id=session), 1, 0.0, epoch=at),
        message(session, "ack", OwnerChanged(epoch=epoch), 2, 0.0, epoch=at),
    ]
    for turn in range(1, turns + 1):
        model = LLMCalled(turn_id=turn, model="m", provider="p", latency_ms=300.0, tokens_in=10, tokens_out=5)
        done = TurnCompleted(
            turn_id=turn, started_at=1_700_000_000.0 + turn, asr_ms=100.0, ended_at=1_700_000_001.0 + turn
        )
        bodies += [
            message(session, "run", model, 2 * turn - 1, turn, epoch=epoch),
            message(session, "run", done, 2 * turn, turn + 0.5, epoch=epoch),
        ]
    for one in bodies:
        await log.append(one.subject, one.data, one.headers)
    return at


async def whole_call(log: JetStreamLog, session: str) -> None:
    epoch = await begin(log, session)
    end = message(session, "evt", CallEnded(reason="hangup"), 3, 20.0, epoch=epoch)
    await log.append(end.subject, end.data, end.headers)


async def expected(log: JetStreamLog, *sessions: str) -> set[tuple[str, str, str]]:
    found = set()
    for session in sessions:
        records = [
            codec.read(SUBJECTS, at.subject, at.headers, at.data, at.seq)
            async for at in log.read(SUBJECTS.session(session))
        ]
        found |= {(span.trace_id, span.span_id, span.name) for span in spans_of_log(session, AGENT, records)}
    return found


def environment(server: EmbeddedServer, endpoint: str, **settings: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "UNPOD_NATS_URL": server.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **settings,
    }


@asynccontextmanager
async def consuming(server: EmbeddedServer, endpoint: str, **settings: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "unpod_cli", "consume", "traces", env=environment(server, endpoint, **settings)
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(25):
        while not condition():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_collector_gets_the_trace_that_it_first_refused(
    server: EmbeddedServer, log: JetStreamLog, protocol: str
) -> None:
    received = Spans(refusals=2)
    await whole_call(log, "s1")
    wanted = await expected(log, "s1")
    with (over_grpc if protocol == "grpc" else over_http)(received) as endpoint:
        async with consuming(server, endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol):
            await until(lambda: received.ids() >= wanted)
    assert received.refused == 2
    assert received.ids() == wanted
    assert {span.trace_id.hex() for span in received.all()} == {trace_id("s1")}


async def test_replicas_share_the_work(server: EmbeddedServer, log: JetStreamLog) -> None:
    received = Spans()
    names = [f"s{n}" for n in range(30)]
    with over_http(received) as endpoint:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(consuming(server, endpoint))
            await asyncio.gather(*(whole_call(log, name) for name in names))
            wanted = await expected(log, *names)
            await until(lambda: received.ids() >= wanted)
    assert received.ids() == wanted
    assert len(received.all()) == len(wanted)  # nobody was killed, so nothing was sent twice


async def test_killed_in_mid_run_no_span_is_missing_and_none_is_new(
    server: EmbeddedServer, nats: Nats, log: JetStreamLog
) -> None:
    received = Spans()
    names = [f"s{n}" for n in range(20)]
    await impatient(nats, log)
    with over_http(received) as endpoint:
        async with consuming(server, endpoint) as process:
            writing = asyncio.gather(*(whole_call(log, name) for name in names))
            await until(lambda: bool(received.all()))
            process.kill()
            await process.wait()
            await writing
        wanted = await expected(log, *names)
        async with consuming(server, endpoint):
            await until(lambda: received.ids() >= wanted)
    assert received.ids() == wanted


async def impatient(nats: Nats, log: JetStreamLog) -> None:
    """Make the consumers, so that what a dead process held comes again after a second; processes find them as is."""
    for spec in traces.specs(log.spec.name, SUBJECTS, ack_wait_s=1.0):
        await PullConsumer(nats, spec).open()


async def test_sent_again_the_spans_have_the_same_ids(server: EmbeddedServer, log: JetStreamLog) -> None:
    await whole_call(log, "s1")
    await whole_call(log, "s2")
    for options, names in ((("--from-start",), ("s1", "s2")), (("--session", "s2"), ("s2",))):
        received = Spans()
        with over_http(received) as endpoint:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "unpod_cli", "consume", "traces", *options),
                env=environment(server, endpoint),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
        assert process.returncode == 0
        assert received.ids() == await expected(log, *names)
        assert out.decode() == f"sent {len(received.all())} spans of {len(names)} calls\n"


async def test_since_begins_where_it_says(server: EmbeddedServer, log: JetStreamLog) -> None:
    await whole_call(log, "early")
    last = [message async for message in log.read(SUBJECTS.session("early"))][-1]
    await whole_call(log, "late")
    received = Spans()
    moment = format_time(last.time_ns / 1e9 + 1e-6)
    with over_http(received) as endpoint:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "unpod_cli", "consume", "traces", "--since", moment),
            env=environment(server, endpoint),
        )
        assert await process.wait() == 0
    assert received.ids() == await expected(log, "late")


async def test_half_of_the_calls_where_that_is_asked_for(server: EmbeddedServer, log: JetStreamLog) -> None:
    names = [f"s{n}" for n in range(12)]
    for name in names:
        await whole_call(log, name)
    sampling, received = Sampling(0.5), Spans()
    taken = [name for name in names if sampling.takes(trace_id(name))]
    wanted = await expected(log, *taken)
    settings = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with over_http(received) as endpoint:
        port = free_port()
        listening = {"OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
        async with consuming(server, endpoint, **settings, **listening):
            await until(lambda: received.ids() >= wanted)
            await caught_up(port)
    assert 0 < len(taken) < len(names)
    assert received.ids() == wanted


async def caught_up(port: int) -> None:
    async with asyncio.timeout(25):
        while 'unpod_consumer_lag{consumer="traces"} 0.0' not in await asyncio.to_thread(scraped, port):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def test_a_rewind_that_the_collector_refuses_fails(server: EmbeddedServer, log: JetStreamLog) -> None:
    await whole_call(log, "s1")
    with over_http(Spans(refusals=100)) as endpoint:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "unpod_cli", "consume", "traces", "--from-start"),
            env=environment(server, endpoint),
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
    assert process.returncode == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in err.decode()


async def test_a_call_without_its_end_gets_its_root(
    server: EmbeddedServer, nats: Nats, log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(log, "dead")
    await whole_call(log, "well")
    parked = Checkpoint(await open_jobs(nats, checkpoints(log.spec)), "traces")
    received, stop = Spans(), asyncio.Event()
    with over_http(received) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        sender = open_sender(TraceSettings())
        reader = TraceReader(log, SUBJECTS, Sampling())
        _, watch = traces.consumers(nats, log, reader, sender, parked, subjects=SUBJECTS, abandoned_after_s=0.0)
        running = asyncio.create_task(watch.run(stop))
        await until(lambda: any(span.span_id.hex() == root_span("dead") for span in received.all()))
        stop.set()
        await running
        sender.close()
    assert {span.trace_id.hex() for span in received.all()} == {trace_id("dead")}
    root = next(span for span in received.all() if not span.parent_span_id)
    assert (root.name, root.status.message) == ("conversation", "abandoned")
    assert await watch.lag() == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def scraped(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""  # it has not come up yet


async def test_poison_is_parked_and_blocks_nothing(server: EmbeddedServer, nats: Nats, log: JetStreamLog) -> None:
    poison = message("s0", "evt", CallStarted(session_id="s0"), 1, 0.0)
    await log.append(poison.subject, b"[" * 100_000, poison.headers)
    await whole_call(log, "s1")
    wanted, received = await expected(log, "s1"), Spans()
    port = free_port()
    listening = {"OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    with over_http(received) as endpoint:
        async with consuming(server, endpoint, **listening):
            await until(lambda: received.ids() >= wanted)
            await caught_up(port)
    store = await open_jobs(nats, checkpoints(log.spec))
    assert "parked/traces/1" in await store.keys()
