"""The server of `MemoryLog`: one stream, core subscriptions, and the switches that tests pull."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable
from unpod.ports import Message, Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from unpod.ports import Fence, Handler

_MSG_ID: Final = "Nats-Msg-Id"


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject matches a pattern with `*` and `>`."""
    wanted, have = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(have) > index
        if index >= len(have) or part not in {"*", have[index]}:
            return False
    return len(have) == len(wanted)


class Connection(Protocol):
    """What subscribes: it is sent nothing while it is not `available`."""

    available: bool

    def receive(self, subscription: MemorySubscription, message: Message) -> None:
        """Take a message."""


class MemorySubscription:
    """A live subscription (`ports.Subscription`)."""

    __slots__ = ("_broker", "client", "handler", "pattern", "queue")

    def __init__(self, broker: MemoryBroker, client: Connection, pattern: str, queue: str, handler: Handler) -> None:
        self._broker = broker
        self.client = client
        self.pattern = pattern
        self.queue = queue
        self.handler = handler

    async def close(self) -> None:
        """End it (`Subscription.close`)."""
        self._broker.unsubscribe(self)


class MemoryBroker:
    """The server: one stream over `<prefix>.call.>`, and core subscriptions.

    Switches, to be set at any time: `full` refuses appends; `drop(pattern, n)` loses messages on their way to
    subscribers; `delay_s` keeps each message back that long; `skip_acks` stores that many appends without answering;
    `now_ns` is where timestamps come from. `watch` is called with each message in the moment in which it is taken,
    before its publisher goes on.
    """

    def __init__(
        self,
        prefix: str = "unpod",
        *,
        max_bytes: int = 64 * 1024 * 1024,
        max_payload: int = 1024 * 1024,
        seed: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.captured = f"{prefix}.call.>"
        self.max_bytes = max_bytes
        self.max_payload = max_payload
        self.now_ns = now_ns
        self.full = False
        self.delay_s = 0.0
        self.skip_acks = 0
        self.watch: Callable[[Message], None] = _unwatched
        self.records: list[Message] = []
        self._bytes = 0
        self._newest: dict[str, Message] = {}
        self._ids: dict[str, int] = {}
        self._drops: list[list[object]] = []
        self._subscriptions: list[MemorySubscription] = []
        self._on_the_way: deque[tuple[MemorySubscription, Message]] = deque()
        self._random = random.Random(seed)  # noqa: S311 - picks a member of a queue group

    def drop(self, pattern: str, count: int = 1) -> None:
        """Lose the next `count` messages that match, for all subscribers; what is stored stays stored."""
        self._drops.append([pattern, count])

    def used(self) -> float:
        """Return how full the stream is, 0.0 to 1.0."""
        return 1.0 if self.full else self._bytes / self.max_bytes

    def subscribe(self, subscription: MemorySubscription) -> None:
        """Open a subscription."""
        self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: MemorySubscription) -> None:
        """End a subscription; unknown ones are ignored."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # ------------------------------------------------------------------------------------------------------ the stream

    def publish(self, message: Message, fence: Fence | None = None) -> Stored | LogError | None:
        """Deliver to subscribers and, on the stream's subjects, store; return the acknowledgement, None for none."""
        self._deliver(message)  # before the fence is looked at: a refused append is seen on the tail too
        if not matches(self.captured, message.subject):
            self.watch(message)
            return None
        answer = self._store(message, fence)
        if isinstance(answer, Stored) and not answer.duplicate:
            self.watch(message)
        if self.skip_acks:
            self.skip_acks -= 1
            return LogUnavailable("the acknowledgement was lost")
        return answer

    def _store(self, message: Message, fence: Fence | None) -> Stored | LogError:
        if fence is not None and (found := self.last_seq(fence.subject)) != fence.seq:
            return Fenced(f"the fence does not hold: {found}", absent=not found)
        msg_id = message.headers.get(_MSG_ID, "")
        if msg_id in self._ids:
            return Stored(self._ids[msg_id], duplicate=True)
        size = len(message.subject) + len(message.data) + sum(len(k) + len(v) + 4 for k, v in message.headers.items())
        if self.full or self._bytes + size > self.max_bytes:
            return LogFull("the log is full")
        seq = len(self.records) + 1
        stored = Message(message.subject, message.data, dict(message.headers), seq, self.now_ns())
        self.records.append(stored)
        self._newest[stored.subject] = stored
        self._bytes += size
        if msg_id:
            self._ids[msg_id] = seq
        return Stored(seq)

    def find(self, msg_id: str) -> Stored | None:
        """Return where the record of an id stands."""
        return Stored(self._ids[msg_id], duplicate=True) if msg_id in self._ids else None

    def last(self, subject: str) -> Message | None:
        """Return the newest record on a subject."""
        return self._newest.get(subject)

    def last_seq(self, subject: str) -> int:
        """Return the sequence of the newest record on a subject, 0 for none."""
        newest = self._newest.get(subject)
        return newest.seq if newest is not None else 0

    # -------------------------------------------------------------------------------------------------------- the tail

    def takers(self, subject: str) -> list[MemorySubscription]:
        """Return who gets a message on this subject: every plain subscription, one of each queue group."""
        plain: list[MemorySubscription] = []
        groups: dict[tuple[str, str], list[MemorySubscription]] = {}
        for subscription in self._subscriptions:
            if subscription.client.available and matches(subscription.pattern, subject):
                if subscription.queue:
                    groups.setdefault((subscription.pattern, subscription.queue), []).append(subscription)
                else:
                    plain.append(subscription)
        return plain + [self._random.choice(members) for members in groups.values()]

    def _deliver(self, message: Message) -> None:
        takers = self.takers(message.subject)
        if self._dropped(message.subject):
            return
        loop = asyncio.get_running_loop()
        for subscription in takers:
            self._on_the_way.append((subscription, message))
            if self.delay_s:
                loop.call_later(self.delay_s, self._arrive)
            else:
                loop.call_soon(self._arrive)

    def _dropped(self, subject: str) -> bool:
        for rule in self._drops:
            pattern, count = rule
            if isinstance(pattern, str) and isinstance(count, int) and matches(pattern, subject):
                rule[1] = count - 1
                if count <= 1:
                    self._drops.remove(rule)
                return True
        return False

    def _arrive(self) -> None:
        subscription, message = self._on_the_way.popleft()
        if subscription in self._subscriptions:
            subscription.client.receive(subscription, message)


def _unwatched(_: Message) -> None:
    """Nobody watches."""
