"""`JetStreamLog`: the stream of calls as an `EventLog`."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

from unpod.core.headers import msg_id_of
from unpod.errors import ConfigurationError, LogError, LogUnavailable, NoResponders, RecordTooLarge
from unpod.jetstream.connection.wire import check_subject, encode_headers, fenced, status_of
from unpod.jetstream.log.direct_get.by_sequence import KnownRead
from unpod.jetstream.log.direct_get.by_subject import BatchRead, StoredParser
from unpod.jetstream.log.direct_get.last import NewestRead
from unpod.jetstream.log.writer import DEFAULT_BOUNDS, EncodedRecord, OrderedWriter, WriterBounds, submit
from unpod.jetstream.streams.api import read_ack
from unpod.jetstream.streams.topology import ensure, info, lagging, with_limits_of
from unpod.ports import Stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from unpod.core.positions import Positions
    from unpod.jetstream.connection.connection import Nats
    from unpod.jetstream.streams.topology import StreamSpec
    from unpod.ports import FailureHandler, Fence, Message, StoredHandler

logger = logging.getLogger("unpod.nats")

T = TypeVar("T")

_MSG_ID: Final = "Nats-Msg-Id"
_ANSWER_S: Final = 2.0
_LAG_S: Final = 10.0
_LAG_PAUSE_S: Final = 0.02
_WAITING_S: Final = 10.0
"""If nothing was sent for so many seconds, no acknowledgement is awaited: a record without one is sent again sooner."""
_LATEST_S: Final = 9_000_000_000.0


async def _caught_up(look: Callable[[], Awaitable[tuple[T, int]]], seq: int) -> T:
    """Return what `look` has found, once it has come to a sequence: a replica that lags is asked again."""
    patience = asyncio.get_running_loop().time() + _LAG_S
    while True:
        found, come_to = await look()
        if come_to >= seq:
            return found
        if asyncio.get_running_loop().time() >= patience:
            raise LogUnavailable(f"the log has not come to its sequence {seq} within {_LAG_S:g} s")
        await asyncio.sleep(_LAG_PAUSE_S)


async def open_log(nats: Nats, spec: StreamSpec) -> JetStreamLog:
    """Return the log over a stream, which is created if it is missing; one that exists keeps its own limits.

    Raises:
        ConfigurationError: the stream cannot be created.
        LogUnavailable: no answer.
    """
    found = await info(nats, spec.name)
    if found is None:
        await ensure(nats, spec)
        found = await info(nats, spec.name)
    if found is None:
        raise ConfigurationError(f"the stream {spec.name} was deleted while it was opened")
    return JetStreamLog(nats, with_limits_of(spec, found))


class JetStreamLog:
    """One stream (`ports.EventLog`); `spec` is what the server says it is."""

    def __init__(self, nats: Nats, spec: StreamSpec) -> None:
        self._nats = nats
        self.spec = spec
        self._silent_since = 0.0
        self._behind: dict[str, float] = {}
        self._sent_at = 0.0

    # ---------------------------------------------------------------------------------------------------------- write

    async def append(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str],
        *,
        fence: Fence | None = None,
        timeout_s: float = 5.0,
    ) -> Stored:
        """Store one record (`EventLog.append`).

        Within `timeout_s` it is sent again under its id, through a lost connection too; afterwards never.
        """
        return await submit(self, self.encode(subject, data, headers, fence), timeout_s)

    def writer(
        self,
        *,
        fence: Fence | None = None,
        on_failure: FailureHandler | None = None,
        on_stored: StoredHandler | None = None,
        bounds: WriterBounds = DEFAULT_BOUNDS,
    ) -> OrderedWriter:
        """Return an ordered writer (`EventLog.writer`)."""
        return OrderedWriter(self, fence=fence, on_failure=on_failure, on_stored=on_stored, bounds=bounds)

    def encode(self, subject: str, data: bytes, headers: Mapping[str, str], fence: Fence | None) -> EncodedRecord:
        """Return the record ready to be sent (`Sink.encode`)."""
        check_subject(subject)
        block = encode_headers(headers)
        if fence is not None:
            block = fenced(block, subject, fence)
        size = len(subject) + len(block) + len(data)
        limit = self.max_record
        if size > limit:
            raise RecordTooLarge(size, limit)
        return EncodedRecord(subject, data, block, size, msg_id_of(headers), fence)

    @property
    def max_record(self) -> int:
        """How large a record may be, its subject and headers included, in bytes."""
        limit = self._nats.max_payload
        return min(limit, self.spec.max_msg_size or limit)

    def transmit(
        self, record: EncodedRecord, timeout_s: float, answer: Callable[[Stored | LogError], None]
    ) -> Callable[[], None]:
        """Publish once (`Sink.transmit`)."""
        awaited = self._nats.replies.expect(record.subject, timeout_s, partial(self._heard, answer), answer, once=True)
        now = monotonic()
        if not self._silent_since or now - self._sent_at > _WAITING_S:
            self._silent_since = now
        self._sent_at = now
        try:
            self._nats.send_checked(record.subject, record.data, record.block, awaited.reply)
        except LogError as error:
            self._silent_since = 0.0
            awaited.close()
            answer(error)
        return awaited.close

    def _heard(self, answer: Callable[[Stored | LogError], None], block: bytes, data: bytes) -> None:
        if not data and status_of(block) == "503":
            answer(LogUnavailable("no stream takes this subject now"))
            return
        self._silent_since = 0.0
        answer(read_ack(data))

    @property
    def silent_s(self) -> float:
        """How long it has acknowledged nothing (`EventLog.silent_s`); what waits is sent again every few seconds."""
        now = monotonic()
        since = self._silent_since
        return now - since if since and now - self._sent_at < _WAITING_S else 0.0

    @property
    def up(self) -> bool:
        """Whether a record would be sent now (`Sink.up`)."""
        return self._nats.connected

    def when_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever the connection is back (`Sink.when_up`)."""
        return self._nats.on_state(lambda up: callback() if up else None)

    # ----------------------------------------------------------------------------------------------------------- read

    async def read(
        self, pattern: str, *, start_seq: int = 1, until_seq: int = 0, positions: Positions | None = None
    ) -> AsyncGenerator[Message, None]:
        """Yield what is stored (`EventLog.read`), in batches, so memory is bounded."""
        check_subject(pattern)
        seq = max(start_seq, 1)
        reading: BatchRead | KnownRead = self._begin(pattern, seq, positions)
        loop = asyncio.get_running_loop()
        patience = loop.time() + _LAG_S
        while True:
            try:
                while part := await reading.more():
                    for message in part:
                        yield message
                    seq = part[-1].seq + 1
                    patience = loop.time() + _LAG_S
                if max(seq, reading.reach) > until_seq:
                    return
                problem = LogUnavailable(f"the log has not come to its sequence {until_seq} within {_LAG_S:g} s")
            except LogUnavailable as error:
                problem = error
            finally:
                reading.close()
            if loop.time() >= patience:
                raise problem
            if positions is not None:
                logger.debug("searching the log for %s: %s", pattern, problem)
            await asyncio.sleep(_LAG_PAUSE_S)
            seq = max(seq, reading.reach)
            reading = self._begin(pattern, seq, None)

    def _begin(self, pattern: str, seq: int, positions: Positions | None) -> BatchRead | KnownRead:
        if positions is None:
            return BatchRead(self._nats, self.spec.name, pattern, seq, timeout_s=_ANSWER_S)
        return KnownRead(self._nats, self.spec.name, pattern, positions, seq, timeout_s=_ANSWER_S)

    async def last(self, subject: str, *, min_seq: int = 0) -> Message | None:
        """Return the newest record on `subject`, or None (`EventLog.last`).

        With `min_seq` it is asked again until the answer is at least that record: a replica that lags may answer, also
        about what this process has just appended.
        """

        async def look() -> tuple[Message | None, int]:
            newest = await self._newest(subject)
            return newest, 0 if newest is None else newest.seq

        return await _caught_up(look, min_seq)

    async def newest(self, patterns: Sequence[str], *, until_seq: int = 0) -> list[Message] | None:
        """Return the newest record of each subject (`EventLog.newest`)."""

        async def look() -> tuple[list[Message] | None, int]:
            reading = NewestRead(self._nats, self.spec.name)
            records = await reading.get(patterns, timeout_s=_ANSWER_S)
            return records, until_seq if records is None else reading.up_to

        return await _caught_up(look, until_seq)

    async def since(self, seconds: float) -> int | None:
        """Return the stream sequence of the first record that was stored at a time (seconds since 1970) or later.

        None where there is none. Raises LogUnavailable: no answer.
        """
        # The server counts nanoseconds in 64 bits: what is later than 2255 would come out as the past.
        moment = datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST_S), tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = await self._get({"start_time": moment, "next_by_subj": ">"})
        return None if found is None else found.seq

    async def _newest(self, subject: str) -> Message | None:
        return await self._get({"last_by_subj": subject})

    async def _get(self, asked: Mapping[str, str | int]) -> Message | None:
        request = json.dumps(asked).encode()
        try:
            block, data = await self._nats.ask(f"$JS.API.DIRECT.GET.{self.spec.name}", request, timeout_s=_ANSWER_S)
        except NoResponders:
            raise LogUnavailable(f"the stream {self.spec.name} does not answer") from None
        status = status_of(block)
        if status == "404":
            return None
        if status:
            raise LogUnavailable(f"the log cannot be read now ({status})")
        return StoredParser().message(block, data)[0]

    async def find(self, record: EncodedRecord) -> Stored | None:
        """Return where the record of this id stands, or None (`Sink.find`)."""
        newest = await self.last(record.subject)
        if newest is None:
            return None
        if newest.headers.get(_MSG_ID) == record.msg_id:
            return Stored(newest.seq, duplicate=True)
        # Behind the fence's own record stands everything that was written under it.
        start = record.fence.seq + 1 if record.fence is not None else 1
        async for message in self.read(record.subject, start_seq=start):
            if message.headers.get(_MSG_ID) == record.msg_id:
                return Stored(message.seq, duplicate=True)
        return None

    async def holds(self, record: EncodedRecord, seq: int) -> bool:
        """Whether what stands at `seq` is this record (`Sink.holds`); a replica that lags is asked again, for a while.

        A record that is not there after that was erased, or was never ours. It is stored anew, which does no harm:
        readers go by its id.
        """
        loop = asyncio.get_running_loop()
        patience = loop.time() + _LAG_S
        while True:
            found = await self._get({"seq": seq})
            if found is not None:
                return found.subject == record.subject and found.headers.get(_MSG_ID) == record.msg_id
            if loop.time() >= patience:
                return False
            await asyncio.sleep(_LAG_PAUSE_S)

    def behind(self, for_s: float) -> list[str]:
        """Return the nodes that have not kept up for so long (`EventLog.behind`)."""
        return [node for node, since in self._behind.items() if monotonic() - since >= for_s]

    async def usage(self) -> float:
        """Return how full the stream is, 0.0 to 1.0 (`EventLog.usage`)."""
        found = await info(self._nats, self.spec.name)
        if found is None:
            raise LogUnavailable(f"the stream {self.spec.name} is gone")
        now = monotonic()
        self._behind = {node: self._behind.get(node, now) for node in lagging(found)}
        bound = found["config"]["max_bytes"]
        return float(found["state"]["bytes"]) / bound if bound > 0 else 0.0
