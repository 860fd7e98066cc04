"""A NATS micro service: what `nats micro ls`, `info`, `stats` and `ping` see.

Discovery is on `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, each also with `.<name>` and `.<name>.<id>` behind it. The
protocol is NATS's (ADR-32); only the names and the endpoints are ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from unpod.core.envelope import format_time
from unpod.errors import LogError

if TYPE_CHECKING:
    from unpod.ports import Bus, Message, Subscription

logger = logging.getLogger("unpod.ops")

PREFIX: Final = "$SRV"
QUEUE: Final = "q"
MAX_ANSWER: Final = 512 * 1024
_TYPE: Final = "io.nats.micro.v1."
_encode = msgspec.json.Encoder().encode

Handle = Callable[[bytes], object]
"""Answers a request with something that becomes JSON; what it raises is told to whoever asks, by its type only."""


class EndpointInfo(Struct, frozen=True, kw_only=True):
    """An endpoint, as `nats micro info` shows it."""

    name: str
    subject: str
    queue_group: str = QUEUE
    metadata: Mapping[str, str] = {}


class EndpointStats(Struct, frozen=True, kw_only=True):
    """An endpoint's counters; times in nanoseconds. `data` is what the service itself counts."""

    name: str
    subject: str
    queue_group: str = QUEUE
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: object = None


class ServicePing(Struct, frozen=True, kw_only=True):
    """The answer to `$SRV.PING`."""

    name: str
    id: str
    version: str
    metadata: Mapping[str, str]
    type: str = f"{_TYPE}ping_response"


class Info(Struct, frozen=True, kw_only=True):
    """The answer to `$SRV.INFO`."""

    name: str
    id: str
    version: str
    metadata: Mapping[str, str]
    description: str
    endpoints: list[EndpointInfo]
    type: str = f"{_TYPE}info_response"


class Stats(Struct, frozen=True, kw_only=True):
    """The answer to `$SRV.STATS`."""

    name: str
    id: str
    version: str
    metadata: Mapping[str, str]
    started: str
    endpoints: list[EndpointStats]
    type: str = f"{_TYPE}stats_response"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that can be asked; `data` says what its statistics hold beside the counters."""

    name: str
    subject: str
    handle: Handle
    data: Callable[[], object] | None = None


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    took_ns: int = 0


class MicroService:
    """One instance of a service over a bus: answers discovery, and its endpoints."""

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        instance: str,
        version: str,
        description: str,
        metadata: Mapping[str, str],
        endpoints: list[Endpoint],
    ) -> None:
        self._bus = bus
        self._name, self._id, self._version = name, instance, version or "0.0.0"
        self._description = description
        self._metadata = dict(metadata)
        self._endpoints = endpoints
        self._counters = {endpoint.name: _Counters() for endpoint in endpoints}
        self._started = format_time(time.time())
        self._subscriptions: list[Subscription] = []

    async def open(self) -> None:
        """Answer from now on.

        Raises:
            LogError: NATS does not let us, or does not answer.
        """
        answers: dict[str, Handle] = {
            "PING": lambda _: self.ping(),
            "INFO": lambda _: self.info(),
            "STATS": lambda _: self.stats(),
        }
        for verb, answer in answers.items():
            for tail in ("", f".{self._name}", f".{self._name}.{self._id}"):
                await self._listen(f"{PREFIX}.{verb}{tail}", answer)
        for endpoint in self._endpoints:
            counted = _Counted(endpoint, self._counters[endpoint.name])
            await self._listen(endpoint.subject, counted, queue=QUEUE)

    async def close(self) -> None:
        """Answer nobody any more."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.close()

    def ping(self) -> ServicePing:
        """Return that it is there."""
        return ServicePing(name=self._name, id=self._id, version=self._version, metadata=self._metadata)

    def info(self) -> Info:
        """Return what it is."""
        return Info(
            name=self._name,
            id=self._id,
            version=self._version,
            metadata=self._metadata,
            description=self._description,
            endpoints=[EndpointInfo(name=each.name, subject=each.subject) for each in self._endpoints],
        )

    def stats(self) -> Stats:
        """Return its counters."""
        return Stats(
            name=self._name,
            id=self._id,
            version=self._version,
            metadata=self._metadata,
            started=self._started,
            endpoints=[self._stats_of(each) for each in self._endpoints],
        )

    def _stats_of(self, endpoint: Endpoint) -> EndpointStats:
        counted = self._counters[endpoint.name]
        return EndpointStats(
            name=endpoint.name,
            subject=endpoint.subject,
            num_requests=counted.requests,
            num_errors=counted.errors,
            last_error=counted.last_error,
            processing_time=counted.took_ns,
            average_processing_time=counted.took_ns // counted.requests if counted.requests else 0,
            data=None if endpoint.data is None else endpoint.data(),
        )

    async def _listen(self, subject: str, answer: Handle, *, queue: str = "") -> None:
        def heard(message: Message) -> None:
            if not message.reply:
                return
            try:
                self._bus.send(message.reply, *_answer(answer, message.data))
            except LogError as error:  # whoever asked will ask again
                logger.debug("a question could not be answered: %s", type(error).__name__)

        self._subscriptions.append(await self._bus.subscribe(subject, heard, queue=queue))


class _Counted:
    """An endpoint that counts."""

    def __init__(self, endpoint: Endpoint, counters: _Counters) -> None:
        self._handle = endpoint.handle
        self._counters = counters

    def __call__(self, data: bytes) -> object:
        began = time.perf_counter_ns()
        self._counters.requests += 1
        try:
            return self._handle(data)
        except Exception as error:
            self._counters.errors += 1
            self._counters.last_error = type(error).__name__
            raise
        finally:
            self._counters.took_ns += time.perf_counter_ns() - began


def _answer(answer: Handle, data: bytes) -> tuple[bytes, dict[str, str]]:
    try:
        body = _encode(answer(data))
    except Exception as error:  # noqa: BLE001 - a handler of the bus must not raise
        return b"", _error(400, type(error).__name__)
    if len(body) > MAX_ANSWER:
        return b"", _error(413, "the answer is too long: ask for less")
    return body, {}


def _error(code: int, text: str) -> dict[str, str]:
    return {"Nats-Service-Error": text, "Nats-Service-Error-Code": str(code)}


class Page(Struct, frozen=True, kw_only=True):
    """Which part of a list is asked for; an empty request is one for its beginning."""

    offset: int = 0
    limit: int = 1_000


_PAGE: Final = msgspec.json.Decoder(Page)


def page(items: list[Any], request: bytes) -> dict[str, object]:
    """Return the part of a list that the `Page` in a request asks for, and how many items the list has.

    Raises:
        msgspec.MsgspecError: the request is no `Page`.
    """
    asked = _PAGE.decode(request) if request else Page()
    offset, limit = max(asked.offset, 0), min(max(asked.limit, 1), 1_000)
    return {"total": len(items), "offset": offset, "items": items[offset : offset + limit]}
