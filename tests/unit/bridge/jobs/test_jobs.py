"""The jobs of a bridge, between a link that is written here and runners on the bus in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import cast

import msgspec
import pytest

from unpod.core.dispatch_messages import TO_RUNNER, Hold, OfferAnswered, Release, Start, Told, encode
from unpod.core.subjects import Subjects
from unpod.errors import LogUnavailable
from unpod.jetstream import JetStreamLog, JobStore, topology
from unpod.ports import Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.settings import Cleanup
from unpod_bridge.fleet.dispatch import Dispatcher, DispatchTimes, RunnerPlace
from unpod_bridge.jobs.jobs import Jobs
from unpod_bridge.jobs.store import JobRecord, JobRecords
from unpod_bridge.journal import room
from unpod_bridge.journal.room import Fullness
from unpod_bridge.wire.control_frames import Reason
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.effects import DialControl, Identity
from unpod_bridge.workers.registration import Registration

SUBJECTS = Subjects()
JOBS = topology().jobs


class StoreLog(MemoryLog):
    """The log of the job store, in memory."""

    spec = JOBS

    def __init__(self) -> None:
        broker = MemoryBroker()
        broker.captured = JOBS.subjects[0]
        super().__init__(broker)


class Link:
    """A link that keeps the books of a registration and notes what it is told."""

    def __init__(self, handler: Jobs) -> None:
        self.registration = Registration(Identity("agent", "agent#1"))
        self.registration.set_capacity(10)
        self.registration.opened(0.0)
        self.registration.received(b'{"type":"registered","transport_ack":"dial_out"}', 0.0)
        self.handler = handler
        self.told: list[tuple[str, str]] = []

    def assign(self, job_id: str = "job-1", deadline_ms: int = 2000) -> None:
        now = asyncio.get_running_loop().time()
        frame = (
            f'{{"type":"job.assign","job_id":"{job_id}","call_id":"call-1","agent_id":"agent","bridge_url":"ws://worker",'
            f'"call_token":"hush","assign_id":"a","deadline_ms":{deadline_ms}}}'
        )
        for effect in self.registration.received(frame.encode(), now):
            self.handler.find(cast("ControlLink", self), effect.assigned)  # type: ignore[union-attr]

    def taken(self, job_id: str) -> None:
        self.told.append(("taken", job_id))
        for effect in self.registration.taken(job_id):
            if isinstance(effect, DialControl):
                self.handler.dial(effect.job)

    def up(self, job_id: str) -> None:
        self.registration.up(job_id)

    def refused(self, job_id: str, reason: Reason) -> None:
        self.told.append((reason, job_id))
        self.registration.refused(job_id, reason)

    def elsewhere(self, job_id: str) -> None:
        self.told.append(("elsewhere", job_id))
        self.registration.elsewhere(job_id)

    def ended(self, job_id: str) -> None:
        self.told.append(("ended", job_id))
        self.registration.ended(job_id)

    def taken_away(self) -> None:
        self.told.append(("taken away", ""))


@dataclass(frozen=True)
class Outcome:
    reason: str
    duration_s: float = 1.5
    connected: bool = True
    after: Cleanup | None = None


class FakeLine:
    """A line that the test ends."""

    def __init__(self, place: RunnerPlace, *, inherited: bool = False) -> None:
        self.place = place
        self.inherited = inherited
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.running = False

    async def run(self) -> Outcome:
        self.running = True
        return await self.done

    def cancel(self) -> None:
        assert self.running
        self.done.set_result(Outcome("cancelled", 0.0, connected=False))

    async def let_go(self) -> bool:
        self.done.set_result(Outcome("moved"))
        return True


class Bench:
    """Jobs with everything around them."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.runner = MemoryLog(self.broker)
        self.runner_told: list[Hold | Start | Release] = []
        self.on_hold: Callable[[], None] = lambda: None
        self.store_log = StoreLog()
        self.store = JobStore(cast("JetStreamLog", self.store_log))
        self.alive = {"bridge-2"}
        self.usage = 0.0
        self.over: set[str] = set()
        self.lines: list[FakeLine] = []
        self.records = JobRecords(self.store, "bridge-1", self.alive.__contains__)
        self.jobs = Jobs(
            Dispatcher(MemoryLog(self.broker), SUBJECTS, "bridge-1", times=DispatchTimes(pause_s=(0.005, 0.01))),
            self.records,
            Fullness(self._usage, shares=self),  # type: ignore[arg-type]
            self._line,
        )
        self.link = Link(self.jobs)
        self.begun: asyncio.Task[int] | None = None

    def is_over(self, agent: str) -> bool:
        return agent in self.over

    async def listen(self) -> None:
        await self.records.open(self.store_log)
        await self.runner.subscribe(SUBJECTS.dispatch("agent"), self._offered)
        await self.runner.subscribe(SUBJECTS.runner("runner-1"), self._told)

    def _offered(self, message: Message) -> None:
        self.runner.send(message.reply, encode(OfferAnswered(answer="taken", runner="runner-1")))

    def _told(self, message: Message) -> None:
        told = TO_RUNNER.decode(message.data)
        self.runner_told.append(told)
        if isinstance(told, Hold):
            self.on_hold()
        if message.reply:
            self.runner.send(message.reply, encode(Told(ok=True)))

    async def _usage(self) -> float:
        return self.usage

    def _line(self, _job: Job, place: RunnerPlace, inherited: bool) -> FakeLine:  # noqa: FBT001 - as `MakeLine`
        line = FakeLine(place, inherited=inherited)
        self.lines.append(line)
        return line

    def releases(self) -> int:
        return sum(isinstance(told, Release) for told in self.runner_told)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.listen()
    yield made
    await made.records.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


