"""`unpod consume traces`: the composition of the log, the projection and the exporter. Any number share the work.

A replica keeps nothing: for a record that ends a span it reads that call, sends the spans and acknowledges the record
when the collector has taken them. Whatever is killed where, a record comes again, to anyone, and gives the same ids.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from unpod.core import codec
from unpod.core.subjects import Subjects
from unpod.errors import ConfigurationError, LogError, LogUnavailable, ProtocolViolation
from unpod.jetstream import PullConsumer, PullSpec, checkpoints, connect, open_jobs, open_log, topology
from unpod.jetstream.api import ApiError
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp_traces import SpanSender, open_sender
from unpod_consumers.exporters.prometheus import serving
from unpod_consumers.projections.instruments import LAG
from unpod_consumers.projections.series import NANO, Point
from unpod_consumers.projections.snapshot import Snapshot
from unpod_consumers.projections.traces import CallTrace

if TYPE_CHECKING:
    from unpod.core.codec import Record
    from unpod.jetstream import Delivery, JetStreamLog, Nats
    from unpod.ports import Message
    from unpod_consumers.config import ConsumerConfig
    from unpod_consumers.projections.spans import Span
    from unpod_consumers.telemetry import Protocol

NAME: Final = "traces"
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
PORT: Final = "OTEL_EXPORTER_PROMETHEUS_PORT"
ABANDONED_AFTER_S: Final = 900.0

_LOG: Final = logging.getLogger("unpod.consumers")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_BATCH: Final = 64
_WAIT_S: Final = 1.0
_AGAIN_S: Final = 0.5
_ACK_WAIT_S: Final = 30.0
_WATCHED: Final = 50_000
_LAG_EVERY_S: Final = 2.0
_TRIES: Final = 5
_DELIVERIES: Final = 20

_Ready: TypeAlias = "tuple[Delivery, list[Span]]"
"""A record and the spans that it gives."""


def protocol_of(environment: Mapping[str, str]) -> Protocol:
    """Return how spans are sent; http/protobuf where nothing is said.

    Raises:
        ConfigurationError: it is neither grpc nor http/protobuf.
    """
    name = next((name for name in _PROTOCOLS if environment.get(name, "").strip()), _PROTOCOLS[-1])
    text = environment.get(name, "").strip() or "http/protobuf"
    if text == "grpc":
        return "grpc"
    if text == "http/protobuf":
        return "http/protobuf"
    raise ConfigurationError(f"{name} is {text[:40]!r}: give grpc or http/protobuf")


class TraceReader:
    """Reads calls from the log and gives their spans."""

    def __init__(self, log: JetStreamLog, subjects: Subjects, *, content: bool = False) -> None:
        self._log = log
        self._subjects = subjects
        self._content = content

    async def read(self, record: Record, agent: str, *, until_seq: int = 0) -> CallTrace:
        """Return the trace of the call to which `record` belongs; what cannot be read of it is left out."""
        records = []
        session = record.envelope.session
        async for message in self._log.read(self._subjects.session(session), until_seq=until_seq):
            try:
                records.append(self.record(message))
            except ProtocolViolation:
                continue
        return CallTrace(session, agent, records, content=self._content)

    def record(self, message: Message) -> Record:
        """Return the record that a message carries; raises ProtocolViolation."""
        return codec.read(self._subjects, message.subject, message.headers, message.data, message.seq)

    def agent(self, message: Message) -> str:
        """Return the agent whose call a message is of."""
        return self._subjects.parse(message.subject).agent

    async def abandoned(self, record: Record, after_s: float) -> bool | None:
        """Return whether a call was left without its end `after_s` ago; None where it has one."""
        session = record.envelope.session
        if await self._log.last(self._subjects.event_of(session, "call.ended")) is not None:
            return None
        newest = await self._log.last(self._subjects.session(session))
        return newest is None or time.time() - newest.time_ns / 1e9 > after_s


class TraceConsumer:
    """One replica. `spans` says of a message what to send, None to look at it again later."""

    def __init__(self, consumer: PullConsumer, reader: TraceReader, sender: SpanSender, parked: Checkpoint) -> None:
        self._consumer = consumer
        self._reader = reader
        self._sender = sender
        self._parked = parked
        self.sent = 0
        """Spans that the collector has taken."""

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; what NATS or the collector cannot take now is tried again."""
        opened = False
        while not stop.is_set():
            try:
                if not opened:
                    await self._consumer.open()
                    opened = True
                await self._round(stop)
            except (LogUnavailable, ApiError) as error:
                _LOG.warning("the log cannot be read now: %s", error)
                opened = False
                await asyncio.sleep(_AGAIN_S)

    async def lag(self) -> int:
        """Return how many records wait or are being worked on."""
        return await self._consumer.waiting() or 0

    async def spans(self, message: Message) -> list[Span] | None:
        """Return the spans of a record that ends one."""
        record = self._reader.record(message)
        trace = await self._reader.read(record, self._reader.agent(message), until_seq=message.seq)
        return trace.spans_of(record)

    async def _round(self, stop: asyncio.Event) -> None:
        batch = await self._consumer.fetch(_BATCH, _WAIT_S)
        projected = await asyncio.gather(*(self._project(delivery) for delivery in batch))
        ready = [(delivery, spans) for delivery, spans in zip(batch, projected, strict=True) if spans is not None]
        await self._deliver(ready, stop)

    async def _project(self, delivery: Delivery) -> list[Span] | None:
        """Return what a record gives; what can give nothing, ever, is parked."""
        try:
            return await self.spans(delivery.message)
        except LogError:
            raise
        except ProtocolViolation as error:
            await self._park(delivery.message, str(error))
        except Exception as error:  # noqa: BLE001 - whatever one record does to the projection, the others go on
            await self._park(delivery.message, type(error).__name__)
        return []

    async def _deliver(self, ready: Sequence[_Ready], stop: asyncio.Event) -> None:
        """Send and acknowledge; what the collector does not take after a few tries is delivered again later."""
        sent = self.sent
        for attempt in range(_TRIES):
            ready = await self._try(ready)
            if not ready or stop.is_set():
                return
            await self._pause(ready, _AGAIN_S * 2**attempt, stop)
        # While nothing goes through it is the collector, not what it is sent.
        for delivery, _ in ready if self.sent > sent else ():
            if delivery.times >= _DELIVERIES:
                await self._park(delivery.message, "the collector refuses its spans")
                self._consumer.acknowledge(delivery)

    async def _try(self, ready: Sequence[_Ready]) -> Sequence[_Ready]:
        """Send all in one, else each on its own, so that one that is refused holds up no other; return what is left."""
        if await self._send([span for _, spans in ready for span in spans]):
            for delivery, _ in ready:
                self._consumer.acknowledge(delivery)
            return []
        if len(ready) == 1:
            return ready
        refused: list[_Ready] = []
        sent = self.sent
        for delivery, spans in ready:
            if await self._send(spans):
                self._consumer.acknowledge(delivery)
            else:
                refused.append((delivery, spans))
                if len(refused) >= _TRIES and self.sent == sent:
                    return ready  # it takes nothing at all
        return refused

    async def _pause(self, left: Sequence[_Ready], seconds: float, stop: asyncio.Event) -> None:
        _LOG.warning("the collector does not take the spans of %d records; trying again in %g s", len(left), seconds)
        for delivery, _ in left:
            self._consumer.hold(delivery)
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return

    async def _send(self, spans: list[Span]) -> bool:
        taken = await asyncio.to_thread(self._sender.send, spans)
        self.sent += len(spans) if taken else 0
        return taken

    async def _park(self, message: Message, reason: str) -> None:
        try:
            await self._parked.park(message, reason)
        except LogError as error:
            _LOG.warning("what was parked at %d could not be noted: %s", message.seq, error)


