"""The records of jobs: what another bridge needs to dial a call again when this one has died.

A record holds the call's token, so runners may not read the store. It is made before the call is dialled, and deleted
when the call is over. Every write is a compare-and-set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from unpod.core.codec import MALFORMED
from unpod.errors import Fenced, LogError, LogUnavailable
from unpod.jetstream import Entry, JobStore

logger = logging.getLogger("unpod.bridge")


TRIES = 6
"""How often a record is written that is not answered; each waits as long as the store does."""


class JobRecord(Struct, frozen=True, kw_only=True):
    """One job as the store has it."""

    job: str
    agent: str
    dev: bool = False
    worker: str
    bridge: str
    home: str = ""
    """The bridge that has registered the worker, whoever has the job now."""
    call: str
    bridge_url: str
    token: str
    state: Literal["dialing", "up", "released", "left"] = "dialing"
    """`released`: another bridge may ask for the call; `left`: its bridge has let go of it, with all of it stored."""
    session: str = ""

    def __repr__(self) -> str:
        return f"JobRecord(job={self.job!r}, bridge={self.bridge!r}, state={self.state!r})"


class Kept(NamedTuple):
    """A record, and the revision that whoever changes it must name."""

    record: JobRecord
    revision: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobRecord).decode


class Claim:
    """This bridge's record of one job; the last write counts, and errors only cost another bridge its knowledge."""

    def __init__(self, store: JobStore, record: JobRecord, revision: int) -> None:
        self._store = store
        self._record = record
        self._revision = revision

    async def begun(self, session_id: str) -> None:
        """The call is up; raises Fenced where another bridge has the job."""
        await self._change(msgspec.structs.replace(self._record, state="up", session=session_id))

    async def _change(self, record: JobRecord) -> None:
        try:
            self._revision = await self._store.update(record.job, _encode(record), self._revision)
        except Fenced:
            raise
        except LogError as error:
            logger.warning("the record of a job could not be updated: %s", type(error).__name__)
        else:
            self._record = record

    async def release(self) -> None:
        """Let another bridge have the call, which stays here until one has taken the record."""
        if self._record.state == "up":
            try:
                await self._change(msgspec.structs.replace(self._record, state="released"))
            except Fenced:
                logger.debug("the record of a job is another bridge's already")

    async def leave(self) -> None:
        """The call is let go of: whoever comes goes on with it."""
        try:
            await self._change(msgspec.structs.replace(self._record, state="left"))
        except Fenced:
            logger.debug("the record of a job is another bridge's already")

    async def drop(self) -> None:
        """The job is over."""
        try:
            await self._store.delete(self._record.job, self._revision)
        except Fenced:
            logger.debug("the record of a job is another bridge's now")
        except LogError as error:
            logger.warning("the record of a job could not be deleted: %s", type(error).__name__)


class Records:
    """The job store as one bridge uses it; `alive` tells whether another bridge is."""

    def __init__(self, store: JobStore, bridge_id: str, alive: Callable[[str], bool]) -> None:
        self._store = store
        self._bridge_id = bridge_id
        self._alive = alive

    async def elsewhere(self, job_id: str) -> bool:
        """Return whether the job's call is known to live at another bridge."""
        try:
            entry = await self._store.get(job_id)
        except LogError as error:
            logger.debug("the record of a job cannot be read: %s", type(error).__name__)
            return False
        return entry is not None and self._is_elsewhere(entry)

    async def claim(self, record: JobRecord) -> Claim | None:
        """Store the record; None where the job's call lives at another bridge; raises LogError."""
        value = _encode(record)
        try:
            return Claim(self._store, record, await self._store.create(record.job, value))
        except Fenced:
            entry = await self._store.get(record.job)
        if entry is None:  # it was deleted in between
            return Claim(self._store, record, await self._store.create(record.job, value))
        if self._is_elsewhere(entry):
            return None
        return Claim(self._store, record, await self._store.update(record.job, value, entry.revision))

    async def all(self) -> list[Kept]:
        """Return the records of all jobs, the longest unchanged first; raises LogUnavailable."""
        found: dict[str, Kept] = {}
        async for entry in self._store.entries():
            record = _read(entry)
            if record is not None:
                found[entry.key] = Kept(record, entry.revision)  # the newest counts, should there be two
        return list(found.values())

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job's record, if there is one; raises LogUnavailable."""
        entry = await self._store.get(job_id)
        return None if entry is None else _read(entry)

    async def take(self, kept: Kept) -> Claim | None:
        """Make another bridge's job ours; None where somebody else was quicker, or it is over; raises LogError.

        A write without an answer may be stored: it is tried again, until the store has said whose the job is.
        """
        state = "up" if kept.record.session else "dialing"
        record = msgspec.structs.replace(kept.record, bridge=self._bridge_id, state=state)
        value, unanswered = _encode(record), 0
        while True:
            try:
                return Claim(self._store, record, await self._store.update(record.job, value, kept.revision))
            except Fenced:
                entry = await self._store.get(record.job) if unanswered else None
                ours = entry is not None and entry.value == value
                return Claim(self._store, record, entry.revision) if entry is not None and ours else None
            except LogUnavailable:
                unanswered += 1
                if unanswered >= TRIES:
                    raise

    def _is_elsewhere(self, entry: Entry) -> bool:
        record = _read(entry)
        if record is None:
            logger.warning("a record of a job is replaced")
            return False
        # The call of a bridge that is gone goes on at the one that takes it over: nobody may begin it anew.
        return record.bridge != self._bridge_id and (bool(record.session) or self._alive(record.bridge))


def _read(entry: Entry) -> JobRecord | None:
    try:
        return _decode(entry.value)
    except MALFORMED:
        logger.warning("a record of a job cannot be read")
        return None
