"""`unpod consume metrics`: the composition of the log, the projection and the exporters."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import zlib
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from unpod.core import codec
from unpod.core.dispatch_messages import BRIDGE_ANNOUNCED, QUEUED_ANNOUNCED, RUNNER_ANNOUNCED
from unpod.core.subjects import Subjects
from unpod.errors import ProtocolViolation
from unpod.jetstream import PullConsumer, PullSpec, checkpoints, connect, open_jobs, open_log, topology
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.otlp import OtlpPusher, open_exporter
from unpod_consumers.exporters.prometheus import as_text, serving
from unpod_consumers.loop import Loop
from unpod_consumers.projections.fleet import AnnouncedFleet
from unpod_consumers.projections.metrics import MOST_SESSIONS, MetricsTotals, correct, park, take
from unpod_consumers.projections.snapshot import Snapshot, snapshot
from unpod_consumers.reading import read
from unpod_consumers.telemetry import MetricsSettings

if TYPE_CHECKING:
    from unpod.jetstream import JetStreamLog, Nats
    from unpod.ports import Message
    from unpod_consumers.config import ConsumerConfig

NAME: Final = "metrics"
_MAX_PENDING: Final = 100_000
_LOG: Final = logging.getLogger("unpod.consumers")


class MetricsCheckpoint(msgspec.Struct, tag_field="version", tag=2):
    """What stands in the checkpoint."""

    position: int
    state: MetricsTotals


class MetricsProjection:
    """The metrics of the records taken so far (`loop.Projection`); `shown` is what may be seen of them."""

    def __init__(self, subjects: Subjects, *, most_sessions: int = MOST_SESSIONS) -> None:
        self._subjects = subjects
        self._most_sessions = most_sessions
        self._state = MetricsTotals()
        self.position = 0
        self.shown: Snapshot | None = None

    def take(self, message: Message) -> None:
        """Fold one record (`loop.Projection.take`)."""
        if message.seq <= self.position:
            return
        record, is_timely = read(self._subjects, message)
        take(self._state, record, self._subjects.parse(message.subject).agent, self._most_sessions)
        if not is_timely:
            correct(self._state, "time")
        self.position = message.seq

    def park(self, message: Message, reason: str) -> None:
        """Count what cannot be taken (`loop.Projection.park`)."""
        self.position = max(self.position, message.seq)
        park(self._state, reason)

    def dump(self) -> bytes:
        """Return state and position (`loop.Projection.dump`)."""
        return zlib.compress(msgspec.msgpack.encode(MetricsCheckpoint(self.position, self._state)), 1)

    def load(self, data: bytes) -> None:
        """Go on from a checkpoint (`loop.Projection.load`); one of another version is as good as none."""
        try:
            saved = msgspec.msgpack.decode(zlib.decompress(data), type=MetricsCheckpoint)
        except (msgspec.MsgspecError, zlib.error):
            _LOG.warning("the checkpoint is of another version: counting from the start of the log")
            return
        self.position, self._state = saved.position, saved.state

    @property
    def has_room(self) -> bool:
        """Whether more may be taken: always, since points do not grow with records (`loop.Projection.has_room`)."""
        return True

    def publish(self, lag: int) -> bool:
        """Show what the checkpoint has (`loop.Projection.publish`)."""
        self.shown = snapshot(self._state, lag)
        return False


async def run_metrics(config: ConsumerConfig) -> int:
    """Consume until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigurationError: a variable asks for what cannot be done.
    """
    settings = MetricsSettings.from_env()
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
        consuming = Loop(projection, checkpoint, lambda seq: PullConsumer(nats, _pulled(log, subjects, seq)))
        fleet = await hear_fleet(stack, nats, subjects)

        def shown() -> Snapshot | None:
            return None if projection.shown is None else settings.filtered(with_fleet(projection.shown, fleet))

        if config.prometheus:
            port = stack.enter_context(serving(shown, config.host, config.port))
            _LOG.info("metrics on http://%s:%d/metrics", config.host, port)
        async with asyncio.TaskGroup() as group:
            if config.otlp is not None:
                pusher = OtlpPusher(open_exporter(config.otlp), shown, config.otlp_interval_s)
                group.create_task(pusher.run(stop))
            await consuming.run(stop)
    return 0


def _pulled(log: JetStreamLog, subjects: Subjects, seq: int) -> PullSpec:
    return PullSpec(log.spec.name, f"unpod-{NAME}", (subjects.calls,), seq, max_pending=_MAX_PENDING, ack="all")


async def hear_fleet(stack: AsyncExitStack, nats: Nats, subjects: Subjects) -> AnnouncedFleet:
    """Listen, for the length of `stack`, to what runners and bridges say of themselves."""
    fleet = AnnouncedFleet()

    def runner(message: Message) -> None:
        with suppress(*codec.MALFORMED):
            fleet.heard(RUNNER_ANNOUNCED.decode(message.data), time.monotonic())

    def bridge(message: Message) -> None:
        with suppress(*codec.MALFORMED):
            fleet.heard_bridge(BRIDGE_ANNOUNCED.decode(message.data), time.monotonic())

    def queued(message: Message) -> None:
        with suppress(*codec.MALFORMED):
            fleet.heard_queued(QUEUED_ANNOUNCED.decode(message.data), time.monotonic())

    for subject, handler in ((subjects.runners, runner), (subjects.bridges, bridge), (subjects.all_queued, queued)):
        subscription = await nats.subscribe(subject, handler)
        stack.push_async_callback(subscription.close)
    return fleet


def with_fleet(snapshot: Snapshot, fleet: AnnouncedFleet) -> Snapshot:
    """Return a snapshot with the fleet as of now, and the present as its time: what it says is true now."""
    now_ns = max(time.time_ns(), snapshot.at_ns)
    return replace(snapshot, points=(*snapshot.points, *fleet.rows(time.monotonic())), at_ns=now_ns)


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
        pattern = subjects.session(session) if session else subjects.calls
        first = await log.since(since) if since else 1
        if first is not None:
            async for message in log.read(pattern, start_seq=first):
                try:
                    projection.take(message)
                except ProtocolViolation:
                    projection.park(message, "malformed")
    projection.publish(0)
    return as_text(projection.shown) if projection.shown is not None else ""
