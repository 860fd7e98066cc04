"""A record whose write was not answered: whose is the job?"""

from __future__ import annotations

import pytest

from unpod.errors import Fenced, LogUnavailable
from unpod.jetstream import Entry, JobStore
from unpod_bridge.job_records import TRIES, JobRecord, Kept, Records


class Store(JobStore):
    """A store in memory; the next `silent` writes are not answered, and stored or not."""

    def __init__(self, value: bytes) -> None:
        self.entry = Entry("job-1", value, 1)
        self.silent = 0
        self.stores = True
        self.writes = 0

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self.writes += 1
        if revision != self.entry.revision:
            raise Fenced("changed")
        silent, self.silent = self.silent > 0, max(self.silent - 1, 0)
        if not silent or self.stores:
            self.entry = Entry(key, value, revision + 1)
        if silent:
            raise LogUnavailable("no answer")
        return self.entry.revision

    async def get(self, key: str) -> Entry | None:
        assert key == "job-1"
        return self.entry


RECORD = JobRecord(job="job-1", agent="a", worker="a#1", bridge="dead", call="c", bridge_url="ws://w", token="t")


@pytest.mark.parametrize("stored", [True, False])
async def test_a_write_that_was_not_answered_is_ours_all_the_same(*, stored: bool) -> None:
    store = Store(b"{}")
    store.silent, store.stores = 1, stored
    claim = await Records(store, "bridge-1", lambda _: False).take(Kept(RECORD, 1))
    assert claim is not None
    assert b'"bridge-1"' in store.entry.value
    await claim.release()  # the claim knows its revision
    await claim.leave()
    assert b'"left"' in store.entry.value


async def test_somebody_who_was_quicker_has_it() -> None:
    store = Store(b"another's")
    assert await Records(store, "bridge-1", lambda _: False).take(Kept(RECORD, 0)) is None
    store.silent, store.stores = 1, False
    taken = Records(store, "bridge-1", lambda _: False)
    original = store.update

    async def update(key: str, value: bytes, revision: int) -> int:
        store.update = original  # type: ignore[method-assign]
        store.entry = Entry(key, b"another's", 2)
        raise LogUnavailable("no answer")

    store.update = update  # type: ignore[method-assign]
    assert await taken.take(Kept(RECORD, 1)) is None


async def test_a_store_that_stays_silent_is_given_up() -> None:
    store = Store(b"{}")
    store.silent, store.stores = TRIES, False
    with pytest.raises(LogUnavailable):
        await Records(store, "bridge-1", lambda _: False).take(Kept(RECORD, 1))
    assert store.writes == TRIES
