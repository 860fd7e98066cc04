"""What sessions, runners and bridges need from the outside, as Protocols.

`unpod.jetstream` implements them over NATS, `unpod.testing` in memory; the contract suite in `tests/contract` runs
against both. Everything here is bytes, headers and subjects: meaning is `unpod.core`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

if TYPE_CHECKING:
    from unpod.core.positions import Positions
    from unpod.errors import LogError


class Message(Struct, frozen=True):
    """One message, from the stream or from the live tail.

    `seq` is the stream sequence and `time_ns` the server's time of storing (nanoseconds since 1970), both 0 on the
    tail, where it is not known whether the message was stored. `reply` is the subject to answer a request on, else "".
    """

    subject: str
    data: bytes
    headers: Mapping[str, str] = {}
    seq: int = 0
    time_ns: int = 0
    reply: str = ""


class Fence(Struct, frozen=True):
    """The condition of an append: the last record on `subject` must have the stream sequence `seq` (0: none yet)."""

    subject: str
    seq: int


class Stored(Struct, frozen=True):
    """What the log says of an append.

    `seq` is the record's stream sequence; `duplicate` is true where the same id had been stored before.
    """

    seq: int
    duplicate: bool = False


Handler = Callable[[Message], None]
"""Called on the event loop for each message in order of arrival; it must neither block nor raise."""


class Subscription(Protocol):
    """A live subscription."""

    async def close(self) -> None:
        """End the subscription; no handler is called afterwards."""


FailureHandler = Callable[["LogError"], None]
"""Told once, on the event loop, why a writer has stopped."""


StoredHandler = Callable[[int], None]
"""Told the stream sequence of each record of a writer, in the order in which they were put, once it is stored."""


class Writer(Protocol):
    """One session's ordered writer: what is put first is stored first, one record in flight at a time.

    A record without an answer is tried again under its id until it is stored, so an outage only delays. A writer that
    meets `Fenced`, `LogFull` (for longer than its patience) or its own bound stops for good and says so once.
    """

    @property
    def failure(self) -> LogError | None:
        """Why the writer has stopped, or None while it works."""
        ...

    @property
    def backlog(self) -> int:
        """How many records wait for their acknowledgement."""
        ...

    def put(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Queue one record and return at once.

        Raises:
            LogError: the writer has stopped, or the record is too large or beyond the bound of the backlog.
        """
        ...

    def amend(self, change: Callable[[Message], bytes]) -> None:
        """Store what `change` returns in place of the payload of each record that is queued and was not sent yet."""
        ...

    async def flush(self) -> None:
        """Return once everything put so far is acknowledged.

        Raises:
            LogError: the writer has stopped before that.
        """
        ...

    async def close(self) -> None:
        """Stop; what is not acknowledged yet is given up. `flush` first to keep it."""
        ...


@runtime_checkable
class EventLog(Protocol):
    """The stream `UNPOD_CALLS`: append, read back, look up."""

    async def append(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str],
        *,
        fence: Fence | None = None,
        timeout_s: float = 5.0,
    ) -> Stored:
        """Store one record and return once the server has acknowledged it.

        `headers` carry `Nats-Msg-Id`: a repeat of an id within the dedup window is stored once.

        Raises:
            Fenced: the fence does not hold (and the record under this id is not already stored).
            LogFull: the stream is at its bound.
            RecordTooLarge: nothing was sent.
            LogUnavailable: no answer within `timeout_s`, or not connected; the record may or may not be stored.
        """
        ...

    def read(
        self, pattern: str, *, start_seq: int = 1, until_seq: int = 0, positions: Positions | None = None
    ) -> AsyncIterator[Message]:
        """Yield the stored records whose subject matches `pattern`, in stream order, up to the end as of now.

        With `until_seq`, the read is complete only when it has come to that stream sequence: a lagging replica that
        answers with less is asked again.

        With `positions`, the records up to the stream sequence `positions.through` are fetched by their sequences: that
        is fast, whatever else was written meanwhile, and leaves out any record there that `positions` does not list. If
        one is not where `positions` says, the log is searched from there on.

        Raises:
            LogUnavailable: no answer.
        """
        ...

    async def last(self, subject: str) -> Message | None:
        """Return the newest record on `subject`, or None.

        Raises:
            LogUnavailable: no answer.
        """
        ...

    async def newest(self, patterns: Sequence[str], *, until_seq: int = 0) -> list[Message] | None:
        """Return the newest record of each subject that one of some patterns matches, in stream order.

        None where there are more than the log can say at once (a thousand subjects or so).

        The log looks each subject up and searches nothing. With `until_seq`, a lagging replica that does not know the
        log up to there is asked again.

        Raises:
            LogUnavailable: no answer.
        """
        ...

    @property
    def silent_s(self) -> float:
        """For how many seconds records have been waiting and none was acknowledged; 0.0 where none waits."""
        ...

    async def usage(self) -> float:
        """Return how full the stream is, 0.0 to 1.0 of its bound in bytes."""
        ...

    def behind(self, for_s: float) -> list[str]:
        """Return the names of the nodes that every `usage` of the last `for_s` seconds has found to lag."""
        ...

    def writer(
        self,
        *,
        fence: Fence | None = None,
        on_failure: FailureHandler | None = None,
        on_stored: StoredHandler | None = None,
    ) -> Writer:
        """Return an ordered writer; call it within a running event loop."""
        ...


@runtime_checkable
class Bus(Protocol):
    """Core NATS: what is not stored, and the live tail of what is."""

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = "") -> None:
        """Publish in this tick, in order with all else that this connection publishes.

        Raises:
            LogUnavailable: not connected; it will not be sent later either.
            RecordTooLarge: it is over the server's limit.
        """
        ...

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Send without waiting; what cannot be sent now raises `LogUnavailable` and is never sent later."""
        ...

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call `handler` for each message on `subject` until the subscription is closed; active once this returns."""
        ...

    async def subscribe_all(self, handlers: Mapping[str, Handler]) -> Sequence[Subscription]:
        """Subscribe to several subjects in one round trip; where one of them fails, none is left."""
        ...

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and return the first answer.

        Raises:
            NoResponders: nobody listens.
            LogUnavailable: no answer in time.
        """
        ...


class Timer(Protocol):
    """A call that will be made later."""

    def cancel(self) -> None:
        """Make sure that the call is not made."""


class Clock(Protocol):
    """Time, as an argument: the log's time and timers."""

    def now(self) -> float:
        """Return the time in seconds since 1970, never going back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once after `seconds`."""
        ...
