"""`unpod consume analytics`: the composition of the log, the rows and the Parquet files.

Rows gather in the checkpoint, so none is lost, until there are enough for files or they are old enough. Then they are
sealed: numbered, and stored so in the checkpoint. Only what a stored checkpoint has sealed is written, under names that
follow from it. Killed anywhere, the next process writes the same files again, or finds them there: each row once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import signal
import time
import zlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from unpod.core.subjects import Subjects
from unpod.errors import ConfigurationError, ProtocolViolation
from unpod.jetstream import PullConsumer, PullSpec, checkpoints, connect, open_jobs, open_log, topology
from unpod_consumers.checkpoint import Checkpoint
from unpod_consumers.exporters.parquet import ParquetFiles
from unpod_consumers.exporters.prometheus import serving
from unpod_consumers.loop import Loop
from unpod_consumers.projections.analytics import AnalyticsState, finish, sweep, take
from unpod_consumers.projections.call_rows import New
from unpod_consumers.projections.instruments import LAG, PARKED
from unpod_consumers.projections.series import NANO, SeriesPoint
from unpod_consumers.projections.snapshot import Snapshot
from unpod_consumers.projections.tables import Row, Table
from unpod_consumers.reading import read
from unpod_consumers.telemetry import wants_content

if TYPE_CHECKING:
    from unpod.ports import Message
    from unpod_consumers.config import ConsumerConfig

NAME: Final = "analytics"
EVERY_S: Final = 60.0
MAX_ROWS: Final = 20_000
_SAVE_EVERY_S: Final = 5.0
_MAX_PENDING: Final = 100_000
_COMPLAIN_EVERY_S: Final = 10.0
_MARGIN_S: Final = 30.0
"""A record that was stored so many seconds ago was read by now, if there is no lag."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOG: Final = logging.getLogger("unpod.consumers")


class File(Struct, array_like=True):
    """The content of one file, decided and not yet known to be on the disk."""

    number: int
    table: Table
    day: str
    rows: list[Row]


class AnalyticsCheckpoint(Struct, tag_field="version", tag=1):
    """What stands in the checkpoint."""

    run: str
    position: int = 0
    time: float = 0.0
    """When the newest record was stored, seconds since 1970."""
    number: int = 0
    """How many files were sealed by now."""
    parked: int = 0
    state: AnalyticsState = msgspec.field(default_factory=AnalyticsState)
    sealed: list[File] = msgspec.field(default_factory=list)


