"""A record whose write was not answered: whose is the job, and what becomes of it?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from unpod.errors import Fenced, LogFull, LogUnavailable, RecordTooLarge
from unpod.jetstream import Entry, JobStore
from unpod_bridge.jobs.store import Claim, JobRecord, JobRecords, Kept
from unpod_bridge.wire.job import Job


class Store(JobStore):
    """A store of one record in memory; the next `silent` writes are not answered, and stored or not."""

    def __init__(self, value: bytes | None = None) -> None:
        self.entry = None if value is None else Entry("job-1", value, 1)
        self.last = 1
        self.silent = 0
        self.stores = True
        self.writes = 0
        self.refuses: Exception | None = None

    def _revision(self) -> int:
        return 0 if self.entry is None else self.entry.revision

    def _write(self, value: bytes | None, revision: int) -> int:  # type: ignore[override]
        self.writes += 1
        if self.refuses is not None:
            raise self.refuses
        if revision != self._revision():
            raise Fenced("changed")
        silent, self.silent = self.silent > 0, max(self.silent - 1, 0)
        if not silent or self.stores:
            self.last += 1
            self.entry = None if value is None else Entry("job-1", value, self.last)
        if silent:
            raise LogUnavailable("no answer")
        return self.last

    async def create(self, key: str, value: bytes) -> int:
        assert key == "job-1"
        return self._write(value, 0)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        assert key == "job-1"
        return self._write(value, revision)

    async def delete(self, key: str, revision: int) -> None:
        assert key == "job-1"
        self._write(None, revision)

    async def get(self, key: str) -> Entry | None:
        assert key == "job-1"
        return self.entry

    def field(self, name: str) -> object:
        assert self.entry is not None
        return json.loads(self.entry.value)[name]


JOB = Job("job-1", "c", "a", "ws://w", "t", worker_id="a#1")
RECORD = JobRecord(job=JOB, bridge="dead", home="dead")


def records(store: Store) -> JobRecords:
    return JobRecords(store, "bridge-1", lambda _: False, pause_s=0.001)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_write_that_was_not_answered_is_ours_all_the_same(*, stored: bool) -> None:
    store = Store(b"{}")
    store.silent, store.stores = 1, stored
    claim = await records(store).take(Kept(RECORD, 1))
    assert claim is not None
    assert store.field("bridge") == "bridge-1"
    await claim.release()  # the claim knows its revision
    await claim.leave()
    assert store.field("state") == "left"


async def _begin(claim: Claim) -> None:
    await claim.begun("session-1")


async def _release(claim: Claim) -> None:
    await _begin(claim)
    await claim.release()


async def _leave(claim: Claim) -> None:
    await _begin(claim)
    await claim.leave()


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("write", [_begin, _release, _leave])
async def test_whatever_is_not_answered_is_no_other_bridges(
    write: Callable[[Claim], Awaitable[None]], *, stored: bool
) -> None:
    store = Store()
    claim = await records(store).claim(JOB)
    assert claim is not None
    store.silent, store.stores = 3, stored
    await write(claim)
    assert store.field("session") == "session-1"
    store.silent, store.stores = 2, stored
    await claim.drop()
    assert store.entry is None


async def test_another_bridge_is_found_out_all_the_same() -> None:
    store = Store()
    claim = await records(store).claim(JOB)
    assert claim is not None
    store.silent, store.stores = 1, False
    store.entry = Entry("job-1", b"another's", 7)
    with pytest.raises(Fenced):
        await claim.begun("session-1")
    await claim.release()
    await claim.leave()
    await claim.drop()
    assert store.entry == Entry("job-1", b"another's", 7)


async def test_what_is_over_is_dropped_after_what_is_still_being_written() -> None:
    store = Store()
    claim = await records(store).claim(JOB)
    assert claim is not None
    store.silent, store.stores = 20, False
    await asyncio.gather(claim.begun("session-1"), claim.release(), claim.drop())
    assert store.entry is None


async def test_a_full_store_is_waited_for_by_jobs_that_are_there_and_refuses_new_ones() -> None:
    store = Store()
    claim = await records(store).claim(JOB)
    assert claim is not None
    store.refuses = LogFull("full")
    begun = asyncio.create_task(claim.begun("session-1"))
    while store.writes < 5:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)
    store.refuses = None
    await begun
    assert store.field("state") == "up"
    empty = Store()
    empty.refuses = LogFull("full")
    with pytest.raises(LogFull):
        await records(empty).claim(JOB)
    assert empty.writes == 1


async def test_what_can_never_be_written_is_told_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    claim = await records(store).claim(JOB)
    assert claim is not None
    store.refuses = RecordTooLarge(2, 1)
    await claim.begun("session-1")
    await claim.drop()
    assert "cannot be updated" in caplog.text
    assert "cannot be deleted" in caplog.text


async def test_a_claim_that_nobody_waits_for_any_more_is_taken_back() -> None:
    store = Store()
    store.silent, store.stores = 5, True  # it is stored at once, and we do not know
    made = records(store)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await made.claim(JOB)
    async with asyncio.timeout(5):
        while made._tasks:
            await asyncio.wait(set(made._tasks))
    assert store.writes >= 2
    assert store.entry is None


async def test_what_is_taken_back_is_not_what_has_been_claimed_meanwhile() -> None:
    store = Store()
    store.silent, store.stores = 1, True
    made = records(store)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await made.claim(JOB)  # the job comes again, to the same bridge
    assert await made.claim(JOB) is not None
    async with asyncio.timeout(5):
        while made._tasks:
            await asyncio.wait(set(made._tasks))
    assert store.entry is not None


async def test_a_store_that_stays_away_does_not_gather_claims_without_end() -> None:
    store = Store()
    store.refuses = LogUnavailable("no answer")
    ours = JobRecords(store, "bridge-1", lambda _: False, most_waiting=2, pause_s=0.001)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ours.claim(JOB)
    with pytest.raises(LogUnavailable, match="too many answers"):
        await ours.claim(JOB)
    store.refuses = None
    async with asyncio.timeout(5):
        while ours._tasks:  # noqa: ASYNC110 - what was asked is answered, and taken back
            await asyncio.sleep(0.001)
    assert await ours.claim(JOB) is not None


async def test_somebody_who_was_quicker_has_it() -> None:
    store = Store(b"another's")
    assert await records(store).take(Kept(RECORD, 0)) is None
    store.silent, store.stores = 1, False
    taken = records(store)
    original = store.update

    async def update(key: str, value: bytes, revision: int) -> int:
        store.update = original  # type: ignore[method-assign]
        store.entry = Entry(key, b"another's", 2)
        raise LogUnavailable("no answer")

    store.update = update  # type: ignore[method-assign]
    assert await taken.take(Kept(RECORD, 1)) is None


async def test_a_replica_that_lags_does_not_decide_whose_it_is() -> None:
    store = Store(b"{}")
    store.silent, store.stores = 1, True
    lagging = [Entry("job-1", b"{}", 1), Entry("job-1", b"{}", 1)]
    original = store.get

    async def get(key: str) -> Entry | None:
        return lagging.pop() if lagging else await original(key)

    store.get = get  # type: ignore[method-assign]
    assert await records(store).take(Kept(RECORD, 1)) is not None
    assert not lagging


async def test_a_store_that_stays_silent_is_asked_until_it_has_said() -> None:
    store = Store(b"{}")
    store.silent, store.stores = 20, False
    assert await records(store).take(Kept(RECORD, 1)) is not None
    assert store.writes == 21
