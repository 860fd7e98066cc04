"""`unpod consume traces`: the composition of the log, the reader and the exporter.

Two consumers on the server share the work among all replicas: one has the records that end a span, the other the start
of each call, until the call has ended.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from unpod.core.subjects import Subjects
from unpod.errors import LogUnavailable, ProtocolViolation
from unpod.jetstream import PullConsumer, PullSpec, checkpoints, connect, open_jobs, open_log, topology
from unpod.jetstream.streams.api import ApiError
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp_traces import SpanSender, open_sender
from unpod_consumers.exporters.prometheus import serving
from unpod_consumers.projections.instruments import LAG
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.projections.series import NANO, SeriesPoint
from unpod_consumers.projections.snapshot import Snapshot
from unpod_consumers.telemetry import TraceSettings
from unpod_consumers.trace_consumer import ABANDONED_AFTER_S, AbandonedCallConsumer, TraceConsumer
from unpod_consumers.trace_reader import TraceReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unpod.jetstream import JetStreamLog, Nats
    from unpod.ports import Message
    from unpod_consumers.config import ConsumerConfig

NAME: Final = "traces"

_LOG: Final = logging.getLogger("unpod.consumers")
_ACK_WAIT_S: Final = 30.0
_HOLD_S: Final = 10.0
_PENDING: Final = 2_000
_WATCHED: Final = 50_000
_LAG_EVERY_S: Final = 2.0


class Lag:
    """How many records wait, asked for every few seconds; `shown` is the newest answer, None before the first."""

    def __init__(self, consumer: TraceConsumer) -> None:
        self._consumer = consumer
        self.shown: Snapshot | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`."""
        while not stop.is_set():
            try:
                waiting = await self._consumer.lag()
                points = (((("consumer", NAME),), SeriesPoint(waiting * NANO)),)
                self.shown = Snapshot(((LAG, points),), 0, time.time_ns())
            except (LogUnavailable, ApiError) as error:
                _LOG.debug("the lag cannot be asked for now: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LAG_EVERY_S)


def specs(stream: str, subjects: Subjects, *, ack_wait_s: float = _ACK_WAIT_S) -> tuple[PullSpec, PullSpec]:
    """Return what the two consumers on the server are."""
    started = subjects.every("evt", "call.started")
    ends = (started, subjects.every("run", "turn.completed"), subjects.every("evt", "call.ended"))
    return (
        PullSpec(stream, f"unpod-{NAME}", ends, ack_wait_s=ack_wait_s, max_pending=_PENDING),
        PullSpec(stream, f"unpod-{NAME}-ends", (started,), ack_wait_s=2 * ack_wait_s, max_pending=_WATCHED),
    )


def consumers(
    nats: Nats,
    log: JetStreamLog,
    reader: TraceReader,
    sender: SpanSender,
    parked: Checkpoint,
    *,
    subjects: Subjects,
    abandoned_after_s: float = ABANDONED_AFTER_S,
) -> tuple[TraceConsumer, AbandonedCallConsumer]:
    """Return what one process runs, not opened yet."""
    spans, watched = (PullConsumer(nats, spec) for spec in specs(log.spec.name, subjects))
    return (
        TraceConsumer(spans, reader, sender, parked, hold_s=_HOLD_S),
        AbandonedCallConsumer(watched, reader, sender, parked, hold_s=_HOLD_S, after_s=abandoned_after_s),
    )


async def run_traces(config: ConsumerConfig) -> int:
    """Consume until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigurationError: a variable asks for what cannot be done.
    """
    settings = TraceSettings.from_env()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    subjects = Subjects(config.prefix)
    async with AsyncExitStack() as stack:
        sender = open_sender(settings)
        stack.callback(sender.close)
        nats = await stack.enter_async_context(connect(config.nats))
        log = await open_log(nats, topology(config.prefix).calls)
        parked = Checkpoint(await open_jobs(nats, checkpoints(log.spec)), NAME)
        reader = TraceReader(log, subjects, settings.sampling, content=settings.content)
        running = consumers(nats, log, reader, sender, parked, subjects=subjects)
        lag = Lag(running[0])
        if config.serves_lag:
            stack.enter_context(serving(lambda: lag.shown, config.host, config.port))
        async with asyncio.TaskGroup() as group:
            group.create_task(lag.run(stop))
            for consumer in running:
                group.create_task(consumer.run(stop))
            await stop.wait()
            await asyncio.to_thread(sender.close)  # a slow collector holds up no exit
    return 0


async def rewind_traces(config: ConsumerConfig, *, since: float = 0.0, session: str = "") -> tuple[int, int]:
    """Send the traces of what is in the log now, again; return how many calls and spans. Nothing else is touched.

    `since` leaves out calls that began before (seconds since 1970), `session` all but one, which is sent whatever the
    sampling.

    Raises:
        ConfigurationError: a variable asks for what cannot be done.
        LogUnavailable: NATS does not answer, or the collector does not take them.
    """
    settings = TraceSettings.from_env()
    subjects = Subjects(config.prefix)
    calls = spans = 0
    sender = open_sender(settings)
    try:
        async with connect(config.nats) as nats:
            log = await open_log(nats, topology(config.prefix).calls)
            sampling = Sampling() if session else settings.sampling
            reader = TraceReader(log, subjects, sampling, content=settings.content)
            pattern = subjects.event_of(session, "call.started") if session else subjects.every("evt", "call.started")
            async for message in _started(log, pattern, since):
                with suppress(ProtocolViolation):
                    found = await reader.whole(message)
                    if not await asyncio.to_thread(sender.send, found):
                        raise LogUnavailable("the collector does not take the spans: see OTEL_EXPORTER_OTLP_ENDPOINT")
                    calls, spans = calls + bool(found), spans + len(found)
    finally:
        await asyncio.to_thread(sender.close)
    return calls, spans


async def _started(log: JetStreamLog, pattern: str, since: float) -> AsyncIterator[Message]:
    """Yield the starts of calls, from the first that was stored at a time or later."""
    first = await log.since(since) if since else 1
    if first is not None:
        async for message in log.read(pattern, start_seq=first):
            yield message
