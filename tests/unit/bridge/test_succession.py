"""Another owner for a call: a line and its runners over the log and the bus in memory, the time virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from tests.unit.bridge.call_rig import SUBJECTS, FakePlace, FakeWorker

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.envelope import Envelope, to_headers
from unpod.core.fleet import (
    OFFER,
    PING,
    PROBATION_S,
    PROBATION_TOLD,
    TO_RUNNER,
    Hold,
    Offer,
    OfferAnswered,
    ProbationPhase,
    ProbationTold,
    Pulse,
    Release,
    Start,
    Suspicion,
    Told,
    encode,
)
from unpod.core.live import Delta
from unpod.core.positions import unpack
from unpod.errors import Fenced
from unpod.ports import Fence, Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.memory import MemoryLog
from unpod_bridge import dispatch
from unpod_bridge import succession as successions
from unpod_bridge.dispatch import Dispatcher
from unpod_bridge.frames import VERBS
from unpod_bridge.line import Job, Line, LineResult, LineServices
from unpod_bridge.probation import Probation, Probations
from unpod_bridge.succession import Care
from unpod_bridge.watch import Watch

CALL = SUBJECTS.call("agent-1", "session-1")


class Runner:
    """A runner that takes over what it is offered, and writes what a test tells it to."""

    def __init__(self, broker: MemoryBroker, runner_id: str) -> None:
        self.log = MemoryLog(broker)
        self.runner_id = runner_id
        self.offers: list[Offer] = []
        self.told: list[Hold | Start | Release] = []
        self.starts: list[Start] = []
        """What it was told to begin with; one that is held is not begun."""
        self.epoch = 0
        self.willing = True
        self.lets_in = True
        self.older = False
        """Whether it is of a release that waits for a second word."""
        self.culprit = ""
        self.deaf_to: type[object] | None = None
        self.index = 0
        self.seqs: dict[int, int] = {}
        self.tells = True
        """Whether it says where its records stand."""

    async def listen(self) -> Runner:
        await self.log.subscribe(SUBJECTS.resume("agent-1"), self._on_offer, queue="runners")
        await self.log.subscribe(SUBJECTS.runner(self.runner_id), self._on_told)
        await self.log.subscribe(f"{SUBJECTS.runner(self.runner_id)}.ping", self._on_ping)
        return self

    @property
    def given(self) -> Start:
        """The start with which it was told where records stand."""
        [start] = [told for told in self.told if isinstance(told, Start) and told.positions]
        return start

    def die(self) -> None:
        self.log.available = False

    def _on_offer(self, message: Message) -> None:
        self.offers.append(OFFER.decode(message.data))
        answer = OfferAnswered(answer="taken" if self.willing else "full", runner=self.runner_id)
        self.log.send(message.reply, encode(answer))

    def _on_told(self, message: Message) -> None:
        told = TO_RUNNER.decode(message.data)
        self.told.append(told)
        if isinstance(told, Start):
            self.epoch = told.epoch
            self._waiting = told
            if not told.held or (self.lets_in and not self.older):
                self.starts.append(told)
            if told.held and self.lets_in and not self.older:
                self.say("begun")
        if self.deaf_to is not None and isinstance(told, self.deaf_to):
            return
        if message.reply:
            self.log.send(message.reply, encode(Told(ok=True, lets_in=not self.older)))

    def say(self, phase: ProbationPhase, session: str = "session-1") -> None:
        """Say how far a session is that was held."""
        said = ProbationTold(runner=self.runner_id, session=session, epoch=self.epoch, phase=phase)
        self.log.send(SUBJECTS.bridge("bridge-1"), encode(said))

    def let_in(self) -> None:
        """The turn of the one that is held has come."""
        self.starts.append(self._waiting)
        self.say("begun")

    def _on_ping(self, message: Message) -> None:
        ping = PING.decode(message.data)
        sessions = dict.fromkeys(ping.sessions, (self.epoch, self.index))
        pulse = Pulse(
            runner=self.runner_id,
            lag_s=6.0 if self.culprit else 0.0,
            culprit=self.culprit,
            sessions=sessions,
            stored={name: (after, self._behind(after)) for name, after in ping.after.items() if self.tells},
        )
        self.log.send(message.reply, encode(pulse))

    def _behind(self, after: int) -> list[int]:
        return [seq for index, seq in sorted(self.seqs.items()) if index > after]

    # --- the session

    async def write(self, body: cmd.AnyCommand | ev.SessionEvent, *, index: int = 0, settled: int = 0) -> str:
        self.index = index or self.index + 1
        channel = "cmd" if isinstance(body, cmd.Command) else "run"
        tag = ev.tag_of(body)
        identifier = ids.derive("test", self.runner_id, self.index)
        envelope = Envelope(
            id=identifier,
            type=f"{channel}.{tag}",
            source=self.runner_id,
            session="session-1",
            time=1.0,
            epoch=self.epoch,
            index=self.index,
            seen=3,
            settled=settled,
        )
        subject = CALL.cmd if channel == "cmd" else CALL.run(tag)
        fence = Fence(CALL.own, self.epoch)
        stored = await self.log.append(subject, codec.encode(body), to_headers(envelope), fence=fence)
        self.seqs[self.index] = stored.seq
        return identifier

    def speak(self, turn: int, n: int, text: str, *, part: int = 0) -> None:
        self.log.send(CALL.delta, codec.encode(Delta(self.epoch, turn, part, n, 0, text)))


class FirstPlace(FakePlace):
    """The place at the call's first runner, which was found before the line began."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.runner_id)
        self._runner = runner

    async def start(self, session_id: str, epoch: int, until_seq: int, *, positions: bytes = b"") -> bool:
        start = Start(
            job="job-1",
            agent="agent-1",
            session=session_id,
            epoch=epoch,
            until_seq=until_seq,
            positions=positions,
        )
        self._runner.starts.append(start)
        self._runner.epoch = epoch
        return self.willing


