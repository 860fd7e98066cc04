"""`unpod consume metrics`: the composition of the log, the projection and the exporters."""

from __future__ import annotations

import asyncio
import logging
import signal
import zlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from unpod.core import codec
from unpod.core.subjects import Subjects
from unpod.errors import ProtocolViolation
from unpod.jetstream import PullConsumer, PullSpec, checkpoints, connect, open_jobs, open_log, topology
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp import OtlpPusher, open_exporter
from unpod_consumers.exporters.prometheus import as_text, serving
from unpod_consumers.loop import Loop
from unpod_consumers.projections.metrics import MetricsState, park, take
from unpod_consumers.projections.snapshot import Snapshot, snapshot

if TYPE_CHECKING:
    from unpod.ports import Message
    from unpod_consumers.config import ConsumerConfig

NAME: Final = "metrics"
_LOG: Final = logging.getLogger("unpod.consumers")


class Saved(msgspec.Struct):
    """What stands in the checkpoint."""

    position: int
    state: MetricsState
    version: int = 1


class MetricsProjection:
    """The metrics of the records taken so far (`loop.Projection`); `shown` is what may be seen of them."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._state = MetricsState()
        self.position = 0
        self.shown: Snapshot | None = None

    def take(self, message: Message) -> None:
        """Fold one record (`loop.Projection.take`)."""
        if message.seq <= self.position:
            return
        record = codec.read(self._subjects, message.subject, message.headers, message.data, message.seq)
        take(self._state, record, self._subjects.parse(message.subject).agent)
        self.position = message.seq

    def park(self, message: Message, reason: str) -> None:
        """Count what cannot be taken (`loop.Projection.park`)."""
        self.position = max(self.position, message.seq)
        park(self._state, reason)

    def dump(self) -> bytes:
        """Return state and position (`loop.Projection.dump`)."""
        return zlib.compress(msgspec.msgpack.encode(Saved(self.position, self._state)), 1)

    def load(self, data: bytes) -> None:
        """Go on from a checkpoint (`loop.Projection.load`)."""
        saved = msgspec.msgpack.decode(zlib.decompress(data), type=Saved)
        self.position, self._state = saved.position, saved.state

    def publish(self, lag: int) -> None:
        """Show what the checkpoint has (`loop.Projection.publish`)."""
        self.shown = snapshot(self._state, lag)


async def run_metrics(config: ConsumerConfig) -> int:
    """Consume until SIGTERM or SIGINT; return the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    subjects = Subjects(config.prefix)
    projection = MetricsProjection(subjects)
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(connect(config.nats))
        log = await open_log(nats, topology(config.prefix).calls)
        checkpoint = Checkpoint(await open_jobs(nats, checkpoints(log.spec)), NAME)
        consuming = Loop(
            projection,
            checkpoint,
            lambda seq: PullConsumer(nats, PullSpec(log.spec.name, f"unpod-{NAME}", (subjects.calls,), seq)),
        )
        if config.prometheus:
            port = stack.enter_context(serving(lambda: projection.shown, config.host, config.port))
            _LOG.info("metrics on http://%s:%d/metrics", config.host, port)
        async with asyncio.TaskGroup() as group:
            if config.otlp is not None:
                pusher = OtlpPusher(open_exporter(config.otlp), lambda: projection.shown, config.otlp_interval_s)
                group.create_task(pusher.run(stop))
            await consuming.run(stop)
    return 0


async def rewind_metrics(config: ConsumerConfig, *, since: float = 0.0, session: str = "") -> str:
    """Return, in Prometheus's text format, the metrics of what is in the log now; nothing else is touched.

    `since` leaves out what was stored before (seconds since 1970), `session` all but one session.

    Raises:
        LogUnavailable: no answer.
    """
    subjects = Subjects(config.prefix)
    projection = MetricsProjection(subjects)
    async with connect(config.nats) as nats:
        log = await open_log(nats, topology(config.prefix).calls)
        async for message in log.read(subjects.session(session) if session else subjects.calls):
            if message.time_ns < since * 1e9:
                continue
            try:
                projection.take(message)
            except ProtocolViolation:
                projection.park(message, "malformed")
    projection.publish(0)
    return as_text(projection.shown) if projection.shown is not None else ""
