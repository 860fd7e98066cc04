"""NATS with a stream, in memory: `MemoryLog` is an `EventLog` and a `Bus`, with the semantics that sessions rely on.

One `MemoryBroker` is the server; each `MemoryLog` on it is a connection. What holds for both this and JetStream is
checked by one suite, `tests/contract`. What only tests want is a switch: lose, delay or stop what is delivered, be
unavailable, be full.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING

from unpod.core.headers import msg_id_of
from unpod.errors import LogError, LogUnavailable, NoResponders, RecordTooLarge
from unpod.jetstream.connection.wire import check_subject, decode_headers, encode_headers
from unpod.jetstream.log.writer import DEFAULT_BOUNDS, EncodedRecord, OrderedWriter, WriterBounds, submit
from unpod.ports import Message, Stored
from unpod.testing.broker import MemoryBroker, MemorySubscription, matches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from unpod.core.positions import Positions
    from unpod.ports import FailureHandler, Fence, Handler, StoredHandler


class MemoryLog:
    """A connection to a `MemoryBroker`: `ports.EventLog` and `ports.Bus`.

    Switches: `available = False` is a lost connection (and True its return); `frozen = True` a stopped process, which
    gets its messages when it is set to False.
    """

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker if broker is not None else MemoryBroker()
        self._available = True
        self._frozen = False
        self._kept: deque[tuple[MemorySubscription, Message]] = deque()
        self._state_listeners: list[Callable[[bool], None]] = []
        self._inboxes = 0
        self.places_read = 0
        self.records_searched = 0

    # -------------------------------------------------------------------------------------------------------- switches

    @property
    def available(self) -> bool:
        """Whether the server can be reached."""
        return self._available

    @available.setter
    def available(self, value: bool) -> None:
        if value != self._available:
            self._available = value
            for listener in tuple(self._state_listeners):
                listener(value)

    @property
    def frozen(self) -> bool:
        """Whether this process stands still."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = value
        while self._kept and not self._frozen:
            subscription, message = self._kept.popleft()
            subscription.handler(message)

    def receive(self, subscription: MemorySubscription, message: Message) -> None:
        """Take a message from the broker."""
        if self._frozen:
            self._kept.append((subscription, message))
        elif self._available:
            subscription.handler(message)

    # ------------------------------------------------------------------------------------------------------------- bus

    @property
    def connected(self) -> bool:
        """Whether a publish would be sent now."""
        return self._available

    def on_state(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call `listener(connected)` at each change; return what ends that."""
        self._state_listeners.append(listener)

        def remove() -> None:
            if listener in self._state_listeners:
                self._state_listeners.remove(listener)

        return remove

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = "") -> None:
        """Publish at once, without a coroutine; errors as in `publish`."""
        block = encode_headers(headers or {})
        check_subject(subject)
        if len(block) + len(data) > self.broker.max_payload:
            raise RecordTooLarge(len(block) + len(data), self.broker.max_payload)
        if not self._available:
            raise LogUnavailable("not connected")
        self.broker.publish(Message(subject, data, dict(headers or {}), reply=reply))

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Send without waiting (`Bus.publish`)."""
        self.send(subject, data, headers, reply=reply)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> MemorySubscription:
        """Call `handler` for each message (`Bus.subscribe`)."""
        check_subject(subject)
        if not self._available:
            raise LogUnavailable("not connected")
        subscription = MemorySubscription(self.broker, self, subject, queue, handler)
        self.broker.subscribe(subscription)
        return subscription

    async def subscribe_all(self, handlers: Mapping[str, Handler]) -> list[MemorySubscription]:
        """Subscribe to all or to none (`Bus.subscribe_all`)."""
        for subject in handlers:
            check_subject(subject)
        return [await self.subscribe(subject, handler) for subject, handler in handlers.items()]

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and return the first answer (`Bus.request`)."""
        self._inboxes += 1
        inbox = f"_INBOX.{id(self)}.{self._inboxes}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def take(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        captured = matches(self.broker.captured, subject)
        if self._available and not captured and not self.broker.takers(subject):
            raise NoResponders(f"nobody listens on {subject!r}")
        subscription = await self.subscribe(inbox, take)
        try:
            self._ask(subject, data, inbox)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise LogUnavailable(f"no answer on {subject!r} within {timeout_s:g} s") from None
        finally:
            await subscription.close()

    def _ask(self, subject: str, data: bytes, inbox: str) -> None:
        stored = self.broker.publish(Message(subject, data, {}, reply=inbox))
        if isinstance(stored, Stored):  # the stream answers as well, as NATS's does
            ack = json.dumps({"stream": "MEMORY", "seq": stored.seq}).encode()
            self.broker.publish(Message(inbox, ack))

    # ------------------------------------------------------------------------------------------------------- event log

    async def append(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str],
        *,
        fence: Fence | None = None,
        timeout_s: float = 5.0,
    ) -> Stored:
        """Store one record (`EventLog.append`)."""
        return await submit(self, self.encode(subject, data, headers, fence), timeout_s)

    async def read(
        self, pattern: str, *, start_seq: int = 1, until_seq: int = 0, positions: Positions | None = None
    ) -> AsyncIterator[Message]:
        """Yield what is stored (`EventLog.read`); `places_read` and `records_searched` count what was looked at."""
        await self._reachable()
        end = len(self.broker.records)
        if until_seq > end:
            raise LogUnavailable(f"the log has not come to its sequence {until_seq}")
        seq, known = max(start_seq, 1), positions
        for place in () if known is None else known.since(seq):
            message = self.broker.records[place - 1] if place <= end else None
            if message is None or not matches(pattern, message.subject):
                known = None
                break
            self.places_read += 1
            seq = message.seq + 1
            yield message
        if known is not None:
            seq = max(seq, known.through + 1)
        for message in self.broker.records[seq - 1 : end]:
            self.records_searched += 1
            if matches(pattern, message.subject):
                yield message

    async def last(self, subject: str, *, min_seq: int = 0) -> Message | None:
        """Return the newest record on `subject`, or None (`EventLog.last`)."""
        await self._reachable()
        newest = self.broker.last(subject)
        if min_seq and (newest is None or newest.seq < min_seq):
            raise LogUnavailable(f"the log has not come to its sequence {min_seq}")
        return newest

    async def newest(self, patterns: Sequence[str], *, until_seq: int = 0) -> list[Message] | None:
        """Return the newest record of each subject (`EventLog.newest`)."""
        await self._reachable()
        if until_seq > len(self.broker.records):
            raise LogUnavailable(f"the log has not come to its sequence {until_seq}")
        found = {m.subject: m for m in self.broker.records if any(matches(each, m.subject) for each in patterns)}
        return sorted(found.values(), key=lambda message: message.seq)

    @property
    def silent_s(self) -> float:
        """The log of a test is away, or it answers (`EventLog.silent_s`)."""
        return 0.0

    def behind(self, for_s: float) -> list[str]:
        """The log of a test has no nodes (`EventLog.behind`)."""
        del for_s
        return []

    async def usage(self) -> float:
        """Return how full the stream is (`EventLog.usage`)."""
        await self._reachable()
        return self.broker.used()

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

    async def _reachable(self) -> None:
        await asyncio.sleep(0)
        if not self._available:
            raise LogUnavailable("not connected")

    # ------------------------------------------------------------------------------------------------ the writers' sink

    @property
    def up(self) -> bool:
        """Whether a record would be sent now (`Sink.up`)."""
        return self._available

    def encode(self, subject: str, data: bytes, headers: Mapping[str, str], fence: Fence | None) -> EncodedRecord:
        """Return the record ready to be sent (`Sink.encode`)."""
        check_subject(subject)
        block = encode_headers(headers)
        size = len(subject) + len(block) + len(data)
        if size > self.broker.max_payload:
            raise RecordTooLarge(size, self.broker.max_payload)
        return EncodedRecord(subject, data, block, size, msg_id_of(headers), fence)

    def transmit(
        self, record: EncodedRecord, _timeout_s: float, answer: Callable[[Stored | LogError], None]
    ) -> Callable[[], None]:
        """Publish once (`Sink.transmit`); the answer comes in a later turn of the event loop, as over a socket."""
        if not self._available:
            answer(LogUnavailable("not connected"))
            return _nothing
        message = Message(record.subject, record.data, decode_headers(record.block))
        said = self.broker.publish(message, record.fence)
        if said is None:
            said = LogUnavailable("no stream takes this subject")
        return asyncio.get_running_loop().call_soon(answer, said).cancel

    async def find(self, record: EncodedRecord) -> Stored | None:
        """Return where the record of this id stands, or None (`Sink.find`)."""
        await self._reachable()
        found = self.broker.find(record.msg_id)
        return None if found is None or self._at(found.seq).subject != record.subject else found

    async def holds(self, record: EncodedRecord, seq: int) -> bool:
        """Whether what stands at `seq` is this record (`Sink.holds`)."""
        await self._reachable()
        found = self._at(seq)
        return found.subject == record.subject and msg_id_of(found.headers) == record.msg_id

    def _at(self, seq: int) -> Message:
        return self.broker.records[seq - 1]

    def when_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever the connection is back (`Sink.when_up`)."""
        return self.on_state(lambda up: callback() if up else None)


def _nothing() -> None:
    """There is nothing to cancel."""