class House:
    """One call on a bridge that cares for its owner."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(now_ns=self.clock.now_ns)
        self.log = MemoryLog(self.broker)
        self.worker = FakeWorker(verbs=VERBS)
        self.watch = Watch(self.log, SUBJECTS, self.clock, "bridge-1")
        self.probations = Probations(self.clock)
        self.dispatcher = Dispatcher(self.log, SUBJECTS, "bridge-1")
        self.services = LineServices(
            log=self.log, bus=self.log, subjects=SUBJECTS, clock=self.clock, bridge_id="bridge-1", dialer=self.worker
        )
        self.first = Runner(self.broker, "runner-1")
        self.place = FirstPlace(self.first)
        care = Care(self.watch, self.probations, self.dispatcher.resume)
        job = Job("job-1", "call-1", "agent-1", "ws://w/c", "token")
        self.line = Line(job, self.place, self.services, care=care)
        self.task: asyncio.Task[LineResult] | None = None

    async def listen(self) -> None:
        await self.log.subscribe(SUBJECTS.bridge("bridge-1"), self._on_told)

    def _on_told(self, message: Message) -> None:
        self.probations.told(PROBATION_TOLD.decode(message.data))

    def beside(self, runner: Runner, session: str) -> Probation:
        """Another session is on probation at a runner."""
        held = self.probations.hold(runner.runner_id, session, 1)
        self.probations.told(ProbationTold(runner=runner.runner_id, session=session, epoch=1, phase="begun"))
        return held

    async def runner(self, runner_id: str) -> Runner:
        return await Runner(self.broker, runner_id).listen()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - real time, and the condition has no event
                await asyncio.sleep(0.001)  # the dispatcher's pauses are real time
        await settle()

    async def kill(self, runner: Runner) -> None:
        """The runner dies, and the server says so."""
        runner.die()
        self.watch.said_gone(runner.runner_id)
        await settle()

    def lose(self, why: str) -> None:
        """The watch takes the runner for lost."""
        watched = self.watch._sessions["session-1"]
        watched.lose(why)
        watched.ward.succeed()

    def hear(self, text: str) -> None:
        self.worker.socket.say("user.text", text=text)

    async def hang_up(self) -> LineResult:
        self.worker.socket.lose(1000)
        assert self.task is not None
        return await self.task

    def records(self, kind: type[object]) -> list[Record]:
        found = [codec.read(SUBJECTS, m.subject, m.headers, m.data, m.seq) for m in self.broker.records]
        return [record for record in found if isinstance(record.body, kind)]

    def is_charted(self, index: int) -> bool:
        """Whether the bridge knows where the owner's records up to an index stand."""
        assert self.line._ledger is not None
        return self.line._ledger.chart.owner_index == index

    @property
    def changes(self) -> list[ev.OwnerChanged]:
        return [record.body for record in self.records(ev.OwnerChanged) if isinstance(record.body, ev.OwnerChanged)]

    @property
    def said(self) -> list[object]:
        return [frame.get("text") for frame in self.worker.socket.sent if frame["event"] == "agent.say"]

    @property
    def spoken(self) -> list[object]:
        """Pieces of replies as their texts, ends as None."""
        return [f.get("text") for f in self.worker.socket.sent if str(f["event"]).startswith("agent.text.")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TRY_S", 0.05)
    monkeypatch.setattr(dispatch, "PAUSE_S", (0.005, 0.01))
    monkeypatch.setattr(dispatch, "RESUME_S", 0.2)
    monkeypatch.setattr(dispatch, "AVOID_S", 0.1)


@asynccontextmanager
async def a_house(*, started: bool = True) -> AsyncIterator[House]:
    made = House()
    made.place.willing = started
    await made.listen()
    await made.first.listen()
    made.first.willing = False
    watching = asyncio.create_task(made.watch.run())
    made.task = asyncio.create_task(made.line.run())
    await settle(40)
    try:
        yield made
    finally:
        for task in (made.task, watching):
            task.cancel()
        await asyncio.wait({made.task, watching})
        if not made.task.cancelled() and (after := made.task.result().after) is not None:
            await after.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with a_house() as made:
        yield made


# --- where the records stand ------------------------------------------------------------------------------------------


def handed(start: Start, broker: MemoryBroker) -> tuple[list[int], bool]:
    """Return what a runner was told of where records stand, and whether it leaves out nothing of its history."""
    positions = unpack(start.positions)
    stored = [message.seq for message in broker.records if message.seq <= start.until_seq]
    return list(positions.seqs), positions.through >= start.until_seq and list(positions.seqs) == stored


async def test_the_first_owner_is_told_where_all_stands(house: House) -> None:
    [start] = house.first.starts
    assert handed(start, house.broker) == ([1, 2, 3, 4, 5], True)


async def test_another_owner_is_told_where_all_stands(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    house.hear("hello")
    await house.first.write(cmd.Say(text="two"))
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 2))
    await house.first.write(cmd.Say(text="three"))  # which nobody has asked after
    searched = house.log.records_searched
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert handed(second.given, house.broker)[1]
    assert house.log.records_searched - searched <= second.given.epoch - house.first.seqs[2]


