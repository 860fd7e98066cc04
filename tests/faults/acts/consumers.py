"""Faults of the consumers: the calls do not notice, and nothing is counted twice or left out."""

from __future__ import annotations

import asyncio

from tests.faults.scene import Scene
from tests.integration.consumers.process import Consumer, again, consuming, from_start
from tests.integration.consumers.span_collector import Spans, over_http
from tests.integration.consumers.test_traces import impatient

KILLS = 3


async def killed_and_rerun(scene: Scene) -> None:
    """The metrics consumer is killed in mid-call, and started again, several times."""
    for _ in range(KILLS):
        async with consuming(scene.stack.server.url) as consumer:
            await consumer.up()
            await scene.some_words()
            consumer.process.kill()
            await consumer.process.wait()
    scene.mark()


async def it_counts_what_the_log_says(scene: Scene) -> None:
    """Once all calls are over, it has what a run from the log's first record gives."""
    url = scene.stack.server.url
    whole = await from_start(url)
    scene.expect(whole.get("unpod_calls_total") == len(scene.load.callers), f"{whole.get('unpod_calls_total')} calls")
    async with consuming(url) as consumer:
        await consumer.until("unpod_calls_total", whole["unpod_calls_total"])
        found = await consumer.until("unpod_consumer_lag", 0)
    for name, value in whole.items():
        if not name.startswith("unpod_consumer") and not name.endswith("_created"):
            scene.expect(abs(found.get(name, 0.0) - value) < 1e-6, f"{name} is {found.get(name)}, the log says {value}")


async def traces_killed_and_rerun(scene: Scene) -> None:
    """Two replicas of the traces consumer are killed in mid-call, and started again, several times."""
    received = Spans()
    url = scene.stack.server.url
    await impatient(scene.stack.nats, scene.stack.log)
    with over_http(received) as endpoint:
        for _ in range(KILLS):
            async with (
                consuming(url, "traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as first,
                consuming(url, "traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as second,
            ):
                await asyncio.gather(first.up(), second.up())
                await scene.some_words()
                await asyncio.gather(_kill(first), _kill(second))
    scene.spans |= received.ids()
    scene.mark()


async def _kill(consumer: Consumer) -> None:
    consumer.process.kill()
    await consumer.process.wait()


async def it_has_sent_what_the_log_says(scene: Scene) -> None:
    """Once all calls are over and a replica has come to the end, the spans are those of a run from the first record."""
    url = scene.stack.server.url
    rest, whole = Spans(), Spans()
    with over_http(rest) as endpoint:
        async with consuming(url, "traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as consumer:
            await consumer.until("unpod_consumer_lag", 0)
    with over_http(whole) as endpoint:
        await again(url, "traces", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    sent = scene.spans | rest.ids()
    roots = sum(name == "conversation" for _, _, name in whole.ids())
    scene.expect(roots == len(scene.load.callers), f"{roots} roots")
    scene.expect(sent == whole.ids(), f"{len(whole.ids() - sent)} spans are missing, {len(sent - whole.ids())} are new")
