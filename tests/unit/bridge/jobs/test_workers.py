"""The workers that a bridge registers: its own, and those of bridges that are gone, whose jobs are here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.bridge.jobs.test_orphans import SUBJECTS, Street, until

from unpod.errors import RunnerAuthError
from unpod.ports import Message
from unpod.testing.memory import MemoryLog
from unpod_bridge.fleet.runners import Pool, Standing
from unpod_bridge.jobs.store import JobRecord
from unpod_bridge.jobs.workers import Workers
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.effects import Identity
from unpod_bridge.workers.registration import Registration

if TYPE_CHECKING:
    from unpod_bridge.workers.control_link import ControlLink

POOL = Pool("agent")


class FakeLink:
    """A control link without a socket."""

    def __init__(self, pool: Pool, worker: str) -> None:
        self.registration = Registration(Identity(pool.agent, worker, pool.dev))
        self.left = asyncio.Event()
        self.renewed: list[str] = []
        self.error: Exception | None = None

    async def run(self) -> None:
        await self.left.wait()
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        self.left.set()

    def ended(self, job_id: str) -> None:
        self.registration.ended(job_id)

    def renew(self) -> None:
        self.renewed.append("renew")

    def stay(self) -> None:
        self.renewed.append("stay")

    def register_anew(self) -> None:
        self.renewed.append("anew")

    def drain(self) -> None:
        self.leave()


class Given:
    """Bridges that are given their workers back; they answer once so many have been told."""

    def __init__(self, street: Street, *, together: int = 1) -> None:
        self.bus = MemoryLog(street.broker)
        self.together = together
        self.told: list[str] = []
        self.waiting: list[str] = []

    async def listen(self, *bridges: str) -> None:
        for bridge in bridges:
            await self.bus.subscribe(f"{SUBJECTS.bridge(bridge)}.worker", self._hear)

    def _hear(self, message: Message) -> None:
        self.told.append(message.data.decode())
        self.waiting.append(message.reply)
        if len(self.waiting) >= self.together:
            for reply in self.waiting:
                self.bus.send(reply, b"ok")


class Home:
    """One bridge's workers."""

    def __init__(self, street: Street, bridge: str) -> None:
        self.bus = MemoryLog(street.broker)
        self.links: list[FakeLink] = []
        self.changes = 0
        self.alive: set[str] = set()
        self.records = street.records(bridge)
        self.tries: list[int] = []
        self.workers = Workers(
            self.bus,
            SUBJECTS,
            bridge,
            self.records,
            self.alive.__contains__,
            make=self._make,
            changed=self._change,
            look_s=0.01,
            answer_s=0.02,
            backoff=self.backoff,
        )

    def backoff(self, attempt: int, _: float) -> float:
        self.tries.append(attempt)
        return 0.05 if attempt < 2 else 60.0

    def _change(self) -> None:
        self.changes += 1

    def _make(self, pool: Pool, worker: str, _: Callable[[], None]) -> ControlLink:
        link = FakeLink(pool, worker)
        self.links.append(link)
        return cast("ControlLink", link)

    async def takes(self, job: str) -> None:
        kept = next(kept for kept in self.records.all() if kept.record.job.job_id == job)
        assert await self.records.take(kept) is not None
        self.workers.enter(kept.record)


@asynccontextmanager
async def homes(street: Street, *bridges: str) -> AsyncIterator[list[Home]]:
    made = [Home(street, bridge) for bridge in bridges]
    for home in made:
        home.alive.update(bridges)
        await home.records.open(street.store)
    tasks = [asyncio.create_task(home.workers.run()) for home in made]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for home in made:
            await home.workers.close(5.0)
            await home.records.close()


@pytest.fixture
async def street() -> Street:
    made = Street()
    for number in range(1, 4):
        await made.job(f"job-{number}", "bridge-1")
    return made


async def looks(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0.01)


async def test_one_of_those_who_have_its_jobs_stands_in_for_a_worker_until_they_are_over(street: Street) -> None:
    async with homes(street, "bridge-2", "bridge-3") as (one, other):
        await other.takes("job-1")
        await until(lambda: other.links)
        [link] = other.links
        assert link.registration.identity.worker_id == "agent#bridge-1"
        assert link.registration.capacity == 0
        assert link.registration.active == 1
        await one.takes("job-2")
        await one.takes("job-3")
        await until(lambda: one.links and link.left.is_set())
        [link] = one.links
        assert link.registration.active == 2
        one.workers.up("job-2")
        one.workers.up("nobody's")
        one.workers.ended("job-2")
        assert link.registration.active == 1
        one.workers.ended("job-3")
        assert link.registration.calls == 0
        await until(link.left.is_set)


async def test_a_bridge_that_is_there_after_all_keeps_its_worker(street: Street) -> None:
    given = Given(street)
    async with homes(street, "bridge-2") as [home]:
        home.alive.add("bridge-1")
        await home.takes("job-1")
        await looks()
        assert not home.links
        home.alive.discard("bridge-1")
        await until(lambda: home.links)
        assert not given.told
        home.alive.add("bridge-1")
        await until(home.links[0].left.is_set)
        await looks()  # nobody hears it yet
        await given.listen("bridge-1")
        await until(lambda: given.told)
        await looks()
        assert given.told == ["agent#bridge-1"]