async def test_owners_take_turns_and_the_last_is_told_where_all_stands(house: House) -> None:
    runners = [house.first, await house.runner("runner-2")]
    for number in range(4):
        owner = runners[number]
        runners.append(await house.runner(f"runner-{number + 3}"))
        runners[-1].willing = False
        await owner.write(cmd.Say(text=f"{number}"), index=number + 1, settled=3)
        await house.clock.advance(1.1)
        await house.until(partial(house.is_charted, number + 1))
        runners[number + 1].willing = True
        await house.kill(owner)
        await house.until(partial(len, runners[number + 1].starts))
        assert handed(runners[number + 1].given, house.broker)[1]


async def test_an_owner_that_does_not_say_where_its_records_stand_is_replaced_as_ever(house: House) -> None:
    house.first.tells = False
    second = await house.runner("runner-2")
    for text in ("one", "two"):
        await house.first.write(cmd.Say(text=text))
    await house.clock.advance(1.1)
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    seqs, is_whole = handed(second.given, house.broker)
    assert (seqs[:5], is_whole) == ([1, 2, 3, 4, 5], False)
    assert unpack(second.given.positions).through < min(house.first.seqs.values())
    assert house.changes[-1].last_owner_index == 2


async def test_a_wrong_word_on_where_records_stand_costs_a_search_and_nothing_else(house: House) -> None:
    second = await house.runner("runner-2")
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.first.seqs = {index: seq + 50 for index, seq in house.first.seqs.items()}
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 3))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert (house.said, house.changes[-1].last_owner_index) == (["one", "two", "three"], 3)


async def test_a_place_that_is_left_out_costs_a_search_and_nothing_else(house: House) -> None:
    second = await house.runner("runner-2")
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.first.seqs[2] = house.first.seqs[1] + 1  # which is another session's, or none
    await house.clock.advance(1.1)
    await house.until(partial(house.is_charted, 3))
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="four"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert (house.said, house.changes[-1].last_owner_index) == (["one", "two", "three", "four"], 4)


