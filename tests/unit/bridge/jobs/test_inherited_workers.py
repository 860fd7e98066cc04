"""The workers of bridges that are gone are called off where their jobs are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.bridge.jobs.test_orphans import Street, until

from unpod.errors import NoResponders, RunnerAuthError
from unpod_bridge.jobs.inherited_workers import InheritedWorkers
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.effects import Identity
from unpod_bridge.workers.registration import Registration

if TYPE_CHECKING:
    from unpod_bridge.workers.control_link import ControlLink


class FakeLink:
    """A control link without a socket."""

    def __init__(self, job: Job) -> None:
        self.registration = Registration(Identity(job.agent_id, job.worker_id))
        self.left = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> None:
        await self.left.wait()
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        self.left.set()

    def ended(self, job_id: str) -> None:
        self.registration.ended(job_id)


class Home:
    """One bridge's inherited workers."""

    def __init__(self, street: Street, bridge: str) -> None:
        self.links: list[FakeLink] = []
        self.alive: set[str] = set()
        self.records = street.records(bridge)
        self.told: list[tuple[str, str]] = []
        self.tries: list[int] = []
        self.asked = 0
        self.together = 1
        self.hears = True
        self.own: dict[str, FakeLink] = {}
        self.inherited_workers = InheritedWorkers(
            bridge,
            self.records,
            self.alive.__contains__,
            make=self._make,
            give_back=self._tell,
            own=lambda worker: cast("ControlLink | None", self.own.get(worker)),
            look_s=0.01,
            backoff=self.backoff,
        )

    def backoff(self, attempt: int, _: float) -> float:
        self.tries.append(attempt)
        return 0.05 if attempt < 2 else 60.0

    async def _tell(self, home: str, worker: str) -> None:
        if not self.hears:
            raise NoResponders("nobody")
        self.asked += 1
        await until(lambda: self.asked >= self.together)
        self.told.append((home, worker))

    def _make(self, job: Job) -> ControlLink:
        link = FakeLink(job)
        self.links.append(link)
        return cast("ControlLink", link)

    async def takes(self, job: str) -> None:
        kept = next(kept for kept in self.records.all() if kept.record.job.job_id == job)
        assert await self.records.take(kept) is not None
        self.inherited_workers.enter(kept.record)


@asynccontextmanager
async def homes(street: Street, *bridges: str) -> AsyncIterator[list[Home]]:
    made = [Home(street, bridge) for bridge in bridges]
    for home in made:
        home.alive.update(bridges)
        await home.records.open(street.store)
    tasks = [asyncio.create_task(home.inherited_workers.run()) for home in made]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for home in made:
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
        one.inherited_workers.up("job-2")
        one.inherited_workers.up("nobody's")
        one.inherited_workers.ended("job-2")
        assert link.registration.active == 1
        one.inherited_workers.ended("job-3")
        assert link.registration.calls == 0
        await until(link.left.is_set)


async def test_a_bridge_that_is_there_after_all_keeps_its_worker(street: Street) -> None:
    async with homes(street, "bridge-2") as [home]:
        home.alive.add("bridge-1")
        await home.takes("job-1")
        await looks()
        assert not home.links
        home.alive.discard("bridge-1")
        await until(lambda: home.links)
        assert not home.told
        home.hears = False
        home.alive.add("bridge-1")
        await until(home.links[0].left.is_set)
        await looks()
        home.hears = True
        await until(lambda: home.told)
        await looks()
        assert home.told == [("bridge-1", "agent#bridge-1")]


async def test_bridges_that_are_slow_to_take_their_workers_back_do_not_wait_for_each_other(street: Street) -> None:
    await street.job("job-9", "bridge-9")
    async with homes(street, "bridge-2") as [home]:
        home.together = 2
        for job in ("job-1", "job-9"):
            await home.takes(job)
        await until(lambda: len(home.links) == 2)
        home.alive |= {"bridge-1", "bridge-9"}
        await until(lambda: len(home.told) == 2)
        assert sorted(home.told) == [("bridge-1", "agent#bridge-1"), ("bridge-9", "agent#bridge-9")]


async def test_a_worker_is_given_back_also_when_its_bridge_comes_back_after_its_last_job(street: Street) -> None:
    async with homes(street, "bridge-2") as [home]:
        await home.takes("job-1")
        await until(lambda: home.links)
        home.inherited_workers.ended("job-1")
        await until(home.links[0].left.is_set)
        await looks()
        assert not home.told
        home.alive.add("bridge-1")
        await until(lambda: home.told)


async def test_a_job_that_comes_home_counts_at_its_own_worker(street: Street) -> None:
    async with homes(street, "bridge-1") as [home]:
        own = home.own["agent#bridge-1"] = FakeLink(next(iter(home.records.all())).record.job)
        await home.takes("job-1")
        await looks()
        assert not home.links
        home.inherited_workers.up("job-1")
        assert own.registration.active == 1
        home.inherited_workers.ended("job-1")
        assert own.registration.calls == 0


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
