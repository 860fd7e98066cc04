"""A bridge's copy of the job records: what it knows, how soon, and what it does not believe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import cast

import pytest

from unpod.errors import Fenced, LogUnavailable
from unpod.jetstream import Change, JetStreamLog, JobStore, topology
from unpod.testing.broker import MemoryBroker
from unpod.testing.memory import MemoryLog
from unpod_bridge.jobs.mirror import JobMirror, Kept

JOBS = topology().jobs


class StoreLog(MemoryLog):
    """The log of the job store, in memory."""

    spec = JOBS

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        super().__init__(broker)
        self.broker.captured = JOBS.subjects[0]


class Replica(JobStore):
    """The store as one replica has it: it may lag for some reads, and counts what it has been asked for."""

    def __init__(self, log: StoreLog) -> None:
        super().__init__(cast("JetStreamLog", log))
        self.lags = 0
        self.reads: list[int] = []

    async def changes(self, after: int = 0) -> AsyncGenerator[Change, None]:
        self.reads.append(after)
        lags, self.lags = self.lags > 0, max(self.lags - 1, 0)
        found = [change async for change in super().changes(after)]
        found = found[: -1 if lags else None]
        newest = {change.key: change for change in found}
        for change in found:
            if newest[change.key] is change:
                yield change


def text(value: bytes) -> str | None:
    return None if value == b"nonsense" else value.decode()


class World:
    """A store, and one bridge's copy of it."""

    def __init__(self) -> None:
        self.log = StoreLog()
        self.store = Replica(self.log)
        self.theirs = JobStore(cast("JetStreamLog", StoreLog(self.log.broker)))
        self.mirror = JobMirror(self.store, text, looks_s=(0.0, 0.001, 0.002), retry_s=0.001)
        self.heard: list[tuple[str, str | None]] = []
        self.mirror.on_change = self._changed

    def _changed(self, key: str, kept: Kept[str] | None) -> None:
        self.heard.append((key, None if kept is None else kept.record))

    def known(self) -> dict[str, str | None]:
        return {key: kept.record for key in "abcd" if (kept := self.mirror.get(key)) is not None}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - timers of the code under test
                await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.store.create("a", b"1")
    await made.store.delete("b", await made.store.create("b", b"1"))
    await made.store.create("c", b"nonsense")
    await made.mirror.open(made.log)
    yield made
    await made.mirror.close()


async def test_what_is_there_and_what_comes(world: World) -> None:
    assert world.known() == {"a": "1"}
    revision = await world.store.create("d", b"1")
    await world.until(lambda: world.mirror.get("d") == Kept("1", revision))
    revision = await world.store.update("d", b"2", revision)
    await world.until(lambda: world.mirror.get("d") == Kept("2", revision))
    await world.store.delete("d", revision)
    await world.until(lambda: world.known() == {"a": "1"})
    assert world.heard == [("a", "1"), ("d", "1"), ("d", "2"), ("d", None)]


async def test_what_is_read_is_what_is_new(world: World) -> None:
    revision = 0
    for number in range(20):
        revision = await world.store.create(f"job-{number}", b"1")
        await world.until(lambda: len(world.mirror.all()) > number + 1)  # noqa: B023 - it is called in this turn
    assert world.store.reads.count(0) == 1
    assert world.store.reads[-1] >= revision - 1


async def test_a_write_that_is_refused_changes_nothing(world: World) -> None:
    with pytest.raises(Fenced):
        await world.store.update("a", b"2", 77)
    await world.until(lambda: len(world.store.reads) > 1 and not world.mirror._reading)
    assert world.known() == {"a": "1"}
    assert len(world.store.reads) <= 6  # it is not looked for for ever


async def test_a_replica_that_lags_is_asked_again(world: World) -> None:
    world.store.lags = 2
    await world.store.create("d", b"1")
    await world.until(lambda: world.mirror.get("d"))


async def test_a_store_that_is_away_leaves_what_is_known(world: World) -> None:
    world.log.available = False
    world.mirror.reload()
    await world.until(lambda: len(world.store.reads) > 2)
    assert world.known() == {"a": "1"}
    world.log.available = True
    await world.store.create("d", b"1")
    await world.until(lambda: world.mirror.get("d"))


async def test_after_a_lost_connection_all_is_read_again(world: World) -> None:
    world.log.broker.drop("$KV.>", 3)
    await world.theirs.delete("a", 1)
    revision = await world.theirs.create("b", b"2")
    await world.theirs.update("b", b"3", revision)
    assert world.known() == {"a": "1"}
    world.mirror.reload()
    await world.until(lambda: world.known() == {"b": "3"})
    assert world.heard[-2:] == [("a", None), ("b", "3")]


async def test_what_is_over_is_forgotten_though_its_marker_is_gone(world: World) -> None:
    revision = await world.theirs.create("d", b"1")
    await world.until(lambda: world.mirror.get("d"))
    broker = world.log.broker
    del broker._newest[broker.records[revision - 1].subject], broker.records[revision - 1 :]  # the newest of all
    world.mirror.reload()
    await world.until(lambda: world.known() == {"a": "1"})


async def test_what_we_know_is_not_taken_back_by_a_replica_that_lags(world: World) -> None:
    revision = await world.theirs.create("d", b"1")
    await world.until(lambda: world.mirror.get("d"))
    await world.theirs.update("d", b"2", revision)
    await world.until(lambda: world.known()["d"] == "2")
    world.store.lags = 1
    world.mirror.reload()
    await world.until(lambda: not world.mirror._reading)
    assert world.known() == {"a": "1", "d": "2"}


async def test_what_the_store_contradicts_is_read_anew(world: World) -> None:
    world.log.broker.drop("$KV.>", 2)
    await world.theirs.delete("a", 1)
    await world.mirror.correct("a")
    await world.theirs.create("d", b"1")
    await world.mirror.correct("d")
    assert world.known() == {"d": "1"}


async def test_a_store_that_cannot_be_read_at_the_start_is_not_an_empty_one() -> None:
    world = World()
    await world.mirror._store.create("a", b"1")
    failing = Failing(world.log)
    mirror = JobMirror(failing, text)
    with pytest.raises(LogUnavailable):
        await mirror.open(world.log)
    await mirror.close()


class Failing(Replica):
    """A store that cannot be read."""

    async def changes(self, after: int = 0) -> AsyncGenerator[Change, None]:
        async for change in super().changes(after):
            yield change
            raise LogUnavailable("away")
