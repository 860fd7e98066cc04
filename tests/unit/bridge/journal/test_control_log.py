"""The tail says that there is a control; the log says what it is."""

from __future__ import annotations

import asyncio

from unpod.core import codec
from unpod.core.controls import AnyControl, SaySomething
from unpod.core.envelope import Envelope, to_headers
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.memory import MemoryLog
from unpod_bridge.journal.control_log import ControlReader
from unpod_bridge.protocol.controls import Asked

SUBJECTS = Subjects()
CALL = SUBJECTS.call("agent", "session")


class Desk:
    """A log, its time, and what has come out of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.log = MemoryLog(MemoryBroker(now_ns=self.clock.now_ns))
        self.asked: list[Asked] = []
        self.reader = ControlReader(self.log, self.clock, SUBJECTS, CALL, since=1, ask=self.asked.append)

    async def publish(self, name: str, control: AnyControl | None = None) -> Message:
        """Store a control; return it as the tail shows it."""
        message = told(name)
        data = b"{" if control is None else codec.encode(control)
        await self.log.append(CALL.ctl, data, message.headers)
        return message

    @property
    def names(self) -> list[str]:
        return [asked.id for asked in self.asked]


def told(name: str) -> Message:
    envelope = Envelope(id=name, type="ctl.say", source="x", session="session", time=1.0, epoch=0, index=0)
    return Message(CALL.ctl, b"", to_headers(envelope))


async def test_each_is_handed_over_in_the_order_of_the_log_with_its_time() -> None:
    desk = Desk()
    await desk.publish("a", SaySomething(text="one"))
    hint = await desk.publish("b")
    assert desk.reader.hint(hint)
    await desk.reader.read()
    now = desk.clock.now()
    assert desk.asked == [Asked("a", SaySomething(text="one"), now), Asked("b", None, now)]
    assert desk.reader.hint(None)
    await desk.reader.read()
    assert desk.names == ["a", "b"]


async def test_what_the_log_does_not_have_yet_is_looked_for_and_what_it_refused_is_not_done() -> None:
    desk = Desk()
    assert desk.reader.hint(told("late"))
    reading = asyncio.create_task(desk.reader.read())
    await settle()
    assert not desk.reader.hint(told("refused"))
    await desk.publish("late", SaySomething(text="one"))
    await desk.clock.advance(5)
    await reading
    assert desk.names == ["late"]
    assert desk.reader.hint(None)


async def test_a_log_that_is_away_is_asked_again() -> None:
    desk = Desk()
    hint = await desk.publish("a", SaySomething(text="one"))
    desk.log.available = False
    desk.reader.hint(hint)
    reading = asyncio.create_task(desk.reader.read())
    await settle()
    await desk.clock.advance(1)
    assert desk.names == []
    desk.log.available = True
    await desk.clock.advance(10)
    await reading
    assert desk.names == ["a"]


async def test_one_without_an_envelope_is_passed_over() -> None:
    desk = Desk()
    desk.log.send(CALL.ctl, b"{}")
    hint = await desk.publish("a", SaySomething(text="one"))
    desk.reader.hint(hint)
    await desk.reader.read()
    assert desk.names == ["a"]
