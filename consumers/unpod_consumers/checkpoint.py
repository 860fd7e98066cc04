"""`Checkpoint`: how far a consumer came and what it knows there, stored as one record, by one process at a time."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Final

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable, UnpodError
from unpod.jetstream import JobStore
from unpod.ports import Message

_LOG: Final = logging.getLogger("unpod.consumers")
_AGAIN_S: Final = 0.5


class Superseded(UnpodError):  # noqa: N818 - it says what happened, as Fenced does
    """Another process of the same consumer has gone on; this one stops."""


class Checkpoint:
    """One consumer's state in a KV bucket. Every write names the one that it replaces."""

    def __init__(self, store: JobStore, name: str) -> None:
        self._store = store
        self._name = name
        self._revision = 0

    async def load(self) -> bytes | None:
        """Return what was stored last, or None.

        Raises:
            LogUnavailable: no answer.
        """
        entry = await self._store.get(self._name)
        self._revision = entry.revision if entry is not None else 0
        return entry.value if entry is not None else None

    async def save(self, value: bytes) -> None:
        """Return once `value` is stored, however long NATS is away or full.

        Raises:
            Superseded: somebody else has stored since.
            RecordTooLarge: it does not fit.
        """
        while True:
            try:
                self._revision = await self._write(value)
            except (LogUnavailable, LogFull) as error:
                _LOG.warning("the checkpoint of %s waits: %s", self._name, error)
                await asyncio.sleep(_AGAIN_S)
            except Fenced:
                if await self._is_mine(value):
                    return
            else:
                return

    async def park(self, message: Message, reason: str) -> None:
        """Keep the place of a record that cannot be taken, and why; its bytes stay in the log.

        Raises:
            LogUnavailable: no answer.
        """
        note = json.dumps({"seq": message.seq, "subject": message.subject[:500], "reason": reason}).encode()
        _LOG.warning("%s parked the record at %d: %s", self._name, message.seq, reason)
        try:
            with suppress(Fenced):  # it is parked already
                await self._store.create(f"parked/{self._name}/{message.seq}", note)
        except LogFull as error:
            _LOG.warning("no room to note what was parked: %s", error)

    async def _write(self, value: bytes) -> int:
        if self._revision:
            return await self._store.update(self._name, value, self._revision)
        return await self._store.create(self._name, value)

    async def _is_mine(self, value: bytes) -> bool:
        """Return whether a write without an answer was stored after all; False: ask again."""
        try:
            entry = await self._store.get(self._name)
        except LogError:
            await asyncio.sleep(_AGAIN_S)
            return False
        if entry is None or entry.value != value:
            raise Superseded(
                f"another `unpod consume {self._name}` has gone on from here: run one, it goes on where this stopped"
            )
        self._revision = entry.revision
        return True
