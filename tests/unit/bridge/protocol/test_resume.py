"""Asking runners to take over a call, over the bus in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from unpod.core.dispatch_messages import (
    OFFER,
    TO_RUNNER,
    Answer,
    Hold,
    Offer,
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
from unpod_bridge.fleet.dispatch import RESUMES, Ask, Dispatcher, DispatchTimes, Resumption, RunnerPlace
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.wire.job import Job

SUBJECTS = Subjects()
POOL = Pool("agent")
QUICK = DispatchTimes(try_s=0.15, haste_s=0.02, pause_s=(0.005, 0.01), avoid_s=0.1)
WANTED = Resumption("job-1", POOL, "session-1")


class Runner:
    """Answers offers, those of new calls too, and remembers them."""

    def __init__(self, broker: MemoryBroker, runner_id: str = "runner-1") -> None:
        self.bus = MemoryLog(broker)
        self.runner_id = runner_id
        self.answer: Answer = "taken"
        self.ok = True
        self.offers: list[Offer] = []
        self.told: list[Hold | Start | Release] = []

    async def listen(self) -> Runner:
        for subject in (SUBJECTS.resume("agent"), SUBJECTS.dispatch("agent")):
            await self.bus.subscribe(subject, self._offered, queue="runners")
        await self.bus.subscribe(SUBJECTS.runner(self.runner_id), self._tell)
        return self

    def _offered(self, message: Message) -> None:
        self.offers.append(OFFER.decode(message.data))
        self.bus.send(message.reply, encode(OfferAnswered(answer=self.answer, runner=self.runner_id)))

    def _tell(self, message: Message) -> None:
        self.told.append(TO_RUNNER.decode(message.data))
        if message.reply:
            self.bus.send(message.reply, encode(Told(ok=self.ok)))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def dispatcher(broker: MemoryBroker) -> Dispatcher:
    return Dispatcher(MemoryLog(broker), SUBJECTS, "bridge-1", times=QUICK)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the bus in memory delivers in a later turn of the loop
            await asyncio.sleep(0)


async def test_a_runner_takes_the_session_and_its_place_is_kept(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    place = await dispatcher.resume(WANTED)
    assert place.runner_id == "runner-1"
    assert runner.offers == [Offer(job="job-1", bridge="bridge-1", agent="agent", resume=True, session="session-1")]
    await until(lambda: runner.told == [Hold(job="job-1", bridge="bridge-1")])
    assert dispatcher.queue.waiting == {}


async def test_it_is_asked_until_somebody_is_there(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    asking = asyncio.create_task(dispatcher.resume(WANTED))
    await until(lambda: dispatcher.queue.waiting == {"agent": 1})
    runner = Runner(broker)
    runner.answer = "full"
    await runner.listen()
    await until(lambda: len(runner.offers) > 2)
    runner.answer = "taken"
    assert (await asking).runner_id == "runner-1"
    assert dispatcher.queue.waiting == {}


async def test_a_stopped_process_hardly_delays_it(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    stopped = await Runner(broker, "stopped").listen()
    stopped.bus.frozen = True
    await Runner(broker, "lively").listen()
    for _ in range(10):
        began = asyncio.get_running_loop().time()
        assert (await dispatcher.resume(WANTED)).runner_id == "lively"
        assert asyncio.get_running_loop().time() - began < 5.0


async def test_a_runner_that_is_slow_is_heard(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    broker.delay_s = 0.04  # there and back is longer than it takes to ask again
    assert (await dispatcher.resume(WANTED)).runner_id == "runner-1"
    assert len(runner.offers) > 1


async def test_one_that_has_just_failed_is_taken_only_where_nobody_else_is(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    failed = await Runner(broker, "failed").listen()
    began = asyncio.get_running_loop().time()
    assert (await dispatcher.resume(WANTED, "failed")).runner_id == "failed"
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert [type(told) for told in failed.told[:-1]] == [Release] * (len(failed.told) - 1)
    await Runner(broker, "other").listen()
    for _ in range(5):
        assert (await dispatcher.resume(WANTED, "failed")).runner_id == "other"


async def test_so_many_are_offered_at_once_the_first_that_were_lost_first(
    broker: MemoryBroker, dispatcher: Dispatcher
) -> None:
    offered: list[str] = []
    deaf = MemoryLog(broker)
    await deaf.subscribe(SUBJECTS.resume("agent"), lambda message: offered.append(OFFER.decode(message.data).job))
    jobs = [f"job-{n}" for n in range(RESUMES + 4)]
    asking = [asyncio.create_task(dispatcher.resume(Resumption(job, POOL, f"session of {job}"))) for job in jobs]
    await until(lambda: len(offered) >= RESUMES)
    assert offered == jobs[:RESUMES]
    await Runner(broker).listen()
    await asyncio.gather(*asking)
    assert list(dict.fromkeys(offered)) == jobs


async def test_new_calls_wait_for_those_that_were_there(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = Runner(broker)
    runner.answer = "full"
    await runner.listen()
    asking = asyncio.create_task(dispatcher.resume(WANTED))
    await until(lambda: runner.offers)
    ask = Ask(Job("job-2", "call-1", POOL.agent, "ws://w", "t"), asyncio.get_running_loop().time() + 5)
    new = asyncio.create_task(dispatcher.find(ask))
    await until(lambda: len(runner.offers) > 3)
    assert all(offer.resume for offer in runner.offers)
    runner.answer = "taken"
    await asking
    assert isinstance(await new, RunnerPlace)


async def test_a_search_that_is_given_up_lets_new_calls_through(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    asking = asyncio.create_task(dispatcher.resume(WANTED))
    await until(lambda: dispatcher.queue.waiting)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await Runner(broker).listen()
    ask = Ask(Job("job-2", "call-1", POOL.agent, "ws://w", "t"), asyncio.get_running_loop().time() + 5)
    assert isinstance(await dispatcher.find(ask), RunnerPlace)


async def test_without_nats_nothing_is_tried_in_a_loop(broker: MemoryBroker) -> None:
    bus = MemoryLog(broker)
    bus.available = False
    asking = asyncio.create_task(Dispatcher(bus, SUBJECTS, "bridge-1", times=QUICK).resume(WANTED))
    done, _ = await asyncio.wait({asking}, timeout=0.05)
    assert not done
    bus.available = True
    await Runner(broker).listen()
    await asking


async def test_a_runner_that_is_gone_is_not_waited_for(broker: MemoryBroker) -> None:
    dispatcher = Dispatcher(MemoryLog(broker), SUBJECTS, "bridge-1", times=replace(QUICK, try_s=20.0))
    runner = await Runner(broker).listen()
    place = await dispatcher.resume(WANTED)
    runner.bus.available = False
    began = asyncio.get_running_loop().time()
    assert not await place.start("session-1", 7, 9)
    assert asyncio.get_running_loop().time() - began < 5.0


async def test_a_place_that_is_declined_is_given_back(broker: MemoryBroker, dispatcher: Dispatcher) -> None:
    runner = await Runner(broker).listen()
    place = await dispatcher.resume(WANTED)
    place.decline()
    await until(lambda: runner.told and isinstance(runner.told[-1], Release))
    runner.bus.available = False
    place.decline()
