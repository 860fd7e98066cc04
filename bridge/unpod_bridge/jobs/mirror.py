"""The job records as this bridge knows them: a copy of the bucket in memory, kept up by one subscription.

The subscription says that something is written, the bucket says what: a write may be refused, and a replica may lag, so
what was told of is looked for, for a while. After a lost connection the whole bucket is read again. The copy may be
behind; it says where to look, and it is a compare-and-set in the store that decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from unpod.errors import LogError
from unpod.jetstream import Change, JobStore
from unpod.ports import Bus, Subscription

logger = logging.getLogger("unpod.bridge")

T = TypeVar("T")

LOOKS_S: Final = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5, 1.0)
"""The pauses before each look for a write that was told of."""
RETRY_S: Final = 0.5
_MOST_WANTED: Final = 10_000


class Kept(NamedTuple, Generic[T]):
    """A record, and the revision that whoever changes it must name."""

    record: T
    revision: int


class JobMirror(Generic[T]):
    """A copy of a bucket; `read` makes a record of a value, or None of one that cannot be read.

    `on_change` is told of each record that is new or has changed, and with None of a key that is deleted.
    """

    def __init__(
        self,
        store: JobStore,
        read: Callable[[bytes], T | None],
        *,
        looks_s: Sequence[float] = LOOKS_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._store = store
        self._read = read
        self._looks_s = looks_s
        self._retry_s = retry_s
        self._records: dict[str, Kept[T]] = {}
        self._seen = 0
        self._wanted: set[str] = set()
        self._again = self._whole = False
        self._reading: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self.on_change: Callable[[str, Kept[T] | None], None] = lambda _key, _kept: None

    def all(self) -> list[Kept[T]]:
        """Return all records, the longest known first."""
        return list(self._records.values())

    def get(self, key: str) -> Kept[T] | None:
        """Return the record of a key."""
        return self._records.get(key)

    # ---------------------------------------------------------------------------------------------------- life and end

    async def open(self, bus: Bus) -> None:
        """Follow the bucket from here on; raises LogError where it cannot be read."""
        self._subscription = await self._store.follow(bus, self._hint)
        await self._load()

    async def close(self) -> None:
        """Hear nothing more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def reload(self) -> None:
        """The connection is new: what was written meanwhile, nobody has told us."""
        self._whole = True
        self._hint("")

    async def correct(self, key: str) -> None:
        """Read one key anew, since the store has said that it is not as it is known here; raises LogUnavailable."""
        entry = await self._store.get(key)
        record = None if entry is None else self._read(entry.value)
        self._put(key, None if entry is None or record is None else Kept(record, entry.revision))

    # --------------------------------------------------------------------------------------------------------- reading

    def _hint(self, write: str) -> None:
        if write and len(self._wanted) < _MOST_WANTED:
            self._wanted.add(write)
        self._again = True
        if self._subscription is not None and self._reading is None:
            self._reading = asyncio.create_task(self._look(), name="unpod-job-mirror")

    async def _look(self) -> None:
        """Read on until everything is there that was told of, or does not come."""
        try:
            looks = 0
            while self._again or (self._wanted and looks < len(self._looks_s)):
                if self._again:
                    looks, self._again = 0, False
                await asyncio.sleep(self._looks_s[looks])
                looks += 1
                await self._read_on()
            self._wanted.clear()
        finally:
            self._reading = None

    async def _read_on(self) -> None:
        while True:
            try:
                if self._whole:
                    await self._load()
                else:
                    async for change in self._store.changes(self._seen):
                        self._take(change)
            except LogError as error:
                logger.info("the records of jobs cannot be read (%s): trying again", type(error).__name__)
                await asyncio.sleep(self._retry_s)
            else:
                return

    async def _load(self) -> None:
        """Read the whole bucket."""
        found: dict[str, Kept[T]] = {}
        newest = 0
        self._whole = False
        try:
            async for change in self._store.changes():
                newest = change.revision
                self._wanted.discard(change.id)
                record = None if change.value is None else self._read(change.value)
                if record is not None:
                    found[change.key] = Kept(record, change.revision)
            for key in [key for key, kept in self._records.items() if key not in found and kept.revision > newest]:
                await self.correct(key)  # the replica lags, or it is over, and its marker is gone as well
        except BaseException:
            self._whole = True
            raise
        self._seen = max(self._seen, newest)
        for key in [key for key, kept in self._records.items() if key not in found and kept.revision <= newest]:
            self._put(key, None)
        for key, kept in found.items():
            self._put(key, kept)

    def _take(self, change: Change) -> None:
        self._seen = change.revision
        self._wanted.discard(change.id)
        record = None if change.value is None else self._read(change.value)
        self._put(change.key, None if record is None else Kept(record, change.revision))

    def _put(self, key: str, kept: Kept[T] | None) -> None:
        known = self._records.pop(key, None)
        if known is not None and kept is not None and known.revision >= kept.revision:
            self._records[key] = known  # a replica that lags has answered
        elif kept is not None:
            self._records[key] = kept
            self.on_change(key, kept)
        elif known is not None:
            self.on_change(key, None)
