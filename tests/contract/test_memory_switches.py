"""What the log in memory can do on request, and NATS only by accident."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.test_bus import Heard
from tests.contract.test_event_log import CMD, OWN, msg_id, read

from unpod.errors import LogUnavailable
from unpod.ports import Fence
from unpod.testing.broker import MemoryBroker, matches
from unpod.testing.memory import MemoryLog


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("*", "a.b", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_patterns(pattern: str, subject: str, expected: bool) -> None:  # noqa: FBT001 - a column of the table
    assert matches(pattern, subject) is expected


async def test_a_dropped_message_is_stored_all_the_same() -> None:
    broker = MemoryBroker()
    log, heard = MemoryLog(broker), Heard()
    await log.subscribe("unpod.call.>", heard)
    broker.drop(CMD, 2)
    for n in range(4):
        await log.append(CMD, b"%d" % n, msg_id(str(n)))
    assert await heard.until(2) == [b"2", b"3"]
    assert len(await read(log)) == 4


async def test_a_delay_keeps_the_order() -> None:
    broker = MemoryBroker()
    log, heard = MemoryLog(broker), Heard()
    await log.subscribe("unpod.call.>", heard)
    broker.delay_s = 0.005
    for n in range(5):
        await log.append(CMD, b"%d" % n, msg_id(str(n)))
    assert not heard.messages
    broker.delay_s = 0.0
    await log.append(CMD, b"5", msg_id("5"))
    assert await heard.until(6) == [b"%d" % n for n in range(6)]


async def test_a_frozen_process_hears_it_later() -> None:
    broker = MemoryBroker()
    zombie, other, heard = MemoryLog(broker), MemoryLog(broker), Heard()
    await zombie.subscribe("x", heard)
    zombie.frozen = True
    await other.publish("x", b"1")
    with pytest.raises(LogUnavailable):  # it is asked, and does not answer
        await other.request("x", b"2", timeout_s=0.01)
    assert not heard.messages
    zombie.frozen = False
    assert await heard.until(2) == [b"1", b"2"]


async def test_a_lost_acknowledgement_is_made_good() -> None:
    broker = MemoryBroker()
    log = MemoryLog(broker)
    own = await log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    writer = log.writer(fence=Fence(OWN, own.seq))
    broker.skip_acks = 2
    writer.put(CMD, b"1", msg_id("1"))
    writer.put(CMD, b"2", msg_id("2"))
    assert writer.backlog == 2
    await writer.flush()
    assert writer.waiting_s == 0.0
    assert [message.data for message in await read(log, CMD)] == [b"1", b"2"]


async def test_time_comes_from_where_it_is_told() -> None:
    now = 10**18
    log = MemoryLog(MemoryBroker(now_ns=lambda: now))
    await log.append(CMD, b"", msg_id("1"))
    now += 5
    await log.append(CMD, b"", msg_id("2"))
    assert [message.time_ns - 10**18 for message in await read(log)] == [0, 5]


async def test_states_are_told() -> None:
    log = MemoryLog()
    told: list[bool] = []
    stop = log.on_state(told.append)
    log.available = False
    log.available = False
    log.available = True
    stop()
    stop()
    log.available = False
    assert told == [False, True]
    await asyncio.sleep(0)
