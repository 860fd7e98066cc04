"""Bridges among themselves: who is gone, who takes whose calls, and how calls are handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest

from unpod.core.dispatch_messages import BridgeAlive, BridgeAnnounced, encode
from unpod.core.subjects import Subjects
from unpod.errors import LogUnavailable
from unpod.jetstream import JobStore, topology
from unpod.testing.broker import MemoryBroker
from unpod.testing.memory import MemoryLog
from unpod_bridge.fleet.bridges import MISSED_S, SILENT_S, Bridges
from unpod_bridge.jobs.orphans import ASK_TIMEOUT_S, CALL_OFF_S, Orphan, Orphans
from unpod_bridge.jobs.store import Claim, JobRecords
from unpod_bridge.protocol.recovered_log import NEVER
from unpod_bridge.wire.job import Job

if TYPE_CHECKING:
    from unpod.jetstream import JetStreamLog

SUBJECTS = Subjects()
JOBS = topology().jobs


class StoreLog(MemoryLog):
    """The log of the job store, in memory."""

    spec = JOBS

    def __init__(self) -> None:
        broker = MemoryBroker()
        broker.captured = JOBS.subjects[0]
        super().__init__(broker)


class Street:
    """A NATS, a job store, and the bridges on it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.store = StoreLog()
        self.last_seq = 100

    async def known(self, bridge: str) -> JobRecords:
        """What a bridge knows of the records now."""
        records = self.records(bridge)
        await records.open(self.store)
        await records.close()
        return records

    def records(self, bridge: str, other_bridges: Bridges | None = None) -> JobRecords:
        def alive(other: str) -> bool:
            return other_bridges is None or other_bridges.alive(other, asyncio.get_running_loop().time())

        return JobRecords(JobStore(cast("JetStreamLog", self.store)), bridge, alive)

    async def job(self, name: str, bridge: str, *, state: str = "up") -> None:
        """A bridge has a job."""
        job = Job(name, "call", "agent", "ws://w", "hush", worker_id=f"agent#{bridge}")
        claim = await self.records(bridge).claim(job)
        assert claim is not None
        await claim.begun(f"session-{name}")
        if state == "released":
            await claim.release()
        elif state == "left":
            await claim.leave()

    async def holders(self) -> dict[str, str]:
        return {kept.record.job.job_id: kept.record.bridge for kept in (await self.known("nobody")).all()}


