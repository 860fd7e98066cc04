"""The log on a real server: what only a process that can be killed shows."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from tests.integration.jetstream.servers import CMD, OWN, msg_id, read, until

from unpod.core.positions import Positions
from unpod.errors import Fenced, LogUnavailable
from unpod.jetstream import JetStreamLog, Nats, connect, open_log
from unpod.ports import Fence
from unpod.processes import EmbeddedServer


async def test_ten_thousand_records_in_order(log: JetStreamLog) -> None:
    writers = [log.writer() for _ in range(8)]
    for n in range(1250):
        for k, writer in enumerate(writers):
            writer.put(f"unpod.call.a.s.evt.x{k}", b"%d" % n, msg_id(f"{k}-{n}"))
    await asyncio.gather(*(writer.flush() for writer in writers))
    messages = await read(log)
    assert [message.seq for message in messages] == list(range(1, 10_001))
    assert [message.time_ns for message in messages] == sorted(message.time_ns for message in messages)
    assert abs(messages[-1].time_ns - time.time_ns()) < 60 * 10**9
    for k in range(8):
        assert [m.data for m in messages if m.subject.endswith(f"x{k}")] == [b"%d" % n for n in range(1250)]


async def test_large_records_are_read_in_order_too(log: JetStreamLog) -> None:
    for n in range(40):
        await log.append(CMD, b"%d" % n + b"x" * 700_000, msg_id(str(n)))
    assert [message.data[: len(str(n))] for n, message in enumerate(await read(log))] == [b"%d" % n for n in range(40)]


async def test_a_server_killed_in_mid_write_loses_and_repeats_nothing(
    embedded: EmbeddedServer, log: JetStreamLog
) -> None:
    own = await log.append(OWN, b"", msg_id("own"), fence=Fence(OWN, 0))
    writers = [log.writer(fence=Fence(OWN, own.seq)) for _ in range(5)]
    put = 0

    async def write() -> None:
        nonlocal put
        for n in range(1500):
            for k, writer in enumerate(writers):
                writer.put(f"unpod.call.a.s.run.x{k}", b"%d" % n, msg_id(f"{k}-{n}"))
            put += 1
            await until(lambda: max(writer.backlog for writer in writers) <= 100)

    writing = asyncio.ensure_future(write())
    for kill_at in (200, 500, 900):
        await until(lambda kill_at=kill_at: put >= kill_at)  # type: ignore[misc]
        await embedded.kill()
    await writing
    await asyncio.gather(*(writer.flush() for writer in writers))
    messages = await read(log)
    for k in range(5):
        assert [m.data for m in messages if m.subject.endswith(f"x{k}")] == [b"%d" % n for n in range(1500)]
    assert embedded.restarts == 3


async def test_a_read_goes_on_through_a_restart(embedded: EmbeddedServer, log: JetStreamLog) -> None:
    writer = log.writer()
    for n in range(1900):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    await writer.flush()
    seen: list[bytes] = []
    async for message in log.read(CMD):
        seen.append(message.data)
        if len(seen) == 300:
            await embedded.kill()
    assert seen == [b"%d" % n for n in range(1900)]


async def test_a_zombie_that_was_stopped_is_refused(embedded: EmbeddedServer, log: JetStreamLog) -> None:
    own = await log.append(OWN, b"1", msg_id("o1"), fence=Fence(OWN, 0))
    zombie = log.writer(fence=Fence(OWN, own.seq))
    zombie.put(CMD, b"as owner", msg_id("z1"))
    await zombie.flush()
    async with connect(embedded.connection("newer")) as other:
        await (await open_log(other, log.spec)).append(OWN, b"2", msg_id("o2"), fence=Fence(OWN, own.seq))
    zombie.put(CMD, b"as zombie", msg_id("z2"))
    with pytest.raises(Fenced):
        await zombie.flush()
    assert [message.data for message in await read(log)] == [b"1", b"as owner", b"2"]


async def test_until_seq_waits_for_a_replica_that_lags(log: JetStreamLog) -> None:
    await log.append(CMD, b"1", msg_id("1"))
    reading = asyncio.ensure_future(read(log, until_seq=3))
    await log.append(CMD, b"2", msg_id("2"))
    await log.append(CMD, b"3", msg_id("3"))
    assert [message.data for message in await reading] == [b"1", b"2", b"3"]


async def test_last_can_wait_for_what_was_just_stored(log: JetStreamLog) -> None:
    first = await log.append(CMD, b"1", msg_id("1"))
    newest = await log.last(CMD, min_seq=first.seq)
    assert newest is not None
    waiting = asyncio.ensure_future(log.last(CMD, min_seq=first.seq + 1))
    await log.append(CMD, b"2", msg_id("2"))
    again = await waiting
    assert again is not None
    assert again.data == b"2"


async def test_the_newest_of_too_many_subjects_are_not_told_at_once(log: JetStreamLog) -> None:
    runs = CMD.removesuffix("cmd") + "run."
    writer = log.writer()
    for number in range(1_100):
        writer.put(f"{runs}kind{number}", b"1", msg_id(f"{number}"))
    await writer.flush()
    await writer.close()
    assert await log.newest([f"{runs}>"]) is None
    assert await log.newest([f"{runs}kind7"]) != []


async def test_forged_headers_are_not_believed(log: JetStreamLog) -> None:
    forged = {
        "Nats-Stream": "OTHER",
        "Nats-Subject": "unpod.call.b.other.own",
        "Nats-Sequence": "999",
        "Nats-Time-Stamp": "1999-01-01T00:00:00Z",
        "Nats-Num-Pending": "0",
        "Nats-Last-Sequence": "5",
        "Status": "404",
    }
    for n in range(3):
        await log.append(CMD, b"%d" % n, {**forged, **msg_id(str(n))})
    messages = await read(log)
    assert [(m.subject, m.seq, m.data) for m in messages] == [(CMD, n + 1, b"%d" % n) for n in range(3)]
    assert all(message.time_ns > 1_600_000_000 * 10**9 for message in messages)
    newest = await log.last(CMD)
    assert newest is not None
    assert (newest.seq, newest.subject) == (3, CMD)


async def test_a_payload_that_looks_like_the_protocol(log: JetStreamLog) -> None:
    data = b"\r\nMSG x 1 5\r\nPING\r\n-ERR 'x'\r\n\xff\x00"
    await log.append(CMD, data, msg_id("1"))
    assert [message.data for message in await read(log)] == [data]


async def test_a_lost_acknowledgement_is_made_good(embedded: EmbeddedServer, nats: Nats, log: JetStreamLog) -> None:
    own = await log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    lost = log._nats.replies.dispatch
    writer = log.writer(fence=Fence(OWN, own.seq))
    swallow = 2

    def dispatch(subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        nonlocal swallow
        if swallow and b'"seq"' in data:
            swallow -= 1
        else:
            lost(subject, reply, block, data)

    for tail in nats._client._tails.values():
        tail.handler = dispatch
    writer.put(CMD, b"1", msg_id("1"))
    writer.put(CMD, b"2", msg_id("2"))
    await writer.flush()
    assert [message.data for message in await read(log, CMD)] == [b"1", b"2"]


async def test_a_purged_session_reads_as_empty(nats: Nats, log: JetStreamLog) -> None:
    await log.append(CMD, b"1", msg_id("1"))
    await log.append("unpod.call.a.t.cmd", b"2", msg_id("2"))
    await nats.request(
        f"$JS.API.STREAM.PURGE.{log.spec.name}", json.dumps({"filter": "unpod.call.*.s.>"}).encode(), timeout_s=5
    )
    assert await read(log) == []
    assert await log.last(CMD) is None
    assert len(await read(log, "unpod.call.>")) == 1


async def test_from_a_place_that_was_purged_the_log_is_searched(nats: Nats, log: JetStreamLog) -> None:
    seqs = [(await log.append(f"unpod.call.a.s.run.{'ab'[n % 2]}", b"", msg_id(str(n)))).seq for n in range(40)]
    await nats.request(
        f"$JS.API.STREAM.PURGE.{log.spec.name}", json.dumps({"filter": "unpod.call.a.s.run.b"}).encode(), timeout_s=5
    )
    found = await read(log, positions=Positions(tuple(seqs), seqs[-1]))
    assert [message.seq for message in found] == seqs[::2]


async def test_a_log_that_is_away_says_so(embedded: EmbeddedServer, log: JetStreamLog) -> None:
    await embedded.down(kill=True)
    with pytest.raises(LogUnavailable):
        await log.last(CMD)
    with pytest.raises(LogUnavailable):
        await log.usage()
    await embedded.up()


async def test_idle_writers_cost_no_task(log: JetStreamLog) -> None:
    before = len(asyncio.all_tasks())
    writers = [log.writer() for _ in range(1000)]
    for k, writer in enumerate(writers):
        writer.put(f"unpod.call.a.s{k}.run.x", b"", msg_id(str(k)))
    assert len(asyncio.all_tasks()) == before
    await asyncio.gather(*(writer.flush() for writer in writers))
    assert len(asyncio.all_tasks()) == before