JOB = Job("job-1", "c", "agent", "ws://x", "hush", worker_id="agent#9")


def record(job: str = "job-1", bridge: str = "bridge-2", session: str = "") -> bytes:
    return encode(JobRecord(job=msgspec.structs.replace(JOB, job_id=job), bridge=bridge, home=bridge, session=session))


async def test_a_job_has_a_record_from_before_its_dial_to_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    entry = await bench.store.get("job-1")
    assert entry is not None
    assert b'"state":"dialing"' in entry.value
    assert b'"bridge":"bridge-1"' in entry.value
    assert bench.link.registration.calls == 1
    assert bench.link.registration.active == 0

    await bench.lines[0].place.begin("session-1")
    assert bench.link.registration.active == 1
    while True:
        entry = await bench.store.get("job-1")
        assert entry is not None
        if b'"state":"up"' in entry.value:
            break
    assert b'"session":"session-1"' in entry.value

    bench.lines[0].done.set_result(Outcome("hangup"))
    await bench.jobs.until_idle()
    assert await bench.store.get("job-1") is None
    assert bench.link.told == [("taken", "job-1"), ("ended", "job-1")]
    assert "call ended: job job-1, call call-1, agent agent: hangup, after 1.5 s" in caplog.text
    assert "hush" not in caplog.text
    assert "hush" not in repr(JOB)


@pytest.mark.parametrize("is_draining", [True, False])
async def test_a_call_that_another_bridge_has_taken_makes_the_registration_doubtful(
    bench: Bench, *, is_draining: bool
) -> None:
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    await until(lambda: bench.lines[0].running)
    if is_draining:
        bench.jobs.release()
    bench.lines[0].done.set_result(Outcome("moved"))
    await bench.jobs.until_idle()
    assert (("taken away", "") in bench.link.told) is not is_draining


async def test_the_callers_words_in_a_reason_stay_out_of_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    bench.lines[0].done.set_result(Outcome("she said +49 30 1234"))
    await bench.jobs.until_idle()
    assert "1234" not in caplog.text
    assert "call ended" in caplog.text


async def test_a_full_log_refuses_and_is_not_asked_each_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.usage = 0.9
    bench.link.assign("job-1")
    await bench.jobs.until_idle()
    bench.usage = 0.1
    bench.link.assign("job-2")
    await bench.jobs.until_idle()
    monkeypatch.setattr(room, "USAGE_FRESH_S", 0.0)
    bench.link.assign("job-3")
    await until(lambda: bool(bench.lines))
    assert bench.link.told == [("log_full", "job-1"), ("log_full", "job-2"), ("taken", "job-3")]


async def test_an_agent_that_has_filled_its_share_gets_no_new_calls(bench: Bench) -> None:
    bench.over.add("agent")
    bench.link.assign("job-1")
    await bench.jobs.until_idle()
    bench.over.clear()
    bench.link.assign("job-2")
    await until(lambda: bool(bench.lines))
    assert bench.link.told == [("rate_limited", "job-1"), ("taken", "job-2")]


async def test_a_job_store_that_is_nearly_full_takes_no_new_calls_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def log() -> float:
        return 0.1

    async def jobs() -> float:
        return 0.95

    asked = Fullness(log, jobs=jobs)
    assert await asked.refusal("agent") == "jobs_full"
    assert [round(room, 3) for room in (asked.room, asked.jobs_room)] == [0.9, 0.05]
    assert "the job store is 95 % full" in caplog.text


