"""Noticing that runners are gone, over the bus in memory; the seconds between pings are virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from unpod.core.dispatch_messages import HAND_OVER, PING, TOLD, HandOver, Ping, Pulse, Told, encode
from unpod.core.subjects import Subjects
from unpod.errors import LogError, LogUnavailable
from unpod.jetstream.connection.options import PermissionDenied
from unpod.ports import Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.memory import MemoryLog
from unpod_bridge.fleet import runner_health as watching
from unpod_bridge.fleet.disconnects import departed
from unpod_bridge.fleet.runner_health import RunnerHealth

SUBJECTS = Subjects()


@dataclass
class Session:
    """What is watched."""

    session_id: str = "s"
    index: int = 7
    heard_at: float = 0.0
    told: list[str] = field(default_factory=list)
    uncharted: int | None = None
    charted: list[tuple[int, tuple[int, list[int]] | None, int]] = field(default_factory=list)

    def heard(self, last: int, stored: tuple[int, list[int]] | None, horizon: int) -> None:
        self.charted.append((last, stored, horizon))
        if not self.told or self.told[-1] != f"heard {last}":
            self.told.append(f"heard {last}")

    def lost(self, why: str, culprit: str = "") -> None:
        self.told.append(f"lost: {why}" + f" in {culprit}" * bool(culprit))

    def succeed(self) -> None:
        self.told[-1] += ", and succeeded"

    def found(self) -> None:
        self.told.append("found")

    def hand_over(self) -> None:
        self.told.append("hand over")


class Runner:
    """Answers pings as it is told."""

    def __init__(self, broker: MemoryBroker, runner_id: str = "runner-1") -> None:
        self.bus = MemoryLog(broker)
        self.runner_id = runner_id
        self.sessions: dict[str, tuple[int, int]] = {"s": (5, 0)}
        self.stored: dict[str, tuple[int, list[int]]] = {}
        self.lag_s = 0.0
        self.culprit = ""
        self.nonsense = b""
        self.mute = False
        self.pings: list[Ping] = []
        self._reply = ""

    async def listen(self) -> Runner:
        await self.bus.subscribe(f"{SUBJECTS.runner(self.runner_id)}.ping", self._on_ping)
        return self

    def _on_ping(self, message: Message) -> None:
        self.pings.append(PING.decode(message.data))
        self._reply = message.reply
        if not self.mute:
            self.answer_last()

    def answer_last(self) -> None:
        pulse = Pulse(
            runner=self.runner_id,
            lag_s=self.lag_s,
            culprit=self.culprit,
            sessions=self.sessions,
            stored=self.stored,
        )
        self.bus.send(self._reply, self.nonsense or encode(pulse))


class Post:
    """A bridge's watch, with everything around it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker()
        self.bus = MemoryLog(self.broker)
        self.dead: list[str] = []
        self.runner_health = RunnerHealth(self.bus, SUBJECTS, self.clock, "bridge-1", on_dead=self.dead.append)
        self.bus.on_state(self.runner_health.connected)
        self.session = Session()

    async def runner(self, runner_id: str = "runner-1") -> Runner:
        return await Runner(self.broker, runner_id).listen()

    async def second(self, count: int = 1) -> None:
        """Let the next pings be sent, and answered or timed out."""
        for _ in range(count):
            await self.clock.advance(watching.PING_S)
            await self.asked()

    async def asked(self) -> None:
        while self.runner_health._asking:
            await asyncio.wait(tuple(self.runner_health._asking.values()), timeout=0.01)
            await self.clock.advance(0.0)
        await settle()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PROBE_S", 0.02)
    monkeypatch.setattr(watching, "ANSWER_S", 0.05)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    task = asyncio.create_task(made.runner_health.run())
    await settle()
    yield made
    task.cancel()
    await asyncio.wait({task})


