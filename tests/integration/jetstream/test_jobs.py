"""The bridges' job records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from unpod.errors import Fenced, ProtocolViolation, UnsafeIdentifier
from unpod.jetstream import Entry, JobStore, StreamSettings, connect, differences, open_jobs, topology
from unpod.jetstream.streams.api import call
from unpod.jetstream.streams.topology import MIB

if TYPE_CHECKING:
    from unpod.jetstream import Nats
    from unpod.processes import EmbeddedServer


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


async def test_a_finished_job_leaves_nothing(nats: Nats) -> None:
    spec = topology(max_bytes=64 * MIB).jobs
    jobs = await open_jobs(nats, spec, marker_s=1)
    revisions = [await jobs.create(f"job-{number}", b"1") for number in range(50)]
    for number, revision in enumerate(revisions):
        await jobs.delete(f"job-{number}", revision)
    last = [change async for change in jobs.changes(revisions[-1])]
    assert {(change.key, change.value) for change in last} == {(f"job-{number}", None) for number in range(50)}
    async with asyncio.timeout(10):
        while (await call(nats, f"STREAM.INFO.{spec.name}"))["state"]["messages"]:  # noqa: ASYNC110 - the server's
            await asyncio.sleep(0.1)
    with pytest.raises(Fenced):
        await jobs.update("job-1", b"2", revisions[1])
    await jobs.create("job-1", b"3")
    assert await jobs.keys() == ["job-1"]


async def test_a_bucket_that_does_not_let_markers_go_is_read_and_told(nats: Nats) -> None:
    spec = topology(max_bytes=64 * MIB).jobs
    former = await open_jobs(nats, replace(spec, expires=False))
    assert not former.expires
    for key in ("a", "b"):
        await former.delete(key, await former.create(key, b"1"))
    (difference,) = await differences(nats, StreamSettings(), spec)
    assert difference.fix == f"nats stream edit {spec.name} --allow-msg-ttl"
    await call(nats, f"STREAM.UPDATE.{spec.name}", spec.config())  # what that command does
    jobs = await open_jobs(nats, spec)
    assert jobs.expires
    assert [(change.key, change.value) async for change in jobs.changes()] == [("a", None), ("b", None)]


@pytest.mark.parametrize("ours", [True, False])
async def test_each_write_is_told_and_found(
    embedded: EmbeddedServer, nats: Nats, jobs: JobStore, *, ours: bool
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with connect(embedded.connection("other")) as other:
        theirs = jobs if ours else await open_jobs(other, topology(max_bytes=64 * MIB).jobs)
        subscription = await jobs.follow(nats, told.put_nowait)
        revision = await theirs.create("job", b"1")
        with pytest.raises(Fenced):
            await theirs.update("job", b"2", revision + 1)
    hints = [await told.get(), await told.get()]
    (change,) = [change async for change in jobs.changes()]
    assert (change.key, change.value, change.revision, change.id) == ("job", b"1", revision, hints[0])
    assert not [change async for change in jobs.changes(revision)]
    await subscription.close()


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