class AnalyticsProjection:
    """The rows of the records taken so far, and the files of those that are decided (`loop.Projection`)."""

    def __init__(
        self,
        subjects: Subjects,
        files: ParquetFiles,
        *,
        every_s: float = EVERY_S,
        max_rows: int = MAX_ROWS,
        texts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subjects = subjects
        self._files = files
        self._every_s = every_s
        self._max_rows = max_rows
        self._texts = texts
        self._clock = clock
        self._saved = AnalyticsCheckpoint(run=secrets.token_hex(4))
        self._claimed = False
        self._waits_since: float | None = None
        self._complained_at = -_COMPLAIN_EVERY_S
        self._heard_at = clock()
        self.shown: Snapshot | None = None

    @property
    def position(self) -> int:
        """The stream sequence up to which records have been taken (`loop.Projection.position`)."""
        return self._saved.position

    @property
    def has_room(self) -> bool:
        """Whether more may be taken: not while a full batch waits for the disk."""
        return not self._saved.sealed or len(self._saved.state.rows) < self._max_rows

    def take(self, message: Message) -> None:
        """Fold one record (`loop.Projection.take`)."""
        if message.seq <= self.position:
            return
        record, _ = read(self._subjects, message)
        agent = self._subjects.parse(message.subject).agent
        stored = message.time_ns / NANO
        take(self._saved.state, record, agent, stored, texts=self._texts)
        self._saved.position, self._saved.time = message.seq, max(self._saved.time, stored)
        self._heard_at = self._clock()

    def park(self, message: Message, reason: str) -> None:
        """Count what cannot be taken (`loop.Projection.park`)."""
        del reason  # it is noted beside the checkpoint
        self._saved.position = max(self.position, message.seq)
        self._saved.parked += 1

    def dump(self) -> bytes:
        """Return all that is known (`loop.Projection.dump`)."""
        return zlib.compress(msgspec.msgpack.encode(self._saved), 1)

    def load(self, data: bytes) -> None:
        """Go on from a checkpoint (`loop.Projection.load`).

        Raises:
            ConfigurationError: it is of a version that this build cannot read.
        """
        try:
            self._saved = msgspec.msgpack.decode(zlib.decompress(data), type=AnalyticsCheckpoint)
        except (msgspec.MsgspecError, zlib.error):
            raise ConfigurationError(
                "the checkpoint of the analytics is of another version of unpod: run that one, or delete the key "
                f"{NAME} of the consumers' bucket and begin anew in an empty --directory"
            ) from None

    def claim(self) -> None:
        """Make sure that the directory is for these rows alone.

        Raises:
            ConfigurationError: it cannot be used, or has files of another run.
        """
        if not self._claimed:
            self._files.claim(self._saved.run)
            self._claimed = True

    def trouble(self, error: OSError) -> str:
        """Return what is wrong with the directory, and what helps."""
        remedy = "free space there" if error.errno in _FULL else "make it writable"
        return f"{self._files.directory} cannot be written ({error.strerror or type(error).__name__}), {remedy}"

    def publish(self, lag: int) -> bool:
        """Write the files that are decided, and decide on more; return whether the checkpoint must be stored again."""
        self.claim()
        changed = self._write()
        rows = len(self._saved.state.rows)
        if not lag:  # else a call at the end of a silent log would wait for the next
            sweep(self._saved.state, self._saved.time + self._clock() - self._heard_at - _MARGIN_S)
            changed |= len(self._saved.state.rows) > rows
        changed |= self._seal_if_due()
        points = ((("consumer", NAME),),)
        self.shown = Snapshot(
            (
                (LAG, ((*points, SeriesPoint(lag * NANO)),)),
                (PARKED, ((*points, SeriesPoint(self._saved.parked * NANO)),)),
            ),
            0,
            time.time_ns(),
        )
        return changed

    def flush(self) -> int:
        """Write the rows, if they are enough for files; return how many: for a run without a checkpoint.

        Raises:
            OSError: a file cannot be written.
            ConfigurationError: the directory cannot be used, or has files of another run.
        """
        return self._flush() if len(self._saved.state.rows) >= self._max_rows else 0

    def finish(self) -> int:
        """Write all that is known now; return how many rows that were (as `flush`)."""
        finish(self._saved.state)
        return self._flush()

    # ------------------------------------------------------------------------------------------------------- private

    def _flush(self) -> int:
        self.claim()
        rows = len(self._saved.state.rows)
        self._seal()
        self._write_all()
        return rows

    def _seal_if_due(self) -> bool:
        rows = len(self._saved.state.rows)
        if not rows or self._saved.sealed:
            return False
        now = self._clock()
        self._waits_since = now if self._waits_since is None else self._waits_since
        if rows < self._max_rows and now - self._waits_since < self._every_s:
            return False
        self._seal()
        self._waits_since = None
        return True

    def _seal(self) -> None:
        parts: dict[tuple[Table, str], list[Row]] = {}
        for new in self._saved.state.rows:
            parts.setdefault((new.table, new.day), []).append(new.row)
        for (table, day), rows in sorted(parts.items()):
            self._saved.number += 1
            self._saved.sealed.append(File(self._saved.number, table, day, rows))
        self._saved.state.rows = list[New]()

    def _write(self) -> bool:
        """Write what is decided; return whether anything was."""
        waiting = len(self._saved.sealed)
        try:
            self._write_all()
        except OSError as error:
            now = self._clock()
            if now - self._complained_at >= _COMPLAIN_EVERY_S:
                self._complained_at = now
                _LOG.warning(
                    "%d files wait in the checkpoint, nothing is lost: %s", len(self._saved.sealed), self.trouble(error)
                )
        return len(self._saved.sealed) < waiting

    def _write_all(self) -> None:
        while self._saved.sealed:
            file = self._saved.sealed[0]
            self._files.write(self._saved.run, file.number, file.table, file.day, file.rows)
            del self._saved.sealed[0]


async def run_analytics(config: ConsumerConfig, directory: Path, every_s: float) -> int:
    """Consume until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigurationError: the directory cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    subjects = Subjects(config.prefix)
    projection = AnalyticsProjection(subjects, ParquetFiles(directory), every_s=every_s, texts=wants_content())
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(connect(config.nats))
        log = await open_log(nats, topology(config.prefix).calls)
        checkpoint = Checkpoint(await open_jobs(nats, checkpoints(log.spec)), NAME)
        if config.serves_lag:
            stack.enter_context(serving(lambda: projection.shown, config.host, config.port))

        def consumer_at(seq: int) -> PullConsumer:
            spec = PullSpec(log.spec.name, f"unpod-{NAME}", (subjects.calls,), seq, max_pending=_MAX_PENDING, ack="all")
            return PullConsumer(nats, spec)

        _LOG.info("analytics go to %s", directory)
        await Loop(projection, checkpoint, consumer_at, save_every_s=min(every_s, _SAVE_EVERY_S)).run(stop)
    return 0


async def rewind_analytics(config: ConsumerConfig, directory: Path, *, since: float = 0.0, session: str = "") -> int:
    """Write the rows of what is in the log now; return how many. Nothing else is touched.

    `since` leaves out what was stored before (seconds since 1970), `session` all but one session.

    Raises:
        LogUnavailable: no answer.
        ConfigurationError: the directory cannot be used, or has files.
    """
    subjects = Subjects(config.prefix)
    projection = AnalyticsProjection(subjects, ParquetFiles(directory), texts=wants_content())
    written = 0
    try:
        projection.claim()
        async with connect(config.nats) as nats:
            log = await open_log(nats, topology(config.prefix).calls)
            async for message in log.read(subjects.session(session) if session else subjects.calls):
                if message.time_ns >= since * NANO:
                    _take(projection, message)
                    written += projection.flush()
        return written + projection.finish()
    except OSError as error:
        raise ConfigurationError(f"{projection.trouble(error)} and begin anew in an empty --directory") from None


def _take(projection: AnalyticsProjection, message: Message) -> None:
    try:
        projection.take(message)
    except ProtocolViolation:
        projection.park(message, "malformed")
    except Exception as error:  # noqa: BLE001 - as in the loop: one record never stops the others
        _LOG.warning("left out the record at %d: %s", message.seq, type(error).__name__)
        projection.park(message, "failed")