async def test_bridges_that_are_slow_to_take_their_workers_back_do_not_wait_for_each_other(street: Street) -> None:
    await street.job("job-9", "bridge-9")
    given = Given(street, together=2)
    await given.listen("bridge-1", "bridge-9")
    async with homes(street, "bridge-2") as [home]:
        for job in ("job-1", "job-9"):
            await home.takes(job)
        await until(lambda: len(home.links) == 2)
        home.alive |= {"bridge-1", "bridge-9"}
        await until(lambda: len(given.told) == 2)
        await looks()
        assert sorted(given.told) == ["agent#bridge-1", "agent#bridge-9"]


async def test_a_worker_is_given_back_also_when_its_bridge_comes_back_after_its_last_job(street: Street) -> None:
    given = Given(street)
    await given.listen("bridge-1")
    async with homes(street, "bridge-2") as [home]:
        await home.takes("job-1")
        await until(lambda: home.links)
        home.workers.ended("job-1")
        await until(home.links[0].left.is_set)
        await looks()
        assert not given.told
        home.alive.add("bridge-1")
        await until(lambda: given.told)


# ------------------------------------------------------------------------------------------------------------- our own


async def test_a_pool_with_runners_has_a_worker_as_long_as_they_are_there(street: Street) -> None:
    async with homes(street, "bridge-1") as [home]:
        home.workers.look({POOL: Standing(capacity=3, serving=1)}, 0.0)
        [link] = home.links
        worker = link.registration.identity.worker_id
        assert (link.registration.capacity, list(home.workers.own), home.changes) == (3, [POOL], 1)
        home.workers.look({POOL: Standing(capacity=5, serving=1)}, 1.0)
        home.workers.look({POOL: Standing(capacity=5, serving=1)}, 7.0)
        assert (link.registration.capacity, link.renewed) == (5, ["renew"])
        home.workers.look({}, 8.0)
        await until(lambda: not home.workers.own)
        assert (link.registration.capacity, home.changes) == (0, 2)
        home.workers.look({POOL: Standing(capacity=1, serving=1)}, 9.0)
        assert home.links[1].registration.identity.worker_id == worker  # the orchestrator knows it
        home.workers.drain()
        await home.workers.until_left()
        home.workers.look({POOL: Standing(capacity=1, serving=1)}, 10.0)
        assert len(home.links) == 2


async def test_a_key_that_is_refused_ends_the_bridge_and_a_defect_makes_a_new_link(street: Street) -> None:
    async with homes(street, "bridge-1") as [home]:
        serves = {POOL: Standing(capacity=1, serving=1)}
        for number, error in enumerate((ValueError("a defect"), RunnerAuthError("refused"))):
            home.workers.look(serves, 0.0)
            assert not home.workers.failed.is_set()
            home.links[number].error = error
            home.links[number].left.set()
            await home.workers.until_left()
        assert home.workers.failed.is_set()
        assert home.workers.own


async def test_a_worker_of_ours_that_is_given_back_registers_anew(street: Street) -> None:
    async with homes(street, "bridge-1") as [home]:
        await home.workers.open()
        home.workers.look({POOL: Standing(capacity=1, serving=1)}, 0.0)
        [link] = home.links
        for worker in (link.registration.identity.worker_id, "nobody's"):
            subject = f"{SUBJECTS.bridge('bridge-1')}.worker"
            answer = await MemoryLog(street.broker).request(subject, worker.encode(), timeout_s=5)
            assert answer.data == b"ok"
        assert link.renewed == ["anew"]


async def test_a_job_that_comes_home_counts_at_its_own_worker(street: Street) -> None:
    async with homes(street, "bridge-1") as [home]:
        home.workers.look({POOL: Standing(capacity=1, serving=1)}, 0.0)
        [own] = home.links
        job = Job("job-9", "call", "agent", "ws://w", "hush", worker_id=own.registration.identity.worker_id)
        home.workers.enter(JobRecord(job=job, bridge="bridge-2", home="bridge-1"))
        await looks()
        assert len(home.links) == 1
        home.workers.up("job-9")
        assert own.registration.active == 1
        home.workers.ended("job-9")
        assert own.registration.calls == 0


# ------------------------------------------------------------------------------------------------------------ refused


async def test_a_socket_that_is_refused_is_tried_again(street: Street) -> None:
    async with homes(street, "bridge-2") as [home]:
        await home.takes("job-1")
        await until(lambda: home.links)
        home.links[0].error = RunnerAuthError("refused")
        home.links[0].left.set()
        await until(lambda: len(home.links) > 1)


async def test_a_key_that_is_refused_is_tried_less_and_less(street: Street) -> None:
    async with homes(street, "bridge-2") as [home]:
        await home.takes("job-1")
        for number in range(3):
            await until(lambda: len(home.links) > number)  # noqa: B023 - it is called in this turn
            home.links[number].error = RunnerAuthError("refused")
            home.links[number].left.set()
        await until(lambda: len(home.tries) > 2)
        await looks()
        assert (home.tries, len(home.links)) == ([0, 1, 2], 3)


async def test_a_store_that_is_away_changes_nothing(street: Street) -> None:
    async with homes(street, "bridge-2") as [home]:
        await home.takes("job-1")
        await until(lambda: home.links)
        street.store.available = False
        await looks()
        assert not home.links[0].left.is_set()
