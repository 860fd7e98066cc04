"""`Checkpoint`: how far a consumer came and what it knows there, stored as one by one process at a time.

What does not fit into one record is stored in parts first, and then the record that names them. The parts belong to one
process and alternate between two places, so that those that the record names are whole at any time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from secrets import token_hex
from typing import Final, TypeVar

import msgspec

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable, UnpodError
from unpod.jetstream import JobStore
from unpod.ports import Message

_LOG: Final = logging.getLogger("unpod.consumers")
_AGAIN_S: Final = 0.5
_IN_PARTS: Final = b"unpod-parts/1 "
_TRIES: Final = 20
_NOTES: Final = 10_000

_T = TypeVar("_T")


class Superseded(UnpodError):  # noqa: N818 - it says what happened, as Fenced does
    """Another process of the same consumer has gone on; this one stops."""


class _Parts(msgspec.Struct, frozen=True):
    """What the record says where the value is in parts: the beginning of their keys, how many, and their digest."""

    base: str
    count: int
    digest: str


class Checkpoint:
    """One consumer's state in a KV bucket. Every write names the one that it replaces."""

    def __init__(self, store: JobStore, name: str) -> None:
        self._store = store
        self._name = name
        self._revision = 0
        self._mine = f"{name}/part/{token_hex(8)}/"
        self._parts: dict[str, int] = {}
        self._turn = 0
        self._is_tidy = False

    async def load(self) -> bytes | None:
        """Return what was stored last, or None.

        Raises:
            LogUnavailable: no answer.
        """
        for _ in range(_TRIES):
            entry = await self._store.get(self._name)
            self._revision = entry.revision if entry is not None else 0
            if entry is None or not entry.value.startswith(_IN_PARTS):
                return entry.value if entry is not None else None
            value = await self._join(msgspec.json.decode(entry.value.removeprefix(_IN_PARTS), type=_Parts))
            if value is not None:
                return value
            await asyncio.sleep(_AGAIN_S)  # somebody has gone on meanwhile
        _LOG.error("the checkpoint of %s is not whole; it begins at the start of the log", self._name)
        return None

    async def save(self, value: bytes) -> None:
        """Return once `value` is stored, however long NATS is away or full.

        Raises:
            Superseded: somebody else has stored since.
        """
        head = value
        if len(value) > self._store.room:
            head = await self._patiently(lambda: self._split(value))
        await self._patiently(lambda: self._replace(head))
        await self._patiently(self._tidy)

    async def park(self, message: Message, reason: str) -> None:
        """Keep the place of a record that cannot be taken, and why; its bytes stay in the log.

        The newest 10,000 notes are kept: more of them must not fill the bucket in which the checkpoint is.

        Raises:
            LogUnavailable: no answer.
        """
        note = json.dumps({"seq": message.seq, "subject": message.subject[:500], "reason": reason}).encode()
        _LOG.warning("%s parked the record at %d: %s", self._name, message.seq, reason)
        key = f"parked/{self._name}/{message.seq % _NOTES}"
        try:
            with suppress(Fenced):  # somebody else notes the same
                former = await self._store.get(key)
                await self._write(key, note, former.revision if former is not None else 0)
        except LogFull as error:
            _LOG.warning("no room to note what was parked: %s", error)

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await attempt()
            except (LogUnavailable, LogFull) as error:
                _LOG.warning("the checkpoint of %s waits: %s", self._name, error)
                await asyncio.sleep(_AGAIN_S)

    async def _write(self, key: str, value: bytes, revision: int) -> int:
        if revision:
            return await self._store.update(key, value, revision)
        return await self._store.create(key, value)

    async def _replace(self, head: bytes) -> None:
        try:
            self._revision = await self._write(self._name, head, self._revision)
        except Fenced:
            entry = await self._store.get(self._name)
            if entry is None or entry.value != head:  # else our own write was stored, and only its answer was lost
                raise Superseded(
                    f"another `unpod consume {self._name}` has gone on from here: run one of them, "
                    "it goes on where this stopped"
                ) from None
            self._revision = entry.revision

    async def _split(self, value: bytes) -> bytes:
        """Store a value in parts, and return what names them."""
        room = self._store.room
        base = f"{self._mine}{self._turn}/"
        parts = [value[at : at + room] for at in range(0, len(value), room)]
        for number, part in enumerate(parts):
            await self._put(f"{base}{number}", part)
        self._turn = 1 - self._turn
        return _IN_PARTS + msgspec.json.encode(_Parts(base, len(parts), sha256(value).hexdigest()))

    async def _put(self, key: str, part: bytes) -> None:
        """Store a part; nobody else writes it, so one that has changed is our own write whose answer was lost."""
        while True:
            try:
                self._parts[key] = await self._write(key, part, self._parts.get(key, 0))
            except Fenced:
                entry = await self._store.get(key)
                self._parts[key] = 0 if entry is None else entry.revision
            else:
                return

    async def _join(self, parts: _Parts) -> bytes | None:
        entries = [await self._store.get(f"{parts.base}{number}") for number in range(parts.count)]
        value = b"".join(entry.value for entry in entries if entry is not None)
        return value if sha256(value).hexdigest() == parts.digest else None

    async def _tidy(self) -> None:
        """Delete, once, the parts that former processes have left: none of them can name them any more."""
        if self._is_tidy:
            return
        async for entry in self._store.entries():
            if entry.key.startswith(f"{self._name}/part/") and not entry.key.startswith(self._mine):
                with suppress(Fenced):
                    await self._store.delete(entry.key, entry.revision)
        self._is_tidy = True


async def load_patiently(checkpoint: Checkpoint) -> bytes | None:
    """Return what was stored last, however long NATS is away."""
    while True:
        try:
            return await checkpoint.load()
        except LogUnavailable as error:
            _LOG.warning("the checkpoint cannot be read now: %s", error)
            await asyncio.sleep(_AGAIN_S)


async def note(checkpoint: Checkpoint, message: Message, reason: str) -> None:
    """Park a record; a log that is away is no reason to wait."""
    try:
        await checkpoint.park(message, reason)
    except LogError as error:
        _LOG.warning("what was parked at %d could not be noted: %s", message.seq, error)