async def test_a_log_that_does_not_answer_is_taken_to_be_as_it_was() -> None:
    answers: list[float | LogUnavailable] = [0.95, LogUnavailable("away")]

    async def usage() -> float:
        answer = answers.pop(0)
        if isinstance(answer, LogUnavailable):
            raise answer
        return answer

    asked = Fullness(usage)
    assert await asked.full()
    asked._asked_at = float("-inf")
    assert await asked.full()


async def test_a_job_whose_call_is_up_at_another_bridge_is_not_dialled(bench: Bench) -> None:
    await bench.store.create("job-1", record(session="session-1"))
    bench.link.assign()
    await bench.jobs.until_idle()
    assert bench.link.told == [("elsewhere", "job-1")]
    assert bench.releases() == 1
    assert bench.lines == []


async def test_a_job_whose_call_is_up_elsewhere_is_accepted_though_no_runner_is_free(bench: Bench) -> None:
    await bench.store.create("job-1", record(session="session-1"))
    bench.runner.available = False
    bench.link.assign(deadline_ms=300)
    await bench.jobs.until_idle()
    assert bench.link.told == [("elsewhere", "job-1")]


async def test_a_job_that_another_bridge_takes_meanwhile_is_not_dialled(bench: Bench) -> None:
    def other_is_quicker() -> None:
        bench.store_log.broker.publish(
            Message("$KV.UNPOD_JOBS.job-1", record(session="session-1"), {"Nats-Msg-Id": "theirs"})
        )

    bench.on_hold = other_is_quicker
    bench.link.assign()
    await bench.jobs.until_idle()
    assert bench.link.told == [("elsewhere", "job-1")]
    assert bench.releases() == 1
    assert bench.lines == []


async def test_a_job_that_another_bridge_has_and_does_not_begin_is_begun_here(bench: Bench) -> None:
    await bench.store.create("job-1", record())  # that one may not know it: the store's answer was lost
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    assert bench.link.told == [("taken", "job-1")]
    assert bench.lines[0].inherited


async def test_a_bridge_that_lives_has_a_moment_to_begin_what_another_is_asked_for_too(bench: Bench) -> None:
    revision = await bench.store.create("job-1", record())

    def begins() -> None:
        bench.begun = asyncio.create_task(bench.store.update("job-1", record(session="session-1"), revision))

    bench.on_hold = begins
    bench.link.assign()
    await bench.jobs.until_idle()
    assert bench.link.told == [("elsewhere", "job-1")]


async def test_a_job_whose_call_has_come_here_from_another_bridge_is_not_dialled(bench: Bench) -> None:
    line = await carried(bench, Books())
    bench.link.assign()
    await until(lambda: bool(bench.link.told))
    assert bench.link.told == [("elsewhere", "job-1")]
    assert not bench.lines
    line.done.set_result(Outcome("hangup"))


@pytest.mark.parametrize("value", [record(bridge="bridge-dead"), record(bridge="bridge-1"), b"nonsense"])
async def test_a_record_that_nobody_stands_for_is_taken_over(bench: Bench, value: bytes) -> None:
    await bench.store.create("job-1", value)
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    entry = await bench.store.get("job-1")
    assert entry is not None
    assert b'"bridge":"bridge-1"' in entry.value
    bench.lines[0].done.set_result(Outcome("hangup"))
    await bench.jobs.until_idle()
    assert await bench.store.get("job-1") is None


async def test_without_the_store_nothing_is_taken(bench: Bench) -> None:
    bench.store_log.available = False
    bench.link.assign(deadline_ms=400)
    await bench.jobs.until_idle()
    assert bench.link.told == [("jobs_away", "job-1")]


async def test_a_store_that_goes_away_gives_the_place_back(bench: Bench) -> None:
    def away() -> None:
        bench.store_log.broker.full = True

    bench.on_hold = away
    bench.link.assign()
    await bench.jobs.until_idle()
    assert bench.link.told == [("jobs_full", "job-1")]
    assert bench.releases() == 1


async def test_a_withdrawn_search_ends(bench: Bench) -> None:
    await bench.store.create("job-2", record("job-2", "bridge-dead"))
    bench.link.assign("job-1")
    bench.jobs.withdraw("job-1")
    bench.jobs.withdraw("nobody's")
    await bench.jobs.until_idle()
    assert bench.link.told == []
    assert bench.lines == []


async def test_a_job_that_is_withdrawn_while_its_record_is_made_leaves_nothing(bench: Bench) -> None:
    bench.link.assign()
    await until(lambda: bool(bench.store_log.broker.records))
    bench.jobs.withdraw("job-1")
    await bench.jobs.until_idle()
    assert bench.lines == []
    assert bench.releases() == 1
    assert await bench.store.get("job-1") is None