async def test_a_ping_each_second_says_how_far_the_bridge_is(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    await post.second(3)
    assert runner.pings == [Ping(bridge="bridge-1", sessions={"s": 7})] * 3
    assert post.session.told == ["heard 0"]
    runner.sessions["s"] = (5, 3)
    await post.second()
    assert post.session.told == ["heard 0", "heard 3"]


async def test_where_nobody_is_the_runner_is_dead(post: Post) -> None:
    post.runner_health.add(post.session, "runner-1", 5)
    await post.clock.advance(1.0)
    assert post.session.told == []  # it may just be changing servers
    await post.clock.advance(0.2)
    assert post.session.told == ["lost: is gone, and succeeded"]
    assert not post.runner_health.holds(post.session)
    await post.second(3)
    assert post.session.told == ["lost: is gone, and succeeded"]


async def test_a_runner_that_changes_servers_is_not_dead(post: Post) -> None:
    post.runner_health.add(post.session, "runner-1", 5)
    await post.clock.advance(1.0)
    await post.runner()
    await post.clock.advance(0.2)
    assert post.session.told == ["heard 0"]
    assert post.runner_health.holds(post.session)


async def test_three_pings_without_answer(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    runner.mute = True
    await post.clock.advance(watching.PING_S)
    await until(lambda: len(runner.pings) == 3)
    assert post.session.told == []
    await until(lambda: bool(post.session.told))
    assert post.session.told == ["lost: does not answer for it, and succeeded"]
    assert len(runner.pings) == 3
    runner.mute = False
    await post.second()
    assert post.session.told[1:] == ["found", "heard 0"]


async def test_no_runner_is_lost_for_a_silence_of_the_server(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.server_answered()
    runner.mute = True
    await post.clock.advance(watching.DEAF_S)
    await post.second(4)
    assert post.session.told == []
    for _ in range(2):
        post.runner_health.server_answered()
        await post.second()
    assert post.session.told == ["lost: does not answer for it, and succeeded"]


async def test_after_a_silence_of_the_server_a_runner_has_time_to_come_back(post: Post) -> None:
    post.runner_health.server_answered()
    await post.clock.advance(watching.DEAF_S)
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.server_answered()
    await post.clock.advance(watching.PING_S + 0.5)
    assert post.runner_health.holds(post.session)
    await post.clock.advance(3.0)
    assert post.session.told == ["lost: is gone, and succeeded"]


@pytest.mark.parametrize("trouble", ["none", "lag", "silence"])
async def test_an_answer_says_nothing_of_one_that_has_come_to_another_meanwhile(post: Post, trouble: str) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    runner.mute = True
    await post.clock.advance(watching.PING_S)
    await until(lambda: bool(runner.pings))
    post.runner_health.add(post.session, "runner-2", 9)
    if trouble != "silence":
        runner.lag_s = watching.LAG_S + 1 if trouble == "lag" else 0.0
        runner.stored["s"] = (0, [70])
        runner.answer_last()
    await post.asked()
    assert post.session.told == []
    assert post.session.charted == []


async def test_an_answer_between_begins_the_count_anew(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    for _ in range(2):
        runner.mute = True
        runner.pings.clear()
        await post.clock.advance(watching.PING_S)
        await until(lambda: len(runner.pings) == 3)
        runner.mute = False
        runner.answer_last()
        await post.asked()
    assert post.session.told == ["heard 0"]


async def test_what_could_not_be_sent_is_not_missed(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    for error in (LogUnavailable("NATS has stopped reading"), PermissionDenied("publish", "x")):
        post.bus.request = failing(error)  # type: ignore[assignment,method-assign]
        await post.second(5)
    assert post.session.told == []
    assert "may not publish on 'x'" in caplog.text


@pytest.mark.parametrize("known", [{}, {"s": (4, 9)}, {"other": (5, 0)}])
async def test_a_session_that_its_runner_does_not_know(post: Post, known: dict[str, tuple[int, int]]) -> None:
    runner = await post.runner()
    runner.sessions = known
    post.runner_health.add(post.session, "runner-1", 5)
    await post.second(3)  # the first is within the grace
    assert post.session.told == []
    await post.second()
    assert post.session.told == ["lost: does not answer for it, and succeeded"]


async def test_nonsense_for_an_answer_is_no_answer(post: Post) -> None:
    runner = await post.runner()
    runner.nonsense = b"["
    post.runner_health.add(post.session, "runner-1", 5)
    await post.second(4)
    assert post.session.told == ["lost: does not answer for it, and succeeded"]


async def test_sessions_of_an_event_loop_that_does_not_turn_are_moved(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    runner.lag_s = 4.9
    await post.second()
    runner.lag_s = 5.9
    await post.second(2)
    assert post.session.told == ["heard 0", "lost: has not turned for 6 s, and succeeded"]
    runner.lag_s = 0.0
    await post.second()
    assert post.session.told[2:] == ["found", "heard 0"]


async def test_the_sessions_of_a_runner_that_stands_still_hear_in_whose_code(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    runner.lag_s, runner.culprit = 5.9, "another"
    await post.second()
    assert post.session.told == ["lost: has not turned for 6 s in another, and succeeded"]


async def test_a_session_that_has_moved_is_watched_at_its_new_runner(post: Post) -> None:
    first, second = await post.runner(), await post.runner("runner-2")
    second.sessions = {"s": (9, 2)}
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.add(post.session, "runner-2", 9)
    await post.second()
    assert (first.pings, len(second.pings)) == ([], 1)
    assert post.session.told == ["heard 2"]
    post.runner_health.remove("s")
    post.runner_health.remove("s")
    await post.second()
    assert len(second.pings) == 1


async def test_while_our_own_connection_is_lost_nobody_else_is(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    post.bus.available = False
    await post.second(10)
    assert post.session.told == []
    runner.bus.available = False  # it had the same server, and needs a moment longer
    post.bus.available = True
    await settle()
    await post.clock.advance(1.5)
    assert post.session.told == []
    runner.bus.available = True
    await post.clock.advance(1.0)
    assert post.session.told == ["heard 0"]
    assert len(runner.pings) >= 1


async def test_after_a_reconnect_everybody_is_asked_at_once(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    post.bus.available = False
    post.bus.available = True
    await settle()
    assert len(runner.pings) == 1
    assert post.session.told == ["heard 0"]


async def test_a_runner_that_stays_away_after_a_reconnect_is_dead(post: Post) -> None:
    post.runner_health.add(post.session, "runner-1", 5)
    post.bus.available = False
    post.bus.available = True
    await post.clock.advance(4.0)
    assert post.session.told == ["lost: is gone, and succeeded"]


async def test_one_that_is_said_to_have_gone_is_asked_at_once(post: Post) -> None:
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.said_gone("runner-9")
    post.runner_health.said_gone("runner-1")
    await settle()
    assert post.session.told == ["lost: is gone, and succeeded"]


async def test_an_idle_runner_that_is_gone_is_known_to_be_dead_and_one_that_is_there_is_not(post: Post) -> None:
    runner = await post.runner("runner-2")
    back = Runner(post.broker, "runner-3")
    for each in ("runner-1", "runner-2", "runner-3"):
        post.runner_health.said_gone(each)
    await settle()
    assert post.dead == []
    await back.listen()  # it has only changed servers
    await post.clock.advance(watching.NOBODY_PAUSE_S)
    await settle()
    assert post.dead == ["runner-1"]
    assert (len(runner.pings), len(back.pings)) == (1, 1)


async def test_what_was_asked_while_it_died_is_asked_again(post: Post) -> None:
    runner = await post.runner()
    runner.mute = True
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.said_gone("runner-1")
    await until(lambda: len(runner.pings) > 1)
    runner.bus.available = False
    await until(lambda: bool(post.session.told))
    assert post.session.told == ["lost: is gone, and succeeded"]


async def test_one_that_is_only_said_to_have_gone_stays(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health.said_gone("runner-1")
    await settle()
    assert post.session.told == ["heard 0"]
    assert len(runner.pings) == 1


async def test_however_often_it_is_said_one_look_follows_another(post: Post) -> None:
    runner = await post.runner()
    runner.mute = True
    for _ in range(100):
        post.runner_health.said_gone("runner-1")
    await until(lambda: bool(runner.pings))
    post.runner_health.said_gone("runner-1")  # it may have died after it was asked
    runner.mute = False
    runner.answer_last()
    await settle()
    assert len(runner.pings) == 2
    runner.bus.available = False
    post.runner_health.said_gone("runner-1")
    await settle()
    await post.clock.advance(watching.NOBODY_PAUSE_S)
    await settle()
    assert post.dead == ["runner-1"]


@pytest.mark.parametrize(("pad", "named"), [(0, [2, 2, 1]), (40_000, [1] * 5), (100_000, [1] * 5)])
async def test_a_ping_names_so_many_sessions_as_the_server_takes(
    post: Post, monkeypatch: pytest.MonkeyPatch, pad: int, named: list[int]
) -> None:
    monkeypatch.setattr(watching, "CHUNK", 2)
    runner = await post.runner()
    sessions = [Session(f"s{number}" + "-" * pad) for number in range(5)]
    for session in sessions:
        post.runner_health.add(session, "runner-1", 5)
        runner.sessions[session.session_id] = (5, 1)
    await post.second()
    assert [len(ping.sessions) for ping in runner.pings] == named
    assert all(session.told == ["heard 1"] for session in sessions)


async def test_many_that_have_lost_their_owner_all_know_before_the_first_looks_for_another(post: Post) -> None:
    told: list[str] = []
    await post.runner()

    class One(Session):
        def lost(self, why: str, culprit: str = "") -> None:
            del why, culprit
            told.append(f"{self.session_id} lost")

        def succeed(self) -> None:
            told.append(f"{self.session_id} succeeds")

    count = 3 * watching.AT_ONCE
    for number in range(count):
        post.runner_health.add(One(f"s{number}", heard_at=-number), "runner-9", 5)
    post.runner_health.said_gone("runner-9")
    await settle()
    order = [f"s{number}" for number in range(count)]
    assert told[:count] == [f"{session} lost" for session in order]
    assert told[count:] == [f"{session} succeeds" for session in order]


async def test_a_runner_that_lets_go(post: Post) -> None:
    post.runner_health.add(post.session, "runner-1", 5)
    asker = MemoryLog(post.broker)

    def hear(message: Message) -> None:
        post.runner_health.hand_over(HAND_OVER.decode(message.data), message.reply)

    await post.bus.subscribe(SUBJECTS.bridge("bridge-1"), hear)

    async def ask(message: HandOver) -> Told:
        answer = await asker.request(SUBJECTS.bridge("bridge-1"), encode(message), timeout_s=1.0)
        return TOLD.decode(answer.data)

    assert (await ask(HandOver(runner="runner-2", sessions=("s",)))).ok  # not its own: another has it by now
    assert post.session.told == []
    assert (await ask(HandOver(runner="runner-1", sessions=("unknown", "s")))).ok
    assert post.session.told == ["hand over"]
    await asker.publish(SUBJECTS.bridge("bridge-1"), encode(HandOver(runner="runner-1", sessions=("s",))))
    await settle()
    assert post.session.told == ["hand over"] * 2


@pytest.mark.parametrize(
    ("data", "process"),
    [
        (b'{"client":{"name":"unpod runner-1","acc":"A"},"reason":"Client Closed"}', "runner-1"),
        (b'{"client":{"name":"runner-1"}}', "runner-1"),
        (b'{"client":{}}', ""),
        (b'{"client":{"name":5}}', ""),
        (b"[]", ""),
        (b"\xff", ""),
    ],
)
def test_who_has_departed(data: bytes, process: str) -> None:
    assert departed(data) == process


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - real time, and the condition has no event
            await asyncio.sleep(0.001)  # a request's time-out is real time


def failing(error: LogError) -> Callable[..., Awaitable[Message]]:
    async def request(subject: str, data: bytes, *, timeout_s: float) -> Message:
        raise error

    return request


async def test_an_owner_is_asked_where_its_records_stand(post: Post) -> None:
    runner = await post.runner()
    post.runner_health.add(post.session, "runner-1", 5)
    post.session.uncharted = 2
    runner.stored = {"s": (2, [70, 80])}
    post.runner_health._horizon.seq = 60
    await post.second()
    assert runner.pings == [Ping(bridge="bridge-1", sessions={"s": 7}, after={"s": 2})]
    assert post.session.charted == [(0, (2, [70, 80]), 60)]


async def test_what_comes_into_the_log_while_an_owner_is_asked_is_not_behind_its_answer(post: Post) -> None:
    runner = await post.runner()
    runner.mute = True
    post.runner_health.add(post.session, "runner-1", 5)
    post.runner_health._horizon.seq = 60
    await post.clock.advance(watching.PING_S)
    post.runner_health._horizon.seq = 99
    runner.answer_last()
    await post.asked()
    assert post.session.charted == [(0, None, 60)]
