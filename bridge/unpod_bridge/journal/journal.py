"""The bridge's records of one call: numbered, enveloped, in order, and nothing withheld among them.

While the recording is paused, a record of the caller's side is told in full on the live subject, and stored without its
texts. The live one goes first: whoever listens takes the first record of an index.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Final

from unpod.core import events as ev
from unpod.core.codec import encode
from unpod.core.envelope import OVERHEAD, Letterhead, from_headers
from unpod.core.live import LIVE_SUBJECT
from unpod.core.subjects import CallSubjects
from unpod.core.withhold import withhold
from unpod.errors import Fenced, LogError, LogFull, LogUnavailable, RecordTooLarge
from unpod.ports import Bus, Clock, EventLog, Fence, Stored, Timer
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.protocol.outputs import Store
from unpod_bridge.wire.call_frames import rejected

logger = logging.getLogger("unpod.bridge.journal")

_LOOK_S: Final = 1.0
_LOOK_BUSY_S: Final = 0.1
_SILENT_S: Final = 1.5
"""The log is away once it has acknowledged nothing for so long."""
_RETRY_S: Final = 0.1
_LAST_WORDS_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """Under which name, epoch and time the bridge writes, and after which index.

    `offset_s` is the log's time less this machine's.
    """

    session: str
    source: str
    epoch: int
    offset_s: float
    index: int = 0


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A receipt of which somebody wants to know where it stands."""

    store: Store
    stored: asyncio.Future[Stored]


