"""`JobStore`: the bridges' job records in a KV bucket. Every write is a compare-and-set; `nats kv` can read it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from unpod.core.subjects import token
from unpod.errors import Fenced, ProtocolViolation
from unpod.jetstream.event_log import JetStreamLog, open_log
from unpod.ports import Fence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unpod.jetstream.connection import Nats
    from unpod.jetstream.topology import StreamSpec
    from unpod.ports import Message

_OPERATION: Final = "KV-Operation"
_KEY: Final = "Unpod-Key"
_MAX_KEY: Final = 2_000
_OVERHEAD: Final = 2_048


@dataclass(frozen=True, slots=True)
class Entry:
    """One job record; `revision` is what an update or a delete must name."""

    key: str
    value: bytes
    revision: int


class JobStore:
    """Job records by key. A key may be any text up to 2,000 characters."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self._base = log.spec.subjects[0].removesuffix(">")

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

    async def _write(self, key: str, value: bytes, revision: int, *, operation: str = "") -> int:
        subject = self._subject(key)
        # The id makes a retry after a lost acknowledgement harmless.
        headers = {"Nats-Msg-Id": f"{subject}@{revision}/{secrets.token_hex(8)}", _KEY: quote(key, safe="")}
        if operation:
            headers[_OPERATION] = operation
        return (await self._log.append(subject, value, headers, fence=Fence(subject, revision))).seq

    def _subject(self, key: str) -> str:
        if len(key) > _MAX_KEY:
            raise ProtocolViolation(f"a job's key of {len(key)} characters is over {_MAX_KEY}")
        return f"{self._base}{token(key)}"


def _deleted(message: Message) -> bool:
    return message.headers.get(_OPERATION, "") in {"DEL", "PURGE"}


def _entry(message: Message) -> Entry:
    key = unquote(message.headers.get(_KEY, "")) or message.subject.rpartition(".")[2]
    return Entry(key, message.data, message.seq)


async def open_jobs(nats: Nats, spec: StreamSpec) -> JobStore:
    """Return the store over a bucket's stream, which is created if it is missing; errors as in `open_log`."""
    return JobStore(await open_log(nats, spec))
