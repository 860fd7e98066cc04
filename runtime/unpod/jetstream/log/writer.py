"""The ordered writer, and the one record on its way that it is made of. Knows nothing of NATS: a `Sink` sends.

No task and no Future per record: a session that says nothing costs its object, and one that speaks, callbacks.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable
from unpod.jetstream.connection.wire import decode_headers, with_msg_id
from unpod.ports import Message, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from unpod.ports import FailureHandler, Fence, StoredHandler

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_FULL_PAUSE_S: Final = 0.1
_FIRST_TRY_S: Final = 0.5
_LONGEST_TRY_S: Final = 1.0
"""@@LONGEST@@"""


class EncodedRecord(Struct, frozen=True):
    """One record, checked and encoded; `size` counts subject, headers and payload in bytes."""

    subject: str
    data: bytes
    block: bytes
    size: int
    msg_id: str
    fence: Fence | None


@dataclass(frozen=True, slots=True)
class WriterBounds:
    """How much may wait for the log, and how long a full log is tried again (seconds); beyond it the writer stops."""

    records: int = 2_000
    bytes: int = 8 * 1024 * 1024
    full_patience_s: float = 2.0


DEFAULT_BOUNDS: Final = WriterBounds()


class Sink(Protocol):
    """What can store a record."""

    def encode(self, subject: str, data: bytes, headers: Mapping[str, str], fence: Fence | None) -> EncodedRecord:
        """Return the record ready to be sent.

        Raises:
            RecordTooLarge: it can never be stored.
        """
        ...

    def transmit(
        self, record: EncodedRecord, timeout_s: float, answer: Callable[[Stored | LogError], None], /
    ) -> Callable[[], None]:
        """Send once, call `answer` once (perhaps before this returns), and return what makes sure it is not called."""
        ...

    async def find(self, record: EncodedRecord) -> Stored | None:
        """Return where a record with this id stands already, or None; raises LogUnavailable."""
        ...

    async def holds(self, record: EncodedRecord, seq: int) -> bool:
        """Whether what stands at `seq` has this record's subject and id; raises LogUnavailable."""
        ...

    @property
    def up(self) -> bool:
        """Whether a record would be sent now."""
        ...

    def when_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever the connection comes back; return what ends that."""
        ...


class Submission:
    """One record on its way: sent again under the same id until the log has answered, then `done` is called once.

    `start` sends it; if the first try was made elsewhere, `resume` goes on from its answer.

    Three answers are checked before they count. `LogFull` must last for `patience_s`. At `Fenced`, the log is searched
    for the record, which an earlier try may have stored. At `duplicate`, the stored record must be this one: ids span
    the whole stream and can be derived, so somebody else may have used this id on a subject of theirs. Then the record
    is sent under an id that nobody can have guessed.
    """

    __slots__ = (
        "_cancel",
        "_done",
        "_full_since",
        "_loop",
        "_patience_s",
        "_pause_s",
        "_sink",
        "_task",
        "_timer",
        "_try_s",
        "_unlisten",
        "_waiting",
        "record",
    )

    def __init__(
        self, sink: Sink, record: EncodedRecord, done: Callable[[Stored | LogError], None], *, patience_s: float
    ) -> None:
        self.record = record
        self._sink = sink
        self._done: Callable[[Stored | LogError], None] | None = done
        self._patience_s = patience_s
        self._pause_s = _FIRST_PAUSE_S
        self._try_s = _FIRST_TRY_S
        self._full_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._cancel: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unlisten: Callable[[], None] | None = None
        self._waiting = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send it now."""
        self._cancel = self._sink.transmit(self.record, self._try_s, self._answer)

    def resume(self, answer: Stored | LogError) -> None:
        """Go on from the first try's answer."""
        self._answer(answer)

    def cancel(self) -> None:
        """Give up: `done` is not called any more; whether the record is stored is unknown."""
        self._done = None
        self._quiet()
        if self._cancel is not None:
            self._cancel()
        if self._task is not None:
            self._task.cancel()

    def _answer(self, answer: Stored | LogError) -> None:
        self._cancel = None
        if self._done is None:
            return
        if isinstance(answer, Stored):
            if answer.duplicate:
                self._task = self._loop.create_task(self._check(answer))
            else:
                self._finish(answer)
        elif not self.record.msg_id:  # a second try could be stored a second time
            self._finish(answer)
        elif isinstance(answer, LogUnavailable):
            self._try_s = min(self._try_s * 2, _LONGEST_TRY_S)
            self._again(self._next_pause())
        elif isinstance(answer, LogFull) and self._patient():
            self._again(_FULL_PAUSE_S)
        elif isinstance(answer, Fenced):
            self._task = self._loop.create_task(self._look_up(answer))
        else:
            self._finish(answer)

    def _finish(self, answer: Stored | LogError) -> None:
        done, self._done = self._done, None
        self._quiet()
        if done is not None:
            done(answer)

    def _quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    def _patient(self) -> bool:
        now = self._loop.time()
        self._full_since = self._full_since or now
        return now - self._full_since < self._patience_s

    def _next_pause(self) -> float:
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return pause * random.uniform(0.5, 1.5)  # noqa: S311 - keeps thousands of writers from trying at the same moment

    def _again(self, pause_s: float) -> None:
        self._waiting = True
        if self._unlisten is None:
            self._unlisten = self._sink.when_up(self._retry)
        if self._sink.up:  # else there is nothing to try until the connection is back
            self._timer = self._loop.call_later(pause_s, self._retry)

    def _retry(self) -> None:
        if not self._waiting:  # it is on its way already
            return
        self._waiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.start()

    async def _look_up(self, fenced: Fenced) -> None:
        # A retry after a lost acknowledgement: the first try is stored, and the fence has moved on since.
        try:
            found = await self._sink.find(self.record)
        except LogUnavailable as error:
            self._task = None
            self._answer(error)
        else:
            self._task = None
            self._finish(found or fenced)

    async def _check(self, duplicate: Stored) -> None:
        try:
            ours = await self._sink.holds(self.record, duplicate.seq)
        except LogUnavailable as error:
            self._task = None
            self._answer(error)
            return
        self._task = None
        if ours:
            self._finish(duplicate)
        else:
            self.record = _renamed(self.record)
            self.start()