async def test_an_owner_of_a_call_that_has_ended_is_told_where_all_stands(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    await house.clock.advance(1.1)
    await house.hang_up()
    await house.clock.advance(1.1)
    await house.kill(house.first)
    await house.until(lambda: any(isinstance(told, Start) for told in second.told))
    assert handed(second.given, house.broker)[1]


# --- a takeover -------------------------------------------------------------------------------------------------------


async def test_another_runner_takes_over_in_this_order(house: House) -> None:
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert second.offers == [Offer(job="job-1", bridge="bridge-1", agent="agent-1", resume=True, session="session-1")]
    assert [type(told) for told in second.told] == [Hold, Start]
    first, own = house.records(ev.OwnerAppointed)
    assert isinstance(own.body, ev.OwnerAppointed)
    assert (own.body.runner, own.body.takeover) == ("runner-2", 1)
    assert own.body.waited_ms is not None
    change = house.records(ev.OwnerChanged)[-1]
    assert change.body == ev.OwnerChanged(epoch=own.seq, runner="runner-2", takeover=1)
    assert (change.seq, change.envelope.index) == (own.seq + 1, 4)
    where = {"job": "job-1", "agent": "agent-1", "session": "session-1", "bridge": "bridge-1"}
    suspicion = second.starts[0].suspicion  # it had settled nothing
    assert suspicion is not None
    placed = {"epoch": own.seq, "until_seq": change.seq, "positions": second.given.positions, "held": True}
    start = Start(**where, **placed, suspicion=Suspicion(silent_s=suspicion.silent_s))  # type: ignore[arg-type]
    assert second.starts == [start]
    assert handed(second.given, house.broker)[1]  # what is held is read by then
    assert first.seq < own.seq


async def test_the_former_owner_writes_nothing_more_and_nothing_of_it_is_heard(house: House) -> None:
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    house.first.log.available = True
    house.first.speak(1, 1, "zombie")
    with pytest.raises(Fenced):
        await house.first.write(cmd.Say(text="zombie"))
    await settle()
    await second.write(cmd.Say(text="hello"))
    await settle()
    assert (house.said, house.spoken) == (["hello"], [])


async def test_what_the_former_owner_had_stored_is_performed_though_the_tail_lost_it(house: House) -> None:
    second = await house.runner("runner-2")
    await house.first.write(cmd.Say(text="one"))
    await settle()
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="two"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.said == ["one", "two"]
    assert house.changes[-1].last_owner_index == 2
    second.index = 2
    await second.write(cmd.Say(text="three"))
    await settle()
    assert house.said == ["one", "two", "three"]


async def test_a_hole_in_what_was_heard_of_the_former_owner_is_filled(house: House) -> None:
    second = await house.runner("runner-2")
    house.log.available = False
    for text in ("one", "two", "three"):
        await house.first.write(cmd.Say(text=text))
    house.log.available = True
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="four"))
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.said == ["one", "two", "three", "four"]
    assert house.changes[-1].last_owner_index == 4


