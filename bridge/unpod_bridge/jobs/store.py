"""The records of jobs: what another bridge needs to dial a call again when this one has died.

A record holds the call's token, so runners may not read the store. It is made before the call is dialled, and deleted
when the call is over. Every write is a compare-and-set, and one without an answer is tried again until the store has
said what became of it. What is looked up is looked up in this bridge's own copy of all records.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from secrets import token_hex
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from unpod.core.codec import MALFORMED
from unpod.errors import Fenced, LogError, LogFull, LogUnavailable
from unpod.jetstream import Entry, JobStore
from unpod.ports import Bus
from unpod_bridge.jobs.mirror import JobMirror
from unpod_bridge.jobs.mirror import Kept as _Kept
from unpod_bridge.wire.job import Job

logger = logging.getLogger("unpod.bridge")

T = TypeVar("T")

PAUSE_S: Final = 0.2
"""How long after an answer that settles nothing a record is written again."""
DIALS_S: Final = 0.5
"""How long a bridge that lives has to begin a call, once another is asked for it."""
MOST_WAITING: Final = 1_000
"""For how many claims the store may owe an answer: each is asked about until there is one."""


class JobRecord(Struct, frozen=True, kw_only=True):
    """One job as the store has it, by its id."""

    job: Job
    bridge: str
    home: str
    """The bridge that has registered the worker, whoever has the job now."""
    state: Literal["dialing", "up", "released", "left"] = "dialing"
    """`released`: another bridge may ask for the call; `left`: its bridge has let go of it, with all of it stored."""
    session: str = ""
    claim: str = ""
    """Which claim has written it: what one has left behind is never taken for another's."""

    def __repr__(self) -> str:
        return f"JobRecord({self.job!r}, bridge={self.bridge!r}, state={self.state!r})"


Kept = _Kept[JobRecord]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobRecord).decode