class Watch(TraceConsumer):
    """Looks at each call until it has ended; one whose log falls silent without an end gets its root here."""

    def __init__(
        self,
        consumer: PullConsumer,
        reader: TraceReader,
        sender: SpanSender,
        parked: Checkpoint,
        *,
        after_s: float = ABANDONED_AFTER_S,
    ) -> None:
        super().__init__(consumer, reader, sender, parked)
        self._after_s = after_s

    async def spans(self, message: Message) -> list[Span] | None:
        """Return all that is known of an abandoned call; an unacknowledged record is looked at again."""
        record = self._reader.record(message)
        abandoned = await self._reader.abandoned(record, self._after_s)
        if abandoned is None:
            return []
        if not abandoned:
            return None
        return (await self._reader.read(record, self._reader.agent(message), until_seq=message.seq)).whole()


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
                points = (((("consumer", NAME),), Point(waiting * NANO)),)
                self.shown = Snapshot(((LAG, points),), 0, time.time_ns())
            except (LogUnavailable, ApiError) as error:
                _LOG.debug("the lag cannot be asked for now: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LAG_EVERY_S)


def consumers(
    nats: Nats,
    log: JetStreamLog,
    subjects: Subjects,
    sender: SpanSender,
    parked: Checkpoint,
    *,
    content: bool = False,
    abandoned_after_s: float = ABANDONED_AFTER_S,
) -> tuple[TraceConsumer, Watch]:
    """Return what one process runs, not opened yet."""
    reader = TraceReader(log, subjects, content=content)
    ends = (
        subjects.every("evt", "call.started"),
        subjects.every("run", "turn.completed"),
        subjects.every("evt", "call.ended"),
    )
    stream = log.spec.name
    spans = PullConsumer(nats, PullSpec(stream, f"unpod-{NAME}", ends, ack_wait_s=_ACK_WAIT_S))
    starts = (subjects.every("evt", "call.started"),)
    watched = PullConsumer(
        nats, PullSpec(stream, f"unpod-{NAME}-ends", starts, ack_wait_s=2 * _ACK_WAIT_S, max_pending=_WATCHED)
    )
    return TraceConsumer(spans, reader, sender, parked), Watch(
        watched, reader, sender, parked, after_s=abandoned_after_s
    )


async def run_traces(config: ConsumerConfig) -> int:
    """Consume until SIGTERM or SIGINT; return the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    subjects = Subjects(config.prefix)
    async with AsyncExitStack() as stack:
        sender = open_sender(protocol_of(os.environ))
        stack.callback(sender.close)
        nats = await stack.enter_async_context(connect(config.nats))
        log = await open_log(nats, topology(config.prefix).calls)
        parked = Checkpoint(await open_jobs(nats, checkpoints(log.spec)), NAME)
        running = consumers(nats, log, subjects, sender, parked, content=captures(os.environ))
        lag = Lag(running[0])
        if config.prometheus and os.environ.get(PORT, "").strip():  # without it the port is that of the metrics
            stack.enter_context(serving(lambda: lag.shown, config.host, config.port))
        async with asyncio.TaskGroup() as group:
            group.create_task(lag.run(stop))
            for consumer in running:
                group.create_task(consumer.run(stop))
            await stop.wait()
            await asyncio.to_thread(sender.close)  # a slow collector holds up no exit
    return 0


def captures(environment: Mapping[str, str]) -> bool:
    """Return whether what was said may go out."""
    return environment.get(CAPTURE, "").strip().lower() in {"true", "1"}


async def rewind_traces(config: ConsumerConfig, *, since: float = 0.0, session: str = "") -> tuple[int, int]:
    """Send the traces of what is in the log now, again; return how many calls and spans. Nothing else is touched.

    `since` leaves out calls that began before (seconds since 1970), `session` all but one.

    Raises:
        LogUnavailable: NATS does not answer, or the collector does not take them.
    """
    subjects = Subjects(config.prefix)
    calls = spans = 0
    sender = open_sender(protocol_of(os.environ))
    try:
        async with connect(config.nats) as nats:
            log = await open_log(nats, topology(config.prefix).calls)
            reader = TraceReader(log, subjects, content=captures(os.environ))
            pattern = subjects.event_of(session, "call.started") if session else subjects.every("evt", "call.started")
            async for message in log.read(pattern):
                if message.time_ns < since * 1e9:
                    continue
                found = await _whole(reader, message)
                if not await asyncio.to_thread(sender.send, found):
                    raise LogUnavailable("the collector does not take the spans: see OTEL_EXPORTER_OTLP_ENDPOINT")
                calls, spans = calls + bool(found), spans + len(found)
    finally:
        await asyncio.to_thread(sender.close)
    return calls, spans


async def _whole(reader: TraceReader, message: Message) -> list[Span]:
    try:
        record = reader.record(message)
        return (await reader.read(record, reader.agent(message), until_seq=message.seq)).whole()
    except ProtocolViolation:
        return []