async def test_a_reply_in_the_middle_goes_on(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.first.speak(1, 1, "one ")
    await settle()
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    change = house.changes[-1]
    assert (change.turn, change.part, change.chars, change.text) == (1, 0, 4, "one ")
    second.speak(1, 1, "two", part=1)
    await settle()
    await second.write(cmd.EndReply(turn=1, part=1, deltas=1, chars=3))
    await settle()
    assert house.spoken == ["one ", "two", None]


async def test_the_caller_goes_on_meanwhile(house: House) -> None:
    await house.kill(house.first)
    house.hear("is anybody there?")
    await settle()
    assert len(house.records(ev.UserText)) == 1
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    assert house.records(ev.OwnerChanged)[-1].envelope.index == house.records(ev.UserText)[0].envelope.index + 1


async def test_indexes_have_no_gap_though_the_caller_talks_all_the_time(house: House) -> None:
    second = await house.runner("runner-2")
    house.broker.delay_s = 0.002
    await house.kill(house.first)
    for number in range(200):
        house.hear(f"text {number}")
        await asyncio.sleep(0)
    await house.until(lambda: second.starts)
    change = house.records(ev.OwnerChanged)[-1]
    before = [record for record in house.records(object) if 0 < record.envelope.index < change.envelope.index]
    assert all(record.seq < change.seq for record in before if record.channel in ("evt", "ack"))
    indexes = [record.envelope.index for record in house.records(object) if record.channel in ("evt", "ack")]
    assert sorted(indexes) == list(range(1, len(indexes) + 1))


# --- who takes it -----------------------------------------------------------------------------------------------------


async def test_the_only_runner_dies_and_another_comes_later(house: House) -> None:
    house.hear("hi")
    await house.kill(house.first)
    await house.clock.advance(20)
    assert house.said == ["One moment please."]
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    await house.clock.advance(200)
    assert not house.task or not house.task.done()


async def test_nobody_ever_takes_it(house: House) -> None:
    await house.kill(house.first)
    await house.clock.advance(119)
    assert house.task is not None
    assert not house.task.done()
    await house.clock.advance(2)
    result = await house.task
    assert result.reason == "error"
    assert result.after is not None


async def test_a_runner_that_dies_before_it_has_begun_costs_another_try(house: House) -> None:
    second = await house.runner("runner-2")
    second.deaf_to = Start
    await house.kill(house.first)
    await house.until(lambda: len(second.told) > 1)
    second.die()
    third = await house.runner("runner-3")
    await house.until(lambda: third.starts)
    assert [change.takeover for change in house.changes] == [0, 1, 2]
    assert house.changes[-1].skip == ""


async def test_one_that_is_held_when_its_owner_dies_is_not_blamed(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("hi")
    owner = house.first
    for number in range(2, 6):
        following = await house.runner(f"runner-{number}")
        following.lets_in = False
        await house.kill(owner)
        await house.until(lambda runner=following: len(runner.told) > 1)  # type: ignore[misc]
        assert house.probations.count(following.runner_id) == 0
        owner = following
    owner.let_in()
    await settle()
    assert house.probations.count(owner.runner_id) == 1
    assert {change.skip for change in house.changes} == {""}


async def test_a_first_runner_that_does_not_begin_is_replaced() -> None:
    async with a_house(started=False) as house:
        second = await house.runner("runner-2")
        house.dispatcher.changed()
        await house.until(lambda: second.starts)
        assert house.place.released == ["not started"]
        await second.write(cmd.Say(text="hello"))
        await settle()
        assert house.said == ["hello"]


async def test_one_that_was_only_stopped_keeps_its_call_while_nobody_else_is_there(house: House) -> None:
    house.first.log.frozen = True
    house.lose("does not answer for it")
    await house.clock.advance(6)
    assert house.said == []
    house.hear("hello?")
    await house.clock.advance(1)
    assert house.said == ["One moment please."]
    house.first.log.frozen = False
    await house.clock.advance(1.0)
    await house.first.write(cmd.Say(text="here I am"))
    await settle()
    assert house.said[1:] == ["here I am"]
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.clock.advance(1.0)
    assert second.offers == []


async def test_one_that_has_just_failed_is_not_asked_again_at_once(house: House) -> None:
    house.first.willing = True
    house.lose("has not turned for 6 s")
    await house.until(lambda: house.first.told)
    assert {type(told) for told in house.first.told} == {Release}
    await house.until(lambda: len(house.first.starts) == 2)  # but before nobody is


# --- letting go -------------------------------------------------------------------------------------------------------


async def test_a_call_is_handed_over_between_turns(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.first.speak(1, 1, "one")
    await settle()
    house.watch._sessions["session-1"].ward.hand_over()
    await house.until(lambda: second.told)
    await house.clock.advance(3)
    house.first.speak(1, 2, " two")
    await settle()
    await house.first.write(cmd.EndReply(turn=1, deltas=2, chars=7))
    await settle()
    assert second.starts == []
    await house.clock.advance(0.1)
    await house.until(lambda: second.starts)
    assert house.spoken == ["one", " two", None]
    assert [type(told) for told in second.told] == [Hold, Hold, Start]


async def test_a_turn_that_takes_long_is_handed_over_in_its_middle(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.watch._sessions["session-1"].ward.hand_over()
    await house.until(lambda: second.told)
    await house.clock.advance(successions.BETWEEN_TURNS_S + 0.1)
    await house.until(lambda: second.starts)
    assert house.changes[-1].skip == ""


async def test_one_that_dies_while_it_lets_go_is_not_waited_for(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    house.watch._sessions["session-1"].ward.hand_over()
    await house.until(lambda: second.told)
    await house.kill(house.first)
    await house.clock.advance(0.1)
    await house.until(lambda: second.starts)


# --- poison -----------------------------------------------------------------------------------------------------------


async def test_a_text_that_kills_its_runners_is_skipped_and_at_last_ends_the_call(house: House) -> None:
    owner = house.first
    await owner.write(ev.Settled(), settled=3)
    house.hear("boom")
    await settle()
    for number in range(2, 6):
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    text = house.records(ev.UserText)[0].envelope.id
    assert [change.skip for change in house.changes] == ["", "", text, text, text]
    (ended,) = house.records(ev.CallEnded)
    assert isinstance(ended.body, ev.CallEnded)
    assert ended.body.reason == "error"
    assert house.changes[-1].runner == "runner-5"  # for the cleanup


async def test_an_owner_that_came_past_it_is_not_blamed(house: House) -> None:
    owner = house.first
    for number in range(2, 6):
        house.hear("hi")
        await settle()
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        following.index = owner.index
        await following.write(ev.Settled(), settled=3 + 2 * number)
        await settle()
        owner = following
    assert {change.skip for change in house.changes} == {""}


@pytest.mark.parametrize(("culprit", "skipped"), [("session-1", True), ("another", False)])
async def test_a_runner_that_says_whose_code_it_stands_still_in_settles_who_is_to_blame(
    house: House, culprit: str, *, skipped: bool
) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("burn")
    await settle()
    owner = house.first
    for number in (2, 3):
        following = await house.runner(f"runner-{number}")
        owner.culprit, owner.willing = culprit, False
        await house.clock.advance(1.0)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert bool(house.changes[-1].skip) is skipped


async def test_a_call_between_turns_is_not_blamed_for_what_kills_its_runners(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    owner = house.first
    for number in range(2, 7):
        await house.clock.advance(successions.YOUNG_S)
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert {change.skip for change in house.changes} == {""}
    assert not house.records(ev.CallEnded)


async def test_while_another_is_on_probation_with_it_that_one_is_blamed(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    second.speak(1, 1, "past the hooks")
    await settle()
    assert house.probations.count("runner-2") == 0
    house.beside(second, "other-0")
    third = await house.runner("runner-3")
    await house.kill(second)
    await house.until(lambda: third.starts)
    assert house.changes[-1].skip == ""


async def test_of_several_on_probation_none_is_blamed_and_each_is_alone_from_then_on(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    house.hear("boom")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert [start.suspicion is not None and start.suspicion.alone for start in second.starts] == [False]
    house.beside(second, "other-1")
    assert house.probations.count("runner-2") == 2
    third = await house.runner("runner-3")
    await house.kill(second)
    await house.until(lambda: third.starts)
    assert [start.suspicion is not None and start.suspicion.alone for start in third.starts] == [True]
    assert house.changes[-1].skip == ""
    fourth = await house.runner("runner-4")
    await house.kill(third)
    await house.until(lambda: fourth.starts)
    assert house.changes[-1].skip == house.records(ev.UserText)[0].envelope.id


# --- probation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["settled", "spoken", "told"])
async def test_probation_ends_when_the_owner_shows_that_it_lives(house: House, sign: str) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.probations.count("runner-2") == 1
    if sign == "settled":
        await second.write(ev.Settled(), index=1, settled=4)
    elif sign == "told":
        second.say("over")
    else:
        second.speak(1, 1, "a")
    await settle()
    assert house.probations.count("runner-2") == 0


async def test_probation_ends_by_itself(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    await house.clock.advance(PROBATION_S - 0.1)
    assert house.probations.count("runner-2") == 1
    await house.clock.advance(0.2)
    assert house.probations.count("runner-2") == 0


async def test_a_runner_of_an_older_release_is_told_to_begin_at_once(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    second.older = True
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert [(start.held, start.suspicion) for start in second.starts] == [(False, None)]
    assert house.probations.count("runner-2") == 1


async def test_a_call_that_waits_for_nothing_is_not_on_probation(house: House) -> None:
    await house.first.write(ev.Settled(), settled=3)
    await house.clock.advance(successions.YOUNG_S)
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert house.probations.count("runner-2") == 0


async def test_a_word_of_its_beginning_that_is_lost_makes_it_no_less_past_its_probation(house: House) -> None:
    house.hear("hi")
    second = await house.runner("runner-2")
    second.lets_in = False
    await house.kill(house.first)
    await house.until(lambda: len(second.told) > 1)
    second.speak(1, 1, "a")
    await settle()
    second.say("begun")
    assert house.probations.count("runner-2") == 0


# --- the log and the tail ---------------------------------------------------------------------------------------------


async def test_a_last_record_that_the_tail_has_lost_is_found_by_the_second_ping(house: House) -> None:
    house.broker.drop(CALL.cmd)
    await house.first.write(cmd.Say(text="lost"))
    await settle()
    assert house.said == []
    await house.clock.advance(1.1)
    assert house.said == []  # what an owner has just written may be on its way
    await house.clock.advance(1.1)
    assert house.said == ["lost"]


async def test_a_takeover_waits_for_the_log(house: House) -> None:
    second = await house.runner("runner-2")
    house.hear("hi")
    await settle()
    house.broker.skip_acks = 1  # the answer to `own` is lost: whether it is stored is not known
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    assert len(house.records(ev.OwnerAppointed)) == 2
    assert house.changes[-1].epoch == house.records(ev.OwnerAppointed)[-1].seq


async def test_a_line_that_is_another_bridges_is_let_go(house: House) -> None:
    await house.runner("runner-2")
    line = house.records(ev.LineTaken)[0]
    newest = next(m for m in house.broker.records if m.subject == CALL.line)
    await MemoryLog(house.broker).append(CALL.line, line.data, {**newest.headers, "Nats-Msg-Id": "other"})
    await house.kill(house.first)
    assert house.task is not None
    async with asyncio.timeout(5):
        result = await house.task
    assert result.after is None
    assert house.worker.socket.closed == 1012


# --- after the call ---------------------------------------------------------------------------------------------------


async def test_a_session_that_is_closed_needs_nobody(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.run())
    await settle()
    assert not waiting.done()
    await house.first.write(ev.SessionFinished())
    async with asyncio.timeout(5):
        await waiting
    assert not house.watch._sessions


async def test_a_session_that_is_closed_at_once_needs_nobody(house: House) -> None:
    def close(message: Message) -> None:
        tasks.append(asyncio.create_task(house.first.write(ev.SessionFinished())))

    tasks: list[asyncio.Task[str]] = []
    await house.first.log.subscribe(CALL.evt("call.ended"), close)
    result = await house.hang_up()
    assert result.after is not None
    async with asyncio.timeout(5):
        await result.after.run()
        await asyncio.gather(*tasks)


async def test_a_cleanup_is_begun_again_three_times_and_then_given_up(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.run())
    owner = house.first
    for number in range(2, 5):
        following = await house.runner(f"runner-{number}")
        await house.kill(owner)
        await house.until(lambda runner=following: runner.starts)  # type: ignore[misc]
        owner = following
    assert [change.takeover for change in house.changes] == [0, 1, 2, 3]
    indexes = [record.envelope.index for record in house.records(object) if record.channel in ("evt", "ack")]
    assert indexes == list(range(1, len(indexes) + 1))
    last = await house.runner("runner-5")
    await house.kill(owner)
    async with asyncio.timeout(5):
        await waiting
    assert last.offers == []


async def test_a_cleanup_whose_last_word_the_tail_has_lost_is_not_begun_again(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.run())
    await settle()
    house.broker.drop(CALL.run("session.closed"))
    await house.first.write(ev.SessionFinished())
    second = await house.runner("runner-2")
    await house.kill(house.first)
    async with asyncio.timeout(5):
        await waiting
    assert second.offers == []


async def test_a_call_that_ends_while_nobody_owns_it_is_cleaned_up(house: House) -> None:
    house.hear("hi")
    house.first.speak(1, 1, "one")
    await settle()
    await house.kill(house.first)
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.run())
    second = await house.runner("runner-2")
    house.dispatcher.changed()
    await house.until(lambda: second.starts)
    change = house.changes[-1]
    assert (change.turn, change.text) == (1, "one")
    second.index = 0
    await second.write(ev.SessionFinished(), settled=9)
    async with asyncio.timeout(5):
        await waiting


async def test_the_word_of_one_that_owns_it_no_more_closes_nothing(house: House) -> None:
    result = await house.hang_up()
    assert result.after is not None
    waiting = asyncio.create_task(result.after.run())
    second = await house.runner("runner-2")
    await house.kill(house.first)
    await house.until(lambda: second.starts)
    house.first.log.available = True
    with pytest.raises(Fenced):
        await house.first.write(ev.SessionFinished())
    await settle()
    assert not waiting.done()
    await second.write(ev.SessionFinished(), index=1)
    async with asyncio.timeout(5):
        await waiting