class Journal:
    """Writes the bridge's records of one call; `on_state` hears now and then whether the log is away."""

    def __init__(
        self,
        log: EventLog,
        bus: Bus,
        clock: Clock,
        subjects: CallSubjects,
        writing: Writing,
        *,
        on_failure: Callable[[LogError], None],
        on_state: Callable[[bool], None],
        stream_positions: StreamPositions | None = None,
        busy: int = 250,
    ) -> None:
        self._log = log
        self._bus = bus
        self._clock = clock
        self._subjects = subjects
        self._writing = writing
        self._letterhead = Letterhead(writing.session, "bridge", writing.source, writing.epoch)
        self._fence = Fence(subjects.line, writing.epoch)
        self.stream_positions = StreamPositions() if stream_positions is None else stream_positions
        """Where what it writes stands, and all else of the call."""
        self._writer = log.writer(fence=self._fence, on_failure=on_failure, on_stored=self.stream_positions.wrote)
        self._on_state = on_state
        self._busy = busy
        self._index = writing.index
        self._evt: dict[str, str] = {}
        self._paused: list[Store | _Awaited] = []  # an empty deque is 600 bytes for each call
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._is_closed = False
        self._put = 0
        self._acked = 0
        self._heard_at = 0.0
        self._ended: Store | None = None
        self.volume = 0
        """What it has put by now, in bytes, about."""
        self.unstored_bytes = 0
        """What was put since the log answered last, in bytes."""

    @property
    def backlog(self) -> int:
        """How many records are not acknowledged."""
        return self._writer.backlog + len(self._paused)

    @property
    def writing(self) -> Writing:
        """Where another journal would go on after this one."""
        return replace(self._writing, index=self._index)

    @property
    def index(self) -> int:
        """The index of the last record that was put."""
        return self._index + len(self._paused)

    @property
    def failure(self) -> LogError | None:
        """Why nothing can be stored any more, or None."""
        return self._writer.failure

    def put(self, store: Store) -> None:
        """Store a fact; what cannot be stored any more is dropped, and `on_failure` was told why."""
        if isinstance(store.body, ev.CallEnded):
            self._ended = store
        if self._paused or (store.withheld and store.channel == "evt"):
            self._paused.append(store)
            self._start_draining()
        else:
            self._index += 1
            self._write(store, self._index, store.data or encode(store.body))
        if self._timer is None and not self._is_closed:
            self._heard_at = self._clock.now()
            self._timer = self._clock.call_later(_LOOK_S, self._look)

    async def append(self, body: ev.Receipt) -> Stored:
        """Store a receipt and return where it stands.

        Raises:
            LogError: it is not stored, and what comes next takes its index.
        """
        stored: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._paused.append(_Awaited(Store("ack", body), stored))
        self._start_draining()
        return await stored

    async def flush(self) -> None:
        """Return once everything put so far is stored.

        Raises:
            LogError: it will not be.
        """
        while self._task is not None:
            await asyncio.shield(self._task)
        await self._writer.flush()

    async def finish(self, patience_s: float) -> None:
        """See to it that all of the call is stored, its end above all, even if the log has to come back first."""
        deadline = self._clock.now() + patience_s
        while not isinstance(self.failure, Fenced) and self._clock.now() < deadline:
            try:
                if self.failure is None:
                    await self._within(deadline - self._clock.now(), self.flush())
                else:
                    await self._last_words()
            except LogError as error:
                logger.warning("the end of a call is not stored yet: %s", error)
                await self._clock.sleep(_LAST_WORDS_S)
            else:
                return

    async def _within(self, seconds: float, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        timer = self._clock.call_later(seconds, lambda: _cancel(task))
        try:
            await asyncio.wait([task])
        finally:
            timer.cancel()
            task.cancel()
        if task.cancelled():
            raise LogUnavailable(f"the log did not come back within {seconds:g} s")
        task.result()

    async def _last_words(self) -> None:
        """Store the end of the call where the writer has failed: the one record that nobody can do without."""
        store = self._ended
        if store is None:
            return
        subject = self._subject(store)
        if await self._log.last(subject) is None:
            headers = self._headers(store, await self._stored_index() + 1)
            await self._log.append(subject, encode(store.body), headers, fence=self._fence)
            self.stream_positions.spoil()

    async def _stored_index(self) -> int:
        """Return the index of the last of the bridges' records: the log knows whether the one in flight is stored."""
        kinds = (self._subjects.evts, self._subjects.ack)
        newest = await self._log.newest(kinds, until_seq=self.stream_positions.horizon)
        if newest is None:  # more types than the log can name at once
            newest = [message for kind in kinds async for message in self._log.read(kind)]
        return max((from_headers(message.headers).index for message in newest), default=0)

    async def close(self) -> None:
        """Stop writing; `flush` first."""
        if self._task is not None:
            self._task.cancel()
        await self._writer.close()
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    # ---------------------------------------------------------------------------------------------------------- write

    def _write(self, store: Store, index: int, data: bytes) -> None:
        if self._writer.failure is not None:
            return
        try:
            self._writer.put(self._subject(store), data, self._headers(store, index))
        except RecordTooLarge:
            frame = rejected(data, "too large for the log")
            small = Store("evt", withhold(frame.body) if store.withheld else frame.body)  # type: ignore[arg-type]
            self._writer.put(self._subject(small), encode(small.body), self._headers(small, index))
        except LogError:
            return
        self._put += 1
        self.unstored_bytes += len(data)
        self.volume += OVERHEAD + len(data)

    def _start_draining(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._paused:
                store, index = self._paused[0], self._index + 1
                if isinstance(store, _Awaited):
                    if await self._write_and_wait(store, index):
                        self._index = index
                elif store.withheld and store.channel == "evt":
                    await self._tell(store, index)
                    self._index = index
                    self._write(store, index, encode(withhold(store.body)))
                else:
                    self._index = index
                    self._write(store, index, store.data or encode(store.body))
                self._paused.pop(0)
        finally:
            self._task = None

    async def _write_and_wait(self, awaited: _Awaited, index: int) -> bool:
        """Store a receipt after all that was put before it, and before all that is put after it; return whether it is.

        The next of a refused one takes its index: no reader may wait for what will never come.
        """
        data, headers = encode(awaited.store.body), self._headers(awaited.store, index)
        while True:
            try:
                await self._writer.flush()
                stored = await self._log.append(self._subjects.ack, data, headers, fence=self._fence)
            except LogError as error:
                if isinstance(error, (LogUnavailable, LogFull)) and self._writer.failure is None:
                    await self._clock.sleep(_RETRY_S)
                    continue
                if not awaited.stored.done():
                    awaited.stored.set_exception(error)
                return False
            self.stream_positions.wrote(stored.seq)
            if not awaited.stored.done():
                awaited.stored.set_result(stored)
            return True

    async def _tell(self, store: Store, index: int) -> None:
        headers = {**self._headers(store, index), LIVE_SUBJECT: self._subject(store)}
        data = store.data or encode(store.body)
        while self._writer.failure is None:
            try:
                await self._bus.publish(self._subjects.text, data, headers)
            except LogUnavailable:
                await self._clock.sleep(_RETRY_S)
            except LogError as error:
                logger.warning("a record could not be told: %s", type(error).__name__)
                return
            else:
                return

    def _subject(self, store: Store) -> str:
        if store.channel == "ack":
            return self._subjects.ack
        tag = ev.tag_of(store.body)
        subject = self._evt.get(tag)
        if subject is None:
            subject = self._evt[tag] = self._subjects.evt(tag)
        return subject

    def _headers(self, store: Store, index: int) -> Mapping[str, str]:
        time = self._clock.now() + self._writing.offset_s
        return self._letterhead.headers(f"{store.channel}.{ev.tag_of(store.body)}", index, time, store.cause)

    # ----------------------------------------------------------------------------------------------------- is it there

    def _look(self) -> None:
        """Notice that the log has gone away or come back; runs only while something waits for it."""
        now, acked = self._clock.now(), self._put - self._writer.backlog
        if acked != self._acked or not self.backlog:
            self._acked, self._heard_at, self.unstored_bytes = acked, now, 0
        self._timer = None
        self._on_state(now - self._heard_at > _SILENT_S)
        if self.backlog and self._writer.failure is None and not self._is_closed:
            busy = self.backlog > self._busy
            self._timer = self._clock.call_later(_LOOK_BUSY_S if busy else _LOOK_S, self._look)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