class House:
    """One bridge, as far as other bridges are concerned."""

    def __init__(
        self,
        street: Street,
        bridge: str,
        *,
        ago: float | None = None,
        silent_s: float = SILENT_S,
        missed_s: float = MISSED_S,
        ask_timeout_s: float = ASK_TIMEOUT_S,
        call_off_s: float = CALL_OFF_S,
    ) -> None:
        self.bridge = bridge
        self.bus = MemoryLog(street.broker)
        self.adopted: list[Orphan] = []
        self.claims: list[Claim] = []
        self.given: list[str] = []
        self.cancelled: list[str] = []
        self.gives = True
        self.street = street
        self.end_fails = False
        self.looked = False
        """Whether it has asked where the log ends."""
        self.end_known = asyncio.Event()
        self.end_known.set()
        now = asyncio.get_running_loop().time()
        self.other_bridges = Bridges(now, silent_s=silent_s, missed_s=missed_s)

        async def ended_ago(_: str) -> float | None:
            return ago

        self.records = street.records(bridge, self.other_bridges)
        self.orphans = Orphans(
            bridge,
            self.bus,
            SUBJECTS,
            records=self.records,
            other_bridges=self.other_bridges,
            adopted_jobs=self,
            end=self._end,
            ended_ago=ended_ago,
            ask_timeout_s=ask_timeout_s,
            call_off_s=call_off_s,
        )
        self._task: asyncio.Task[None] | None = None

    async def _end(self) -> int:
        self.looked = True
        await self.end_known.wait()
        if self.end_fails:
            raise LogUnavailable("away")
        return self.street.last_seq

    def adopt(self, orphan: Orphan, claim: Claim) -> None:
        self.adopted.append(orphan)
        self.claims.append(claim)

    async def let_go(self, job_id: str) -> bool:
        self.given.append(job_id)
        return self.gives

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def hears(self, bridge: str, *, draining: bool = False, gone: bool = False) -> None:
        said = BridgeAnnounced(bridge=bridge, draining=draining, gone=gone)
        self.other_bridges.hear(said, asyncio.get_running_loop().time())
        self.orphans.look()

    def jobs(self) -> set[str]:
        return {orphan.record.job.job_id for orphan in self.adopted}

    async def open(self) -> None:
        await self.records.open(self.street.store)
        await self.orphans.open()
        self._task = asyncio.create_task(self.orphans.run())

    async def leave(self) -> None:
        """Be gone, without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.orphans.close()
        await self.records.close()


@asynccontextmanager
async def houses(street: Street, *bridges: str, **options: float) -> AsyncIterator[list[House]]:
    made = [House(street, bridge, **options) for bridge in bridges]
    for house in made:
        await house.open()
    for house in made:
        for other in made:
            if other is not house:
                house.hears(other.bridge)
    try:
        yield made
    finally:
        for house in made:
            await house.leave()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - timers of the code under test
            await asyncio.sleep(0.005)


@pytest.fixture
async def street() -> Street:
    return Street()


async def test_the_calls_of_a_bridge_that_is_gone_are_shared_by_the_others(street: Street) -> None:
    names = [f"job-{number}" for number in range(40)]
    for name in names:
        await street.job(name, "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", "bridge-3") as (gone, *others):
        await gone.leave()
        await until(lambda: sum(len(house.adopted) for house in others) == len(names))
        assert set.union(*(house.jobs() for house in others)) == set(names)
        assert all(house.adopted for house in others)
        holders = await street.holders()
        for house in others:
            assert {name for name, holder in holders.items() if holder == house.bridge} == house.jobs()


async def test_what_is_known_of_when_it_heard_its_last(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (gone, other):
        before = asyncio.get_running_loop().time()
        await gone.leave()
        await until(lambda: other.adopted)
        [orphan] = other.adopted
        assert orphan.deaf_from == street.last_seq + 1
        assert orphan.deaf_since is not None
        assert before <= orphan.deaf_since <= asyncio.get_running_loop().time()
        assert orphan.let_go is None


async def test_it_has_heard_what_came_before_it_was_last_there(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", missed_s=60.0) as (gone, other):
        gone.bus.frozen = True  # no ping is answered
        other.orphans.suspect("bridge-1")  # it has changed servers
        await until(lambda: other.looked)
        gone.bus.send(SUBJECTS.alive, encode(BridgeAlive("bridge-1")))  # and is back
        street.last_seq += 100
        await gone.leave()
        other.orphans.suspect("bridge-1")
        await until(lambda: other.adopted)
        assert other.adopted[0].deaf_from == street.last_seq + 1


async def test_the_server_may_know_better(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-2", ago=7.0) as [other]:
        await until(lambda: other.adopted)
        assert other.adopted[0].deaf_since == pytest.approx(asyncio.get_running_loop().time() - 7.0, abs=2.0)


async def test_a_log_whose_end_cannot_be_known(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-2") as [other]:
        other.end_fails = True
        await until(lambda: other.adopted)
        assert other.adopted[0].deaf_from == NEVER - 1


async def test_one_that_speaks_again_while_the_log_does_not_answer_keeps_its_calls(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (away, other):
        other.end_known.clear()
        await away.leave()
        await until(lambda: other.other_bridges.is_gone("bridge-1"))
        await away.open()
        other.hears("bridge-1")
        other.end_known.set()
        await until(lambda: "bridge-1" not in other.orphans._succeeding)
        assert not other.adopted
        assert other.other_bridges.alive("bridge-1", asyncio.get_running_loop().time())


async def test_a_bridge_that_starts_finds_what_others_have_left(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    await street.job("job-2", "bridge-2")
    async with houses(street, "bridge-2", "bridge-3") as (living, fresh):
        await until(lambda: living.adopted or fresh.adopted)
        assert (await street.holders())["job-2"] == "bridge-2"
        assert (await street.holders())["job-1"] in ("bridge-2", "bridge-3")


async def test_the_server_says_that_a_connection_has_ended(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", missed_s=60.0) as (gone, other):
        await asyncio.sleep(0)
        await gone.leave()
        other.orphans.suspect("runner-1")
        other.orphans.suspect("bridge-2")
        other.orphans.suspect("bridge-1")
        await until(lambda: other.adopted)


async def test_one_that_is_silent_and_there_keeps_its_calls(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", ask_timeout_s=0.05) as (_, other):
        other.other_bridges._other_bridges["bridge-1"].heard_at -= 10.0  # no word of it has come through
        other.orphans.look()
        await until(lambda: "bridge-1" in other.other_bridges._other_bridges)
        await asyncio.sleep(0.1)
        assert not other.adopted
        assert other.other_bridges.alive("bridge-1", asyncio.get_running_loop().time())


async def test_one_that_stands_still_may_act_yet(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", ask_timeout_s=0.05, silent_s=0.8) as (still, other):
        still.bus.frozen = True
        await until(lambda: other.adopted)
        [orphan] = other.adopted
        assert (orphan.deaf_from, orphan.deaf_since, orphan.let_go) == (NEVER, None, None)
        assert orphan.still_since is not None
        assert 0.3 <= asyncio.get_running_loop().time() - orphan.still_since < 3.0


async def test_silence_that_we_could_not_hear_takes_no_calls(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", ask_timeout_s=0.2, silent_s=0.3) as (holder, other):
        holder.bus.frozen = True
        await until(lambda: other.other_bridges.is_gone("bridge-1"))
        other.orphans.connected(up=False)  # while it is asked once more
        await until(lambda: not other.other_bridges.is_gone("bridge-1"))
        holder.bus.frozen = False
        other.orphans.connected(up=True)
        other.hears("bridge-1")
        assert not other.adopted
        assert await street.holders() == {"job-1": "bridge-1"}


async def test_a_bridge_that_drains_is_relieved_of_what_it_has_released(street: Street) -> None:
    await street.job("job-1", "bridge-1", state="released")
    await street.job("job-2", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (drains, other):
        other.hears("bridge-1", draining=True)
        await until(lambda: other.adopted)
        assert other.jobs() == {"job-1"}
        let_go = other.adopted[0].let_go
        assert let_go is not None
        assert await let_go()
        assert drains.given == ["job-1"]
        drains.gives = False
        assert not await let_go()
        await drains.leave()
        assert not await let_go()


async def test_a_call_that_was_let_go_of_is_taken_as_handed_over(street: Street) -> None:
    await street.job("job-1", "bridge-1", state="left")
    async with houses(street, "bridge-2") as [other]:
        await until(lambda: other.adopted)
        let_go = other.adopted[0].let_go
        assert let_go is not None
        assert await let_go()


async def test_a_bridge_that_drains_takes_nothing(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", "bridge-3") as (gone, drains, other):
        drains.orphans.closed_to_orphans = True
        await gone.leave()
        await until(lambda: other.adopted)
        assert not drains.adopted


async def test_one_that_says_that_it_has_ended_leaves_its_calls_at_once(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (_, other):
        other.hears("bridge-1", gone=True)
        await until(lambda: other.adopted)


async def test_a_job_is_called_off_where_it_is(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (holder, other):
        other.orphans.forward_cancel("job-1")
        other.orphans.forward_cancel("nobody's")
        await until(lambda: holder.cancelled)
        assert holder.cancelled == ["job-1"]


async def test_a_job_that_is_called_off_is_called_off_wherever_it_goes(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2", "bridge-3", call_off_s=0.01) as (holder, told, other):
        holder.bus.frozen = True  # it does not hear it any more
        told.orphans.forward_cancel("job-1")
        told.orphans.closed_to_orphans = True
        await holder.leave()
        await until(lambda: other.cancelled)
        assert (other.jobs(), set(other.cancelled)) == ({"job-1"}, {"job-1"})
        await other.claims[0].drop()
        await until(lambda: told.records.get("job-1") is None)
        await asyncio.sleep(0.02)
        other.cancelled.clear()
        await asyncio.sleep(0.05)
        assert not other.cancelled  # it is over


async def test_what_a_store_that_is_away_has_told_before_is_known(street: Street) -> None:
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (gone, other):
        street.store.available = False
        await gone.leave()
        await until(lambda: other.other_bridges.is_gone("bridge-1"))
        assert not other.adopted
        street.store.available = True
        await until(lambda: other.adopted)


async def test_a_record_that_comes_late_is_taken_all_the_same(street: Street) -> None:
    async with houses(street, "bridge-1", "bridge-2") as (gone, other):
        await gone.leave()
        await until(lambda: other.other_bridges.is_gone("bridge-1"))
        await street.job("job-1", "bridge-1")
        await until(lambda: other.adopted)


async def test_our_own_connection_was_lost(street: Street) -> None:
    async with houses(street, "bridge-2") as [other]:
        street.store.broker.drop("$KV.>", 2)  # nobody has told us
        await street.job("job-1", "bridge-1")
        await asyncio.sleep(0)
        assert other.records.get("job-1") is None
        other.orphans.connected(up=False)
        other.orphans.connected(up=True)
        await until(lambda: other.adopted)


async def test_nothing_is_left_that_nobody_waits_for(street: Street) -> None:
    before = asyncio.all_tasks()
    await street.job("job-1", "bridge-1")
    async with houses(street, "bridge-1", "bridge-2") as (_, other):
        other.orphans.suspect("bridge-1")
        other.orphans.forward_cancel("job-1")
    assert asyncio.all_tasks() == before
