"""A collector that is away, slow, hanging or answers errors: nothing is lost, the consumers go on, and it shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.integration.consumers.moody import Mood, Moody, Wire, over
from tests.integration.consumers.process import Consumer, consuming, free_port
from tests.integration.consumers.test_trace_reader import triggers_of
from tests.integration.consumers.test_traces import expected, whole_call
from tests.unit.consumers.records import SUBJECTS

from unpod.core.traces import trace_id
from unpod.jetstream import JetStreamLog, PullConsumer, checkpoints, connect, open_jobs, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp_traces import SpanSender
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.telemetry import TraceSettings
from unpod_consumers.trace_consumer import TraceConsumer
from unpod_consumers.trace_reader import TraceReader
from unpod_consumers.traces import specs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from unpod.jetstream import JobStore
    from unpod_consumers.projections.spans import Span


WIRES: Final = pytest.mark.parametrize("wire", ["grpc", "http/protobuf"])
BAD: Final[tuple[Mood, ...]] = ("unavailable", "refuses", "hangs")
IMPATIENT: Final = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
"""Seconds that the SDK's exporters give a request, where OpenTelemetry's default is 10."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        yield server


@pytest.fixture
async def log(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    async with connect(server.connection("test")) as nats:
        yield await open_log(nats, topology(max_bytes=64 * MIB).calls)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(28):
        while not condition():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.02)


async def until_lag(consumer: Consumer, least: int) -> None:
    async with asyncio.timeout(20):
        while (await consumer.samples()).get("unpod_consumer_lag", 0) < least:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


@WIRES
async def test_metrics_go_on_and_the_next_export_has_it_all(
    server: EmbeddedServer, log: JetStreamLog, wire: Wire
) -> None:
    moody = Moody()
    with over(moody, wire) as endpoint:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": wire, **IMPATIENT}
        async with consuming(server.url, **settings) as consumer:
            await whole_call(log, "s")
            await until(lambda: moody.calls == 1)
            for count, mood in enumerate(BAD, 2):
                moody.becomes(mood)
                await until(lambda mood=mood: moody.asked.get(mood, 0) > 0)  # type: ignore[misc]
                await whole_call(log, mood)
                # The endpoint for Prometheus and the place in the log do not wait for the collector.
                await consumer.until("unpod_calls_total", count)
                await consumer.until("unpod_consumer_lag", 0)
                assert moody.calls == 1
            moody.becomes("slow")
            await until(lambda: moody.calls == 4)


@WIRES
async def test_spans_wait_in_the_log_and_it_shows_as_lag(server: EmbeddedServer, log: JetStreamLog, wire: Wire) -> None:
    moody = Moody()
    names = ["s"]
    with over(moody, wire) as endpoint:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": wire, **IMPATIENT}
        async with consuming(server.url, "traces", **settings) as consumer:
            await whole_call(log, "s")
            wanted = await expected(log, "s")
            await until(lambda: moody.spans == wanted)
            for mood in BAD:
                moody.becomes(mood)
                before = moody.asked.get(mood, 0)
                names.append(mood)
                await whole_call(log, mood)
                await until(lambda mood=mood, before=before: moody.asked.get(mood, 0) > before)  # type: ignore[misc]
                await until_lag(consumer, 1)
                assert moody.spans == wanted
            moody.becomes("slow")
            wanted = await expected(log, *names)
            await until(lambda: moody.spans >= wanted)
            await consumer.until("unpod_consumer_lag", 0)
    assert moody.spans == wanted


@WIRES
async def test_a_collector_that_is_down_at_first_gets_it_all(
    server: EmbeddedServer, log: JetStreamLog, wire: Wire
) -> None:
    moody, port = Moody(), free_port()
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": wire}
    async with (
        consuming(server.url, "traces", **settings, **IMPATIENT) as spans,
        consuming(server.url, "metrics", **settings, **IMPATIENT) as metrics,
    ):
        await whole_call(log, "s1")
        await metrics.until("unpod_calls_total", 1)
        await until_lag(spans, 1)
        with over(moody, wire, port):
            wanted = await expected(log, "s1")
            await until(lambda: moody.calls == 1 and moody.spans >= wanted)
        await whole_call(log, "s2")
        await metrics.until("unpod_calls_total", 2)
        await until_lag(spans, 1)
        with over(moody, wire, port):
            wanted = await expected(log, "s1", "s2")
            await until(lambda: moody.calls == 2 and moody.spans >= wanted)