def _renamed(record: EncodedRecord) -> EncodedRecord:
    """Return a record under another id, which is no longer than any of ours; readers go by its `ce-id`."""
    msg_id = secrets.token_hex(8)
    return replace(record, msg_id=msg_id, block=with_msg_id(record.block, record.msg_id, msg_id))


async def submit(sink: Sink, record: EncodedRecord, timeout_s: float) -> Stored:
    """Store one record and return once it is acknowledged; after `timeout_s` it is not sent any more.

    Raises:
        LogError: as `EventLog.append`.
    """
    future: asyncio.Future[Stored | LogError] = asyncio.get_running_loop().create_future()
    submission = Submission(sink, record, future.set_result, patience_s=0.0)
    submission.start()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await future
    except TimeoutError:
        raise LogUnavailable(f"the log did not acknowledge within {timeout_s:g} s") from None
    finally:
        submission.cancel()
    if isinstance(answer, LogError):
        raise answer
    return answer


class OrderedWriter:
    """One session's writer (`ports.Writer`): one record in flight, the others wait in order."""

    __slots__ = (
        "_acked",
        "_bounds",
        "_bytes",
        "_cancel",
        "_failure",
        "_fence",
        "_flight",
        "_flushes",
        "_loop",
        "_on_failure",
        "_on_stored",
        "_put",
        "_queue",
        "_since",
        "_sink",
        "_trouble",
    )

    def __init__(
        self,
        sink: Sink,
        *,
        fence: Fence | None = None,
        on_failure: FailureHandler | None = None,
        on_stored: StoredHandler | None = None,
        bounds: WriterBounds = DEFAULT_BOUNDS,
    ) -> None:
        self._sink = sink
        self._fence = fence
        self._on_failure = on_failure
        self._on_stored = on_stored
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._queue: deque[EncodedRecord] | None = None  # a deque is 600 bytes, and most writers never have a backlog
        self._since = 0.0
        self._flight: EncodedRecord | None = None
        self._cancel: Callable[[], None] | None = None
        self._trouble: Submission | None = None  # nearly every record is stored at the first try
        self._failure: LogError | None = None
        self._bytes = 0
        self._put = 0
        self._acked = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def failure(self) -> LogError | None:
        """Why the writer has stopped, or None while it works."""
        return self._failure

    @property
    def backlog(self) -> int:
        """How many records wait for their acknowledgement."""
        return self._put - self._acked

    @property
    def waiting_s(self) -> float:
        """How long the oldest of them has been on its way, in seconds; 0.0 with none."""
        return self._loop.time() - self._since if self._flight is not None else 0.0

    def put(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Queue one record (`Writer.put`); with nothing in flight it is on the socket when this returns."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        record = self._sink.encode(subject, data, headers, self._fence)
        bounds = self._bounds
        if self._put - self._acked >= bounds.records or self._bytes + record.size > bounds.bytes:
            error = LogUnavailable(f"{self.backlog} records ({self._bytes} bytes) wait for the log, and it takes none")
            self._stop(error)
            raise error
        self._put += 1
        self._bytes += record.size
        if self._flight is None:
            self._send(record)
        else:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(record)

    def amend(self, change: Callable[[Message], bytes]) -> None:
        """Change what is queued and was not sent yet (`Writer.amend`)."""
        for position, record in enumerate(self._queue or ()):
            data = change(Message(record.subject, record.data, decode_headers(record.block)))
            more = len(data) - len(record.data)
            self._bytes += more
            self._queue[position] = replace(record, data=data, size=record.size + more)  # type: ignore[index]

    async def flush(self) -> None:
        """Return once everything put so far is acknowledged (`Writer.flush`)."""
        if self._acked == self._put:  # stopped or not
            return
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        future: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append((self._put, future))
        await future

    async def close(self) -> None:
        """Stop (`Writer.close`); what is not acknowledged yet is given up."""
        self._on_failure = None
        self._stop(LogUnavailable("this writer is closed"))

    def _send(self, record: EncodedRecord) -> None:
        self._since = self._loop.time()
        self._flight = record
        cancel = self._sink.transmit(record, _FIRST_TRY_S, self._heard)
        if self._flight is record and self._trouble is None:  # else it is answered already
            self._cancel = cancel

    def _heard(self, answer: Stored | LogError) -> None:
        """Take what came of the first try."""
        self._cancel = None
        record = self._flight
        if record is None or (isinstance(answer, Stored) and not answer.duplicate):
            self._answered(answer)
            return
        patience_s = self._bounds.full_patience_s
        self._trouble = Submission(self._sink, record, self._answered, patience_s=patience_s)
        self._trouble.resume(answer)

    def _answered(self, answer: Stored | LogError) -> None:
        record, self._flight, self._trouble = self._flight, None, None
        if isinstance(answer, LogError):
            self._stop(answer)
            return
        self._acked += 1
        if self._on_stored is not None:
            self._on_stored(answer.seq)
        if record is not None:
            self._bytes -= record.size
        if self._flushes:
            self._wake()
        if self._queue:
            self._send(self._queue.popleft())
        else:
            self._queue = None

    def _wake(self) -> None:
        done = [future for number, future in self._flushes if number <= self._acked]
        del self._flushes[: len(done)]
        for future in done:
            if not future.done():
                future.set_result(None)

    def _stop(self, error: LogError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._queue = None
        self._flight = None
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()
        if self._trouble is not None:
            self._trouble.cancel()
            self._trouble = None
        flushes, self._flushes = self._flushes, []
        for _, future in flushes:
            if not future.done():
                future.set_exception(error)
        if self._on_failure is not None:
            self._loop.call_soon(self._tell, error)

    def _tell(self, error: LogError) -> None:
        if self._on_failure is not None:  # a writer that was closed meanwhile tells nobody
            self._on_failure(error)
