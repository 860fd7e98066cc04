"""Asking runners, over the bus in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from unpod.core.dispatch_messages import (
    OFFER,
    QUEUED_ANNOUNCED,
    TO_RUNNER,
    Answer,
    Hold,
    OfferAnswered,
    Release,
    Start,
    Told,
    encode,
)
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.memory import MemoryLog
from unpod_bridge.fleet.dispatch import Ask, Dispatcher, DispatchTimes, RunnerPlace
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.wire.job import Job

SUBJECTS = Subjects()
POOL = Pool("agent")
QUICK = DispatchTimes(try_s=0.05, pause_s=(0.005, 0.01), start_s=0.3)


class Runner:
    """Answers offers as it is told, and remembers what it was told in person."""

    def __init__(self, broker: MemoryBroker, runner_id: str = "runner-1", pool: Pool = POOL) -> None:
        self.bus = MemoryLog(broker)
        self.runner_id = runner_id
        self.pool = pool
        self.answers: list[Answer] = []
        self.otherwise: Answer = "taken"
        self.told: list[Hold | Start | Release] = []
        self.ok = True
        self.deaf = 0
        self.on_offer: Callable[[], None] = lambda: None
        self.offers = 0

    async def listen(self) -> Runner:
        await self.bus.subscribe(SUBJECTS.dispatch(self.pool.name), self._offered, queue="runners")
        await self.bus.subscribe(SUBJECTS.runner(self.runner_id), self._tell)
        return self

    def _offered(self, message: Message) -> None:
        OFFER.decode(message.data)
        self.offers += 1
        answer = self.answers.pop(0) if self.answers else self.otherwise
        self.bus.send(message.reply, encode(OfferAnswered(answer=answer, runner=self.runner_id)))
        self.on_offer()

    def _tell(self, message: Message) -> None:
        self.told.append(TO_RUNNER.decode(message.data))
        if self.deaf:
            self.deaf -= 1
        elif message.reply:
            self.bus.send(message.reply, encode(Told(ok=self.ok)))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def dispatcher(broker: MemoryBroker) -> Dispatcher:
    return Dispatcher(MemoryLog(broker), SUBJECTS, "bridge-1", times=QUICK)


def ask(seconds: float = 5.0, pool: Pool = POOL) -> Ask:
    job = Job("job-1", "call-1", pool.agent, "ws://w", "t", dev=pool.dev)
    return Ask(job, asyncio.get_running_loop().time() + seconds)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the bus in memory delivers in a later turn of the loop
        await asyncio.sleep(0)


async def queued(broker: MemoryBroker) -> list[tuple[str, int]]:
    heard: list[tuple[str, int]] = []

    def take(message: Message) -> None:
        said = QUEUED_ANNOUNCED.decode(message.data)
        heard.append((said.agent, said.count))

    await MemoryLog(broker).subscribe(SUBJECTS.queued("agent"), take)
    return heard


async def test_a_runner_takes_the_job_and_hears_that_its_place_is_kept(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    runner = await Runner(broker).listen()
    heard = await queued(broker)
    place = await dispatcher.find(ask())
    assert isinstance(place, RunnerPlace)
    assert place.runner_id == "runner-1"
    await until(lambda: runner.told == [Hold(job="job-1", bridge="bridge-1")])
    assert heard == []


async def test_dev_jobs_are_for_dev_runners(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    await Runner(broker, "production").listen()
    await Runner(broker, "laptop", Pool("agent", dev=True)).listen()
    for _ in range(5):
        place = await dispatcher.find(ask(pool=Pool("agent", dev=True)))
        assert isinstance(place, RunnerPlace)
        assert place.runner_id == "laptop"


async def test_a_full_runner_is_asked_again_until_it_has_room(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    runner.answers = ["full", "rate_limited", "full"]
    heard = await queued(broker)
    assert isinstance(await dispatcher.find(ask()), RunnerPlace)
    await until(lambda: heard == [("agent", 1), ("agent", 0)])


async def test_what_waits_is_announced_again(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    runner.otherwise = "full"
    heard = await queued(broker)
    first, second = (asyncio.create_task(dispatcher.find(ask())) for _ in range(2))
    await until(lambda: heard == [("agent", 1), ("agent", 2)])
    dispatcher.queue.announce()
    await until(lambda: heard == [("agent", 1), ("agent", 2), ("agent", 2)])
    first.cancel()
    runner.otherwise = "taken"
    assert isinstance(await second, RunnerPlace)
    await until(lambda: heard[-2:] == [("agent", 1), ("agent", 0)])
    assert dispatcher.queue.waiting == {}


@pytest.mark.parametrize(
    ("answers", "otherwise", "reason"),
    [
        ([], "full", "at_capacity"),
        ([], "rate_limited", "rate_limited"),
        ([], "draining", "draining"),
        (["rate_limited"], "full", "at_capacity"),
        (["draining"], "rate_limited", "at_capacity"),
    ],
)
async def test_the_reason_at_the_deadline(
    broker: MemoryBroker, dispatcher: Dispatcher, answers: list[Answer], otherwise: Answer, reason: str
) -> None:
    runner = await Runner(broker).listen()
    runner.answers, runner.otherwise = answers, otherwise
    assert await dispatcher.find(ask(0.4)) == reason


async def test_nobody_there(dispatcher: Dispatcher) -> None:
    began = asyncio.get_running_loop().time()
    assert await dispatcher.find(ask(0.1)) == "at_capacity"
    assert 0.1 <= asyncio.get_running_loop().time() - began < 5.0


async def test_who_has_no_permits_does_not_listen_and_the_reason_is_told_all_the_same(broker: MemoryBroker) -> None:
    dispatcher = Dispatcher(MemoryLog(broker), SUBJECTS, "bridge-1", unheard=lambda _: "rate_limited", times=QUICK)
    assert await dispatcher.find(ask(0.1)) == "rate_limited"


async def test_a_deadline_that_is_over_asks_nobody(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    assert await dispatcher.find(ask(-1)) == "at_capacity"
    assert runner.offers == 0


async def test_a_deadline_may_be_moved(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    runner.otherwise = "full"
    wanted = ask(0.1)

    def later() -> None:
        wanted.until += 10
        runner.on_offer = lambda: None
        runner.answers = ["full"] * 20
        runner.otherwise = "taken"

    runner.on_offer = later
    assert isinstance(await dispatcher.find(wanted), RunnerPlace)


async def test_a_change_in_the_fleet_is_not_waited_for(broker: MemoryBroker) -> None:
    dispatcher = Dispatcher(MemoryLog(broker), SUBJECTS, "bridge-1", times=DispatchTimes(pause_s=(30.0, 30.0)))
    search = asyncio.create_task(dispatcher.find(ask(60)))
    await until(lambda: bool(dispatcher.queue.waiting))
    await Runner(broker).listen()
    dispatcher.changed()
    async with asyncio.timeout(10):
        assert isinstance(await search, RunnerPlace)


async def test_a_stopped_process_costs_one_try(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    stopped = await Runner(broker, "stopped").listen()
    stopped.bus.frozen = True
    await Runner(broker, "lively").listen()
    for _ in range(5):
        place = await dispatcher.find(ask())
        assert isinstance(place, RunnerPlace)
        assert place.runner_id == "lively"


@pytest.mark.parametrize("answer", [b"", b"nonsense", b'{"answer":"taken"}', b'{"answer":"maybe"}', b"[" * 100_000])
async def test_nonsense_for_an_answer_is_no_answer(broker: MemoryBroker, dispatcher: Dispatcher, answer: bytes) -> None:
    bus = MemoryLog(broker)
    await bus.subscribe(SUBJECTS.dispatch("agent"), lambda message: bus.send(message.reply, answer), queue="runners")
    assert await dispatcher.find(ask(0.05)) == "at_capacity"


async def test_without_nats_nothing_is_tried_in_a_loop(broker: MemoryBroker) -> None:
    bus = MemoryLog(broker)
    bus.available = False
    assert await Dispatcher(bus, SUBJECTS, "bridge-1", times=QUICK).find(ask(0.05)) == "at_capacity"


# ------------------------------------------------------------------------------------------------------------ places


async def place_at(broker: MemoryBroker, dispatcher: Dispatcher) -> tuple[Runner, RunnerPlace]:
    runner = await Runner(broker).listen()
    place = await dispatcher.find(ask())
    assert isinstance(place, RunnerPlace)
    await until(lambda: bool(runner.told))
    runner.told.clear()
    return runner, place


async def test_a_place_is_kept_though_nobody_says_so(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    runner.deaf = 1
    place = await dispatcher.find(ask())
    assert isinstance(place, RunnerPlace)
    runner.ok = False  # it has lost the place meanwhile
    assert not await place.start("session-1", 7, 9)


async def test_a_hold_without_answer_is_said_again(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.deaf = 1
    assert await place.hold(asyncio.get_running_loop().time() + 5)
    assert runner.told == [Hold(job="job-1", bridge="bridge-1")] * 2


async def test_a_place_that_is_not_confirmed_is_given_back(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.deaf = 2
    assert not await place.hold(asyncio.get_running_loop().time() + 5)
    await until(lambda: [type(message).__name__ for message in runner.told] == ["Hold", "Hold", "Release"])
    runner.ok = False  # it has forgotten the place
    assert not await place.hold(asyncio.get_running_loop().time() + 5)


async def test_who_no_longer_waits_for_a_hold_gives_the_place_back(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.deaf = 2
    hold = asyncio.create_task(place.hold(asyncio.get_running_loop().time() + 5))
    await until(lambda: bool(runner.told))
    hold.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hold
    await until(lambda: runner.told == [Hold(job="job-1", bridge="bridge-1"), Release(job="job-1", reason="withdrawn")])


async def test_a_call_is_started_in_person(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.deaf = 1
    assert await place.start("session-1", 7, 9)
    start = Start(job="job-1", agent="agent", session="session-1", epoch=7, until_seq=9, bridge="bridge-1")
    assert runner.told == [start, start]


async def test_a_call_is_known_before_anything_of_it_is_in_the_log(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    runner, place = await place_at(broker, dispatcher)
    await place.begin("session-1")
    begun: list[str] = []

    async def begin(session_id: str) -> None:
        begun.append(session_id)

    place.on_begin = begin
    await place.begin("session-1")
    assert begun == ["session-1"]
    assert not runner.told


async def test_a_runner_that_refuses_or_is_gone_is_not_started(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.ok = False
    assert not await place.start("session-1", 7, 9)
    runner.bus.available = False
    assert not await place.start("session-1", 7, 9)


async def test_a_place_is_given_back_for_sure(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner, place = await place_at(broker, dispatcher)
    runner.deaf = 2
    await place.release("cancelled")
    assert runner.told == [Release(job="job-1", reason="cancelled")] * 3
    runner.told.clear()
    runner.ok = False  # it knows nothing of the job: so much the better
    await place.release("cancelled")
    assert len(runner.told) == 1
