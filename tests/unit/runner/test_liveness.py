"""What a runner answers to a ping; that a thread does so is shown with a real server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from unpod.core.dispatch_messages import PING, PULSE, Ping, Pulse, encode
from unpod.jetstream import NatsOptions
from unpod.ports import Message
from unpod.runner.liveness import BEAT_S, OwnedSession, PulseThread
from unpod.testing import MemoryLog
from unpod.testing.clock import settle


@dataclass
class Session:
    epoch: int
    owner_index: int
    bridge_index: int
    expected: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    forgotten: int = 0

    def stored(self, after: int) -> tuple[int, list[int]] | None:
        return (after, self.seqs[after:]) if self.seqs else None

    def forget(self, until: int) -> None:
        self.forgotten = until

    def expect(self, index: int) -> None:
        self.expected.append(index)


@pytest.fixture
def sessions() -> dict[str, Session]:
    return {"a": Session(7, 3, 10), "b": Session(8, 0, 4)}


@pytest.fixture
async def pulse(sessions: dict[str, Session]) -> PulseThread:
    def find(session_id: str) -> OwnedSession | None:
        return sessions.get(session_id)

    return PulseThread(NatsOptions(urls=("nats://127.0.0.1:1",)), "unpod.runner.r.ping", "r", find, lambda _: None)


async def test_it_says_where_records_stand_of_which_it_is_asked(
    pulse: PulseThread, sessions: dict[str, Session]
) -> None:
    sessions["a"].seqs = [70, 81, 82]
    ping = Ping(bridge="b1", sessions={"a": 10, "b": 4}, after={"a": 1, "b": 0, "gone": 3})
    assert pulse._answer(ping).stored == {"a": (1, [81, 82])}  # b has not begun
    await settle()
    assert (sessions["a"].forgotten, sessions["b"].forgotten) == (1, 0)


def answer(pulse: PulseThread, **asked: int) -> Pulse:
    return pulse._answer(PING.decode(encode(Ping(bridge="b1", sessions=asked))))


async def test_it_answers_for_the_sessions_that_it_is_asked_about_and_has(pulse: PulseThread) -> None:
    assert answer(pulse, a=10, c=5) == Pulse(runner="r", sessions={"a": (7, 3)})
    assert answer(pulse) == Pulse(runner="r")


async def test_it_has_a_session_fetch_what_its_bridge_has_written_and_it_has_not(
    pulse: PulseThread, sessions: dict[str, Session]
) -> None:
    answer(pulse, a=10, b=6)
    answer(pulse, a=9)
    await settle()
    assert (sessions["a"].expected, sessions["b"].expected) == ([], [6])


async def test_lag_is_how_long_the_event_loop_is_late(pulse: PulseThread) -> None:
    pulse._turn()
    assert answer(pulse).lag_s == 0
    time.sleep(BEAT_S + 0.05)  # noqa: ASYNC251 - this is what blocks
    assert 0.04 < answer(pulse).lag_s < 1
    await asyncio.sleep(0.01)
    assert answer(pulse).lag_s == 0
    await pulse.stop()


async def test_what_cannot_be_read_is_not_answered(pulse: PulseThread) -> None:
    bus = MemoryLog()
    answers: list[Message] = []
    await bus.subscribe("inbox", answers.append)
    for data in (b"", b"[" * 100_000, b'{"sessions": 3}', b'"\xff"'):
        pulse._on_ping(bus, Message("ping", data, reply="inbox"))
    pulse._on_ping(bus, Message("ping", b'{"bridge": "b1", "sessions": {"a": 1}, "more": 2}', reply="inbox"))
    await settle()
    assert [PULSE.decode(message.data).sessions for message in answers] == [{"a": (7, 3)}]


async def test_many_sessions_cost_little(pulse: PulseThread, sessions: dict[str, Session]) -> None:
    names = [f"session-{number:032}" for number in range(10_000)]
    sessions.update({name: Session(1, 2, 3) for name in names})
    began = time.process_time()
    data = encode(answer(pulse, **dict.fromkeys(names, 3)))
    assert len(data) < 1_000_000
    assert time.process_time() - began < 1
