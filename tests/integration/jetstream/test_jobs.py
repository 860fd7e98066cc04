"""The bridges' job records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from unpod.errors import Fenced, ProtocolViolation, UnsafeIdentifier
from unpod.jetstream import Entry, JobStore, open_jobs, topology
from unpod.jetstream.topology import MIB

if TYPE_CHECKING:
    from unpod.jetstream import EmbeddedServer, Nats


@pytest.fixture
async def jobs(nats: Nats) -> JobStore:
    return await open_jobs(nats, topology(max_bytes=64 * MIB).jobs)


async def test_a_job_is_created_once(jobs: JobStore) -> None:
    revision = await jobs.create("job-1", b"a")
    assert await jobs.get("job-1") == Entry("job-1", b"a", revision)
    with pytest.raises(Fenced, match="exists"):
        await jobs.create("job-1", b"b")
    assert await jobs.get("job-2") is None


async def test_one_of_many_creates_it(jobs: JobStore) -> None:
    results = await asyncio.gather(*(jobs.create("job", b"%d" % n) for n in range(8)), return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Fenced) for result in results) == 7


async def test_an_update_names_what_it_replaces(jobs: JobStore) -> None:
    first = await jobs.create("job", b"1")
    second = await jobs.update("job", b"2", first)
    with pytest.raises(Fenced):
        await jobs.update("job", b"3", first)
    with pytest.raises(Fenced):
        await jobs.delete("job", first)
    assert await jobs.get("job") == Entry("job", b"2", second)


async def test_a_deleted_job_can_be_created_again(jobs: JobStore) -> None:
    for _ in range(3):
        revision = await jobs.create("job", b"1")
        await jobs.delete("job", revision)
        assert await jobs.get("job") is None
        assert await jobs.keys() == []
        with pytest.raises(Fenced):
            await jobs.update("job", b"2", revision)


async def test_any_text_is_a_key(jobs: JobStore) -> None:
    keys = ["a", "a.b", "*", ">", "a b", "ä🙂", "x\r\ny", "\x00", "=2A", "k" * 2_000, "k" * 1_999 + "j", "a/b"]
    for number, key in enumerate(keys):
        await jobs.create(key, b"%d" % number)
    assert await jobs.keys() == keys
    for number, key in enumerate(keys):
        entry = await jobs.get(key)
        assert entry is not None
        assert (entry.key, entry.value) == (key, b"%d" % number)


async def test_keys_that_cannot_be(jobs: JobStore) -> None:
    with pytest.raises(UnsafeIdentifier):
        await jobs.create("", b"")
    with pytest.raises(ProtocolViolation):
        await jobs.create("k" * 2_001, b"")


async def test_jobs_survive_the_server(embedded: EmbeddedServer, jobs: JobStore) -> None:
    await jobs.create("job", b"1")
    await embedded.kill()
    assert await jobs.keys() == ["job"]