async def test_what_waits_is_not_held_in_memory(server: EmbeddedServer, log: JetStreamLog) -> None:
    moody = Moody()
    moody.becomes("hangs")
    names = [f"s{number}" for number in range(150)]
    with over(moody, "http/protobuf") as endpoint:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **IMPATIENT}
        async with consuming(server.url, "traces", **settings) as consumer:
            await whole_call(log, names[0])
            await until(lambda: moody.asked.get("hangs", 0) > 0)
            before = consumer.rss_mb()
            await asyncio.gather(*(whole_call(log, name) for name in names[1:]))
            await until_lag(consumer, 4 * len(names))
            asked = moody.asked["hangs"]
            await until(lambda: moody.asked["hangs"] > asked + 1)
            assert consumer.rss_mb() - before < 40
            wanted = await expected(log, *names)
            moody.becomes("takes")
            await until(lambda: moody.spans >= wanted)
    assert moody.spans == wanted


@pytest.mark.parametrize("name", ["metrics", "traces"])
@WIRES
async def test_a_hanging_collector_holds_up_no_exit(
    server: EmbeddedServer, log: JetStreamLog, name: str, wire: Wire
) -> None:
    moody = Moody()
    moody.becomes("hangs")
    with over(moody, wire) as endpoint:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": wire, **IMPATIENT}
        async with consuming(server.url, name, **settings) as consumer:
            await whole_call(log, "s")
            await until(lambda: moody.asked.get("hangs", 0) > 0)
            consumer.process.terminate()
            async with asyncio.timeout(20):
                assert await consumer.process.wait() == 0


async def test_spans_that_are_always_refused_are_parked_at_last_and_hold_up_no_others(
    server: EmbeddedServer, log: JetStreamLog
) -> None:
    await whole_call(log, "bad")
    refused = triggers_of([message async for message in log.read(SUBJECTS.session("bad"))])
    sender = Picky(trace_id("bad"))
    stop = asyncio.Event()
    async with connect(server.connection("consumer")) as nats:
        store = await open_jobs(nats, checkpoints(log.spec))
        reader = TraceReader(log, SUBJECTS, Sampling())
        spec, _ = specs(log.spec.name, SUBJECTS)
        consumer = TraceConsumer(
            PullConsumer(nats, spec),
            reader,
            sender,
            Checkpoint(store, "traces"),
            hold_s=1.0,
            again_s=0.01,
            later_s=0.05,
            most_deliveries=4,
        )
        running = asyncio.create_task(consumer.run(stop))
        async with asyncio.timeout(20):
            names: list[str] = []
            while len(await parked(store)) < 4:
                names.append(f"good-{len(names)}")
                await whole_call(log, names[-1])
        wanted = await expected(log, *names)
        await until(lambda: sender.ids == wanted)
        assert sorted(await parked(store)) == sorted(f"parked/traces/{one.seq}" for one in refused)
        stop.set()
        await running


async def parked(store: JobStore) -> list[str]:
    return [key for key in await store.keys() if key.startswith("parked/traces/")]


class Picky(SpanSender):
    """A collector that takes all traces but one."""

    def __init__(self, refused: str) -> None:
        super().__init__(InMemorySpanExporter(), TraceSettings())
        self._refused = refused
        self.ids: set[tuple[str, str, str]] = set()

    def send(self, spans: Sequence[Span]) -> bool:
        if any(span.trace_id == self._refused for span in spans):
            return False
        self.ids |= {(span.trace_id, span.span_id, span.name) for span in spans}
        return True
