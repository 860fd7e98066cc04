"""`PullConsumer`: a durable pull consumer of a stream. Several processes may share one by its name."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from unpod.errors import LogUnavailable
from unpod.jetstream.streams.api import ApiError, call
from unpod.ports import Message

if TYPE_CHECKING:
    from unpod.jetstream.connection.connection import Nats
    from unpod.ports import Subscription

_ACK: Final = "$JS.ACK."
_NO_CONSUMER: Final = 10014
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PullSpec:
    """What a consumer must be. `start_seq` counts only where it is created."""

    stream: str
    name: str
    filters: tuple[str, ...]
    start_seq: int = 1
    ack_wait_s: float = 30.0
    max_pending: int = 1_000
    ack: Literal["explicit", "all"] = "explicit"
    """With `all`, acknowledging a record acknowledges all before it."""

    def config(self) -> dict[str, Any]:
        """Return JetStream's form of it."""
        return {
            "durable_name": self.name,
            "name": self.name,
            "ack_policy": self.ack,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(self.start_seq, 1),
            "filter_subjects": list(self.filters),
            "ack_wait": int(self.ack_wait_s * _SECOND_NS),
            "max_ack_pending": self.max_pending,
            "max_deliver": -1,
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """One record as the consumer delivered it.

    `place` is its number among all deliveries, without gaps where nothing was lost; `pending` is how many wait behind,
    `times` how often it has been delivered by now.
    """

    message: Message
    place: int
    pending: int
    times: int = 1


class PullConsumer:
    """A durable consumer. A record that is not acknowledged within `ack_wait_s` is delivered again, to anyone."""

    def __init__(self, nats: Nats, spec: PullSpec) -> None:
        self._nats = nats
        self._spec = spec
        self._subscription: Subscription | None = None
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox = ""
        self._left = 0
        """How many records the newest request may still bring, until `_until` (the event loop's time)."""
        self._until = 0.0

    async def open(self, *, afresh: bool = False) -> None:
        """Create the consumer where it is missing; `afresh` replaces one that exists, to begin at `start_seq`.

        Raises:
            LogUnavailable: no answer.
            ApiError: JetStream says no.
        """
        stream, name = self._spec.stream, self._spec.name
        if afresh:
            try:
                await call(self._nats, f"CONSUMER.DELETE.{stream}.{name}")
            except ApiError as error:
                if error.code != _NO_CONSUMER:
                    raise
        elif await self.waiting() is not None:
            return
        await call(
            self._nats,
            f"CONSUMER.DURABLE.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": self._spec.config()},
        )

    async def waiting(self) -> int | None:
        """Return how many records wait or are unacknowledged, None where there is no such consumer."""
        try:
            found = await call(self._nats, f"CONSUMER.INFO.{self._spec.stream}.{self._spec.name}")
        except ApiError as error:
            if error.code == _NO_CONSUMER:
                return None
            raise
        return int(found["num_pending"]) + int(found["num_ack_pending"])

    async def fetch(self, batch: int, wait_s: float) -> list[Delivery]:
        """Return up to `batch` records, after `wait_s` those that came, perhaps none.

        What the server sends for an earlier request, after its records were returned, is in the next.

        Raises:
            LogUnavailable: no server, or the consumer is gone.
        """
        found: list[Delivery] = []
        with suppress(TimeoutError):  # a connection or a leader was lost in between; what did not come comes again
            async with asyncio.timeout(wait_s):
                await self._collect(found, batch, wait_s)
        return found

    async def close(self) -> None:
        """Hear nothing more; what came and was not fetched is delivered again, to anyone."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()

    def acknowledge(self, delivery: Delivery) -> None:
        """Say that a record is done with; where that is lost, it is delivered again."""
        with suppress(LogUnavailable):
            self._nats.send(delivery.message.reply, b"+ACK")

    def hold(self, delivery: Delivery) -> None:
        """Say that a record is still being worked on: it is not delivered again for another `ack_wait_s`."""
        with suppress(LogUnavailable):
            self._nats.send(delivery.message.reply, b"+WPI")

    def postpone(self, delivery: Delivery, seconds: float) -> None:
        """Say that a record cannot be done with now: it is delivered again after a while, to anyone."""
        with suppress(LogUnavailable):
            self._nats.send(delivery.message.reply, b'-NAK {"delay": %d}' % int(seconds * _SECOND_NS))

    async def _collect(self, found: list[Delivery], batch: int, wait_s: float) -> None:
        while len(found) < batch:
            if self._arrived.empty():
                if found and not found[-1].pending:
                    return
                await self._ask(batch, wait_s)
            message = await self._arrived.get()
            if message.reply.startswith(_ACK):
                self._left -= 1
                found.append(_delivery(message))
                continue
            # A status: the request has expired, or nobody answers it. Only the consumer knows which.
            self._left = 0
            if await self.waiting() is None:
                raise LogUnavailable(f"the consumer {self._spec.name} is gone")
            if found:
                return

    async def _ask(self, batch: int, wait_s: float) -> None:
        """Make sure that a request is out. One inbox takes all answers: what the server sends late is not lost."""
        now = asyncio.get_running_loop().time()
        if self._left > 0 and now < self._until:
            return
        if self._subscription is None:
            self._inbox = f"{self._nats.replies.prefix.rstrip('.')}-{secrets.token_hex(11)}"
            self._arrived = asyncio.Queue()
            self._subscription = await self._nats.subscribe(self._inbox, self._arrived.put_nowait)
        request = {"batch": batch, "expires": int(wait_s * _SECOND_NS)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._spec.stream}.{self._spec.name}"
        self._nats.send(subject, json.dumps(request).encode(), reply=self._inbox)
        self._left, self._until = batch, now + wait_s


def _delivery(message: Message) -> Delivery:
    """Read the reply subject: ....<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>[.<token>]."""
    tokens = message.reply.split(".")
    # Nine tokens without an account's domain, twelve with it, of which the last is random.
    at = 4 if len(tokens) == 9 else 6  # noqa: PLR2004 - see above
    times, seq, place, time_ns, pending = (int(part) for part in tokens[at : at + 5])
    return Delivery(
        Message(message.subject, message.data, message.headers, seq, time_ns, message.reply), place, pending, times
    )