async def test_a_cancel_in_the_same_breath_as_the_dial(bench: Bench) -> None:
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    bench.jobs.cancel("job-1")
    bench.jobs.cancel("nobody's")
    await bench.jobs.until_idle()
    assert bench.link.told == [("taken", "job-1"), ("ended", "job-1")]


async def test_a_defect_in_one_call_ends_only_that(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.link.assign("job-1")
    bench.link.assign("job-2")
    await until(lambda: len(bench.lines) == 2)
    bench.lines[0].done.set_exception(ValueError("what the caller said"))
    await until(lambda: ("ended", "job-1") in bench.link.told)
    assert bench.jobs.calls == 1
    assert "what the caller said" not in caplog.text
    assert "ValueError" in caplog.text
    bench.lines[1].done.set_result(Outcome("completed"))
    await bench.jobs.until_idle()
    assert bench.releases() == 1


async def test_what_is_abandoned_keeps_its_record(bench: Bench) -> None:
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    await until(lambda: bench.lines[0].running)
    await bench.jobs.abandon(1.0)
    assert bench.jobs.calls == 0
    assert await bench.store.get("job-1") is not None


class Books:
    """Where carried jobs are entered."""

    def __init__(self) -> None:
        self.ended_jobs: list[str] = []

    def up(self, job_id: str) -> None:
        """It is up."""

    def ended(self, job_id: str) -> None:
        self.ended_jobs.append(job_id)

    def taken_away(self) -> None:
        """Another bridge has it."""


async def carried(bench: Bench, books: Books) -> FakeLine:
    """Adopt a job, and return its line once it runs."""
    claim = await bench.records.claim(JOB)
    assert claim is not None
    line = FakeLine(cast("RunnerPlace", None))
    bench.jobs.retire(JOB.job_id)
    bench.jobs.carry(JOB, books, claim, lambda _: line)
    await until(lambda: line.running)
    return line


async def test_a_job_that_comes_home_while_its_former_line_closes_is_one_job(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    books = Books()
    former = await carried(bench, books)
    line = await carried(bench, books)
    assert (bench.jobs.calls, books.ended_jobs) == (1, ["job-1"])
    former.done.set_result(Outcome("moved"))
    await asyncio.sleep(0.01)
    assert (bench.jobs.calls, books.ended_jobs) == (1, ["job-1"])
    assert bench.jobs.cancel_here("job-1")
    await until(line.done.done)
    await bench.jobs.until_idle()
    assert (bench.jobs.calls, books.ended_jobs) == (0, ["job-1", "job-1"])
    assert await bench.store.get("job-1") is None
    assert "failed" not in caplog.text


async def test_a_store_that_does_not_answer_keeps_no_caller_waiting(bench: Bench) -> None:
    bench.jobs._begun_s = 0.01
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    bench.store_log.available = False
    await bench.lines[0].place.begin("session-1")
    bench.store_log.available = True
    async with asyncio.timeout(5):
        while (entry := await bench.store.get("job-1")) is None or b"session-1" not in entry.value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    bench.lines[0].done.set_result(Outcome("hangup"))
    await bench.jobs.until_idle()
    assert await bench.store.get("job-1") is None


async def test_a_call_whose_record_turns_out_to_be_another_bridges_is_let_go(bench: Bench) -> None:
    bench.jobs._begun_s = 0.01
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    entry = await bench.store.get("job-1")
    assert entry is not None
    bench.store_log.available = False
    await bench.lines[0].place.begin("session-1")
    bench.store_log.broker.publish(Message("$KV.UNPOD_JOBS.job-1", record(), {"Nats-Msg-Id": "theirs"}))
    bench.store_log.available = True
    await bench.jobs.until_idle()
    assert (await bench.lines[0].done).reason == "moved"
    entry = await bench.store.get("job-1")
    assert entry is not None
    assert b"bridge-2" in entry.value


async def test_a_record_that_another_has_claimed_and_given_up_is_made_anew(bench: Bench) -> None:
    bench.link.assign()
    await until(lambda: bool(bench.lines))
    entry = await bench.store.get("job-1")
    assert entry is not None
    await bench.store.delete("job-1", entry.revision)
    await bench.lines[0].place.begin("session-1")
    entry = await bench.store.get("job-1")
    assert entry is not None
    assert b"session-1" in entry.value
    bench.lines[0].done.set_result(Outcome("hangup"))
    await bench.jobs.until_idle()
    assert await bench.store.get("job-1") is None