class RetryingStore:
    """The job store, asked until it has said what became of a record; `pause_s` after what settles nothing."""

    def __init__(self, store: JobStore, pause_s: float) -> None:
        self._store = store
        self.pause_s = pause_s

    async def get(self, job_id: str) -> Entry | None:
        """Return the record, or None."""
        return await self._answered(lambda: self._store.get(job_id))

    async def create(self, record: JobRecord) -> int:
        """Store a new record and return its revision; raises Fenced where there is one, LogError where it cannot be."""
        job_id, value, unanswered = record.job.job_id, _encode(record), False

        async def create() -> int:
            nonlocal unanswered
            try:
                return await self._store.create(job_id, value)
            except LogUnavailable:
                unanswered = True
                raise
            except Fenced:
                return await self._ours(job_id, value, 0, unanswered=unanswered)

        return await self._answered(create)

    async def update(self, record: JobRecord, revision: int) -> int:
        """Replace the record of `revision` and return the new one's; raises Fenced, LogError where it cannot be."""
        job_id, value, unanswered = record.job.job_id, _encode(record), False

        async def update() -> int:
            nonlocal unanswered
            try:
                return await self._store.update(job_id, value, revision)
            except LogFull as error:
                raise LogUnavailable(str(error)) from None  # there will be room again
            except LogUnavailable:
                unanswered = True
                raise
            except Fenced:
                return await self._ours(job_id, value, revision, unanswered=unanswered)

        return await self._answered(update)

    async def delete(self, record: JobRecord, revision: int) -> None:
        """Delete the record of `revision`; raises Fenced, LogError where it cannot be."""

        async def delete() -> None:
            try:
                await self._store.delete(record.job.job_id, revision)
            except LogFull as error:
                raise LogUnavailable(str(error)) from None

        await self._answered(delete)

    async def _answered(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return what the store says, however long it says nothing."""
        log = logger.warning
        while True:
            try:
                return await work()
            except LogUnavailable as error:
                log("the job store takes no record: %s; trying again", error)
            log = logger.debug
            await asyncio.sleep(self.pause_s)

    async def _ours(self, job_id: str, value: bytes, revision: int, *, unanswered: bool) -> int:
        """Return the revision of what we have written unanswered; raises Fenced where it is not ours that stands.

        A replica that lags may answer, with what was before: it is asked again.
        """
        entry = await self._store.get(job_id) if unanswered else None
        if entry is not None and entry.value == value:
            return entry.revision
        if entry is not None and entry.revision <= revision:
            raise LogUnavailable("a replica lags")
        raise Fenced(f"another bridge has the job {job_id!r}")


class Claim:
    """This bridge's record of one job: what is to be written waits for what was, and for the store's answer.

    `inherited`: another bridge was about to begin the call, and may have left something of it.
    """

    def __init__(self, store: RetryingStore, record: JobRecord, revision: int, *, inherited: bool = False) -> None:
        self._store = store
        self._record = record
        self._revision = revision
        self.inherited = inherited
        self._writing = asyncio.Lock()

    async def begun(self, session_id: str) -> None:
        """The call is up; raises Fenced where another bridge has the job."""
        record = msgspec.structs.replace(self._record, state="up", session=session_id)
        async with self._writing:
            try:
                await self._change(record)
            except Fenced:  # another had the job, and has given it up
                await self._change(record, new=True)

    async def _change(self, record: JobRecord, *, new: bool = False) -> None:
        store, revision = self._store, self._revision
        try:
            self._revision = await (store.create(record) if new else store.update(record, revision))
        except Fenced:
            raise
        except LogError as error:
            logger.warning("the record of a job cannot be updated: %s", type(error).__name__)
        else:
            self._record = record

    async def release(self) -> None:
        """Let another bridge have the call, which stays here until one has taken the record."""
        async with self._writing:
            if self._record.state == "up":
                await self._offer("released")

    async def leave(self) -> None:
        """The call is let go of: whoever comes goes on with it."""
        async with self._writing:
            await self._offer("left")

    async def _offer(self, state: Literal["released", "left"]) -> None:
        try:
            await self._change(msgspec.structs.replace(self._record, state=state))
        except Fenced:
            logger.debug("the record of a job is another bridge's already")

    async def drop(self) -> None:
        """The job is over."""
        async with self._writing:
            try:
                await self._store.delete(self._record, self._revision)
            except Fenced:
                logger.debug("the record of a job is another bridge's now")
            except LogError as error:
                logger.warning("the record of a job cannot be deleted: %s", type(error).__name__)


class JobRecords:
    """The job store as one bridge uses it; `alive` tells whether another bridge is."""

    def __init__(
        self,
        store: JobStore,
        bridge_id: str,
        alive: Callable[[str], bool],
        *,
        most_waiting: int = MOST_WAITING,
        dials_s: float = DIALS_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._store = RetryingStore(store, pause_s)
        self._dials_s = dials_s
        self._most_waiting = most_waiting
        self._mirror = JobMirror(store, _read)
        self._bridge_id = bridge_id
        self._alive = alive
        self._tasks: set[asyncio.Task[object]] = set()

    # ---------------------------------------------------------------------------------------------------- what there is

    async def open(self, bus: Bus) -> None:
        """Know all records from here on; raises LogError where they cannot be read."""
        await self._mirror.open(bus)

    def on_change(self, listener: Callable[[str, Kept | None], None]) -> None:
        """Tell `listener` of each record that is new or has changed, and with None of a job that is over."""
        self._mirror.on_change = listener

    def reload(self) -> None:
        """The connection is new: read all of them again."""
        self._mirror.reload()

    async def close(self) -> None:
        """Hear nothing more, and leave what is not answered."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._mirror.close()

    def all(self) -> list[Kept]:
        """Return the records of all jobs, as far as they have come here."""
        return self._mirror.all()

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job's record, if there is one."""
        kept = self._mirror.get(job_id)
        return None if kept is None else kept.record

    def elsewhere(self, job_id: str) -> bool:
        """Return whether the job's call is known to live at another bridge."""
        record = self.get(job_id)
        return record is not None and self._is_elsewhere(record)

    # ------------------------------------------------------------------------------------------------ what becomes ours

    async def claim(self, job: Job) -> Claim | None:
        """Store that a job is ours; None where the job's call lives at another bridge; raises LogError.

        Whoever waits for it may give up: a claim that is stored after that is taken back.
        """
        patient_until = asyncio.get_running_loop().time() + self._dials_s
        record = JobRecord(job=job, bridge=self._bridge_id, home=self._bridge_id, claim=token_hex(8))
        while True:
            with suppress(Fenced):
                return await self._settled(self._create(record))
            entry = await self._store.get(job.job_id)
            if entry is None:  # it was deleted in between
                continue
            former = _read(entry.value)
            if former is None:
                logger.warning("a record of a job is replaced")
            elif self._is_elsewhere(former):
                return None
            elif self._may_begin(former) and asyncio.get_running_loop().time() < patient_until:
                await asyncio.sleep(self._store.pause_s)
                continue
            with suppress(Fenced):
                return await self._settled(self._replace(record, former, entry.revision))

    async def _create(self, record: JobRecord) -> Claim:
        return Claim(self._store, record, await self._store.create(record))

    async def _replace(self, record: JobRecord, former: JobRecord | None, revision: int) -> Claim:
        inherited = former is not None and former.bridge != self._bridge_id
        return Claim(self._store, record, await self._store.update(record, revision), inherited=inherited)

    async def _settled(self, claiming: Coroutine[object, object, Claim]) -> Claim:
        """Return the claim; one that nobody waits for any more is taken back, once the store has said that it is."""
        if len(self._tasks) >= self._most_waiting:
            claiming.close()
            raise LogUnavailable("the job store owes too many answers")
        task = self._spawn(claiming)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            _ = self._spawn(_take_back(task))
            raise

    async def take(self, kept: Kept) -> Claim | None:
        """Make another bridge's job ours; None where somebody else was quicker, or it is over; raises LogError.

        It takes until the store has said whose the job is.
        """
        state: Literal["up", "dialing"] = "up" if kept.record.session else "dialing"
        record = msgspec.structs.replace(kept.record, bridge=self._bridge_id, state=state, claim=token_hex(8))
        try:
            return Claim(self._store, record, await self._store.update(record, kept.revision))
        except Fenced:
            with suppress(LogError):  # it is read again sooner or later
                await self._mirror.correct(record.job.job_id)
            return None

    def _is_elsewhere(self, record: JobRecord) -> bool:
        # A call that is up is taken over if its bridge is gone, and must not be begun anew. One that is not up may
        # never come up though its bridge lives: that bridge may not even know that its record was stored.
        return record.bridge != self._bridge_id and bool(record.session)

    def _may_begin(self, record: JobRecord) -> bool:
        return record.bridge != self._bridge_id and self._alive(record.bridge)

    def _spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="unpod-record")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _take_back(claiming: asyncio.Task[Claim]) -> None:
    try:
        claim = await claiming
    except LogError as error:
        logger.debug("a job that is wanted no more was not stored: %s", type(error).__name__)
    else:
        await claim.drop()


def _read(value: bytes) -> JobRecord | None:
    try:
        return _decode(value)
    except MALFORMED:
        logger.warning("a record of a job cannot be read")
        return None
