"""`JobStore`: the bridges' job records in a KV bucket. Every write is a compare-and-set; `nats kv` can read it.

What is deleted leaves a marker, so that those who follow the bucket hear of it, and the marker goes by itself: the
bucket holds what there is, however much there has been.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from unpod.core.subjects import token
from unpod.errors import Fenced, ProtocolViolation
from unpod.jetstream.log.event_log import JetStreamLog, open_log
from unpod.ports import Fence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unpod.jetstream.connection.connection import Nats
    from unpod.jetstream.streams.topology import StreamSpec
    from unpod.ports import Bus, Message, Subscription

_ID: Final = "Nats-Msg-Id"
_OPERATION: Final = "KV-Operation"
_KEY: Final = "Unpod-Key"
_MAX_KEY: Final = 2_000
_OVERHEAD: Final = 2_048
_TTL: Final = "Nats-TTL"
MARKER_S: Final = 60
"""How many seconds a marker is kept.

A bridge that has not seen it by then has lost its connection, and reads the whole bucket anew.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One job record; `revision` is what an update or a delete must name."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of a key; `value` None: it is deleted. `id` is the write's own, as `JobStore.follow` tells it."""

    key: str
    value: bytes | None
    revision: int
    id: str


class JobStore:
    """Job records by key. A key may be any text up to 2,000 characters. Markers go after `marker_s` whole seconds."""

    def __init__(self, log: JetStreamLog, *, marker_s: int = MARKER_S) -> None:
        self._log = log
        self._marker_s = marker_s
        self._hints: list[Callable[[str], None]] = []
        self._base = log.spec.subjects[0].removesuffix(">")

    @property
    def expires(self) -> bool:
        """Whether the markers of deleted records expire by themselves, which the settings of the bucket must allow."""
        return self._log.spec.expires

    @property
    def room(self) -> int:
        """How many bytes a value may have, under a key of up to 200 characters."""
        return max(self._log.max_record - _OVERHEAD, 1)

    async def create(self, key: str, value: bytes) -> int:
        """Store a new record and return its revision.

        Raises:
            Fenced: the key exists.
            LogError: as `EventLog.append`.
        """
        try:
            return await self._write(key, value, 0)
        except Fenced:
            newest = await self._log.last(self._subject(key))
            if newest is None or not _deleted(newest):
                raise Fenced(f"the job {key!r} exists") from None
            return await self._write(key, value, newest.seq)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Replace the record of `revision` and return the new one's.

        Raises:
            Fenced: somebody else has changed or deleted it since.
            LogError: as `EventLog.append`.
        """
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int) -> None:
        """Delete the record of `revision`; errors as in `update`."""
        await self._write(key, b"", revision, operation="DEL")

    async def get(self, key: str) -> Entry | None:
        """Return the record, or None; raises LogUnavailable."""
        newest = await self._log.last(self._subject(key))
        return None if newest is None or _deleted(newest) else _entry(newest)

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield all records, the longest unchanged first; raises LogUnavailable."""
        async for message in self._log.read(f"{self._base}>"):
            if not _deleted(message):
                yield _entry(message)

    async def keys(self) -> list[str]:
        """Return the keys of all records; raises LogUnavailable."""
        return [entry.key async for entry in self.entries()]

    async def changes(self, after: int = 0) -> AsyncIterator[Change]:
        """Yield the newest change of each key behind a revision, in order; raises LogUnavailable."""
        async for message in self._log.read(">", start_seq=after + 1):  # of all subjects: nothing has to be searched
            yield self._change(message)

    async def follow(self, bus: Bus, hint: Callable[[str], None]) -> Subscription:
        """Tell `hint` the id of each write; it may be refused, or not be readable yet. Errors as in `Bus`."""
        self._hints.append(hint)  # a connection does not hear what it has sent itself
        return await bus.subscribe(f"{self._base}>", lambda message: hint(message.headers.get(_ID, "")))

    async def usage(self) -> float:
        """Return how full the bucket is, 0.0 to 1.0; raises LogUnavailable."""
        return await self._log.usage()

    async def _write(self, key: str, value: bytes, revision: int, *, operation: str = "") -> int:
        subject = self._subject(key)
        # The id makes a retry after a lost acknowledgement harmless.
        headers = {_ID: f"{subject}@{revision}/{secrets.token_hex(8)}", _KEY: quote(key, safe="")}
        if operation:
            headers[_OPERATION] = operation
            if self._log.spec.expires:
                headers[_TTL] = f"{self._marker_s}s"
        try:
            return (await self._log.append(subject, value, headers, fence=Fence(subject, revision))).seq
        finally:
            for hint in self._hints:
                hint(headers[_ID])

    def _change(self, message: Message) -> Change:
        value = None if _deleted(message) else message.data
        return Change(_key(message), value, message.seq, message.headers.get(_ID, ""))

    def _subject(self, key: str) -> str:
        if len(key) > _MAX_KEY:
            raise ProtocolViolation(f"a job's key of {len(key)} characters is over {_MAX_KEY}")
        return f"{self._base}{token(key)}"


def _deleted(message: Message) -> bool:
    return message.headers.get(_OPERATION, "") in {"DEL", "PURGE"}


def _entry(message: Message) -> Entry:
    return Entry(_key(message), message.data, message.seq)


def _key(message: Message) -> str:
    return unquote(message.headers.get(_KEY, "")) or message.subject.rpartition(".")[2]


async def open_jobs(nats: Nats, spec: StreamSpec, *, marker_s: int = MARKER_S) -> JobStore:
    """Return the store over a bucket's stream, which is created if it is missing; errors as in `open_log`."""
    return JobStore(await open_log(nats, spec), marker_s=marker_s)
