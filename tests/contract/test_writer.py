"""What every `Writer` does."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import until
from tests.contract.test_event_log import ALL, CMD, OTHER, OWN, msg_id, read

from unpod.errors import Fenced, LogError, LogFull, LogUnavailable, RecordTooLarge
from unpod.jetstream.log.writer import EncodedRecord, OrderedWriter, WriterBounds
from unpod.ports import Fence, Stored, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.contract.places import Client, Place


async def test_what_is_put_first_is_stored_first(client: Client) -> None:
    writer = client.log.writer()
    for n in range(500):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    assert writer.backlog > 0
    await writer.flush()
    assert writer.backlog == 0
    assert writer.failure is None
    assert [message.data for message in await read(client.log)] == [b"%d" % n for n in range(500)]
    await writer.close()


async def test_writers_keep_their_own_order(place: Place) -> None:
    writers = [(await place.client()).log.writer() for _ in range(3)]
    for n in range(100):
        for k, writer in enumerate(writers):
            writer.put(CMD, b"%d" % n, {"Nats-Msg-Id": f"{k}-{n}", "by": str(k)})
    await asyncio.gather(*(writer.flush() for writer in writers))
    messages = await read((await place.client()).log)
    for k in range(3):
        assert [m.data for m in messages if m.headers["by"] == str(k)] == [b"%d" % n for n in range(100)]
    for writer in writers:
        await writer.close()


async def test_flush_returns_at_once_when_there_is_nothing(client: Client) -> None:
    writer = client.log.writer()
    await writer.flush()
    await writer.close()


async def test_a_fenced_writer_stops_and_says_so_once(client: Client) -> None:
    own = await client.log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    told: list[LogError] = []
    writer = client.log.writer(fence=Fence(OWN, own.seq), on_failure=told.append)
    writer.put(CMD, b"mine", msg_id("c1"))
    await writer.flush()
    await client.log.append(OWN, b"", msg_id("o2"), fence=Fence(OWN, own.seq))
    for n in range(3):
        writer.put(CMD, b"zombie", msg_id(f"z{n}"))
    with pytest.raises(Fenced):
        await writer.flush()
    await until(lambda: bool(told))
    with pytest.raises(Fenced):
        writer.put(CMD, b"zombie", msg_id("z9"))
    with pytest.raises(Fenced):
        await writer.flush()
    assert len(told) == 1
    assert writer.failure is told[0]
    assert [message.data for message in await read(client.log, CMD)] == [b"mine"]
    await writer.close()


async def test_too_large_is_refused_and_the_writer_goes_on(client: Client) -> None:
    writer = client.log.writer()
    with pytest.raises(RecordTooLarge):
        writer.put(CMD, b"x" * 2_000_000, msg_id("big"))
    writer.put(CMD, b"small", msg_id("small"))
    await writer.flush()
    assert [message.data for message in await read(client.log)] == [b"small"]
    await writer.close()


async def test_an_outage_only_delays(place: Place, client: Client) -> None:
    writer = client.log.writer()
    for n in range(50):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    async with place.outage():
        for n in range(50, 100):
            writer.put(CMD, b"%d" % n, msg_id(str(n)))
    await writer.flush()
    assert [message.data for message in await read(client.log, ALL)] == [b"%d" % n for n in range(100)]
    await writer.close()


def put_forever(writer: Writer) -> None:
    for n in itertools.count():
        writer.put(CMD, b"", msg_id(str(n)))


async def test_a_backlog_has_a_bound(place: Place, client: Client) -> None:
    writer = client.log.writer()
    async with place.outage():
        with pytest.raises(LogUnavailable):
            put_forever(writer)
        assert writer.backlog <= 2_000
        assert isinstance(writer.failure, LogUnavailable)
    with pytest.raises(LogUnavailable):
        await writer.flush()
    await writer.close()


async def test_a_full_log_stops_the_writer_after_a_while(place: Place, client: Client) -> None:
    await place.fill()
    writer = client.log.writer()
    writer.put(CMD, b"x", msg_id("1"))
    with pytest.raises(LogFull):
        await writer.flush()
    assert isinstance(writer.failure, LogFull)
    await writer.close()


async def test_ids_that_another_subject_took_first_keep_no_record_out(place: Place, client: Client) -> None:
    own = await client.log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    others = await place.client()
    for n in range(1, 39, 2):
        await others.log.append(OTHER, b"theirs", msg_id(str(n)))
    seqs: list[int] = []
    writer = client.log.writer(fence=Fence(OWN, own.seq), on_stored=seqs.append)
    for n in range(40):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    await writer.flush()
    messages = await read(client.log, CMD)
    assert [message.data for message in messages] == [b"%d" % n for n in range(40)]
    assert [message.seq for message in messages] == seqs
    await writer.close()


async def test_a_closed_writer_takes_nothing(client: Client) -> None:
    told: list[LogError] = []
    writer = client.log.writer(on_failure=told.append)
    await writer.close()
    with pytest.raises(LogUnavailable):
        writer.put(CMD, b"", msg_id("1"))
    assert not told


class Leaderless:
    """Three nodes that choose a leader: they take what is sent, and answer nobody (`writer.Sink`)."""

    up = True

    def __init__(self) -> None:
        self.waits: list[float] = []

    def encode(self, subject: str, data: bytes, headers: Mapping[str, str], fence: Fence | None) -> EncodedRecord:
        return EncodedRecord(subject, data, b"", len(data), headers["Nats-Msg-Id"], fence)

    def transmit(
        self, record: EncodedRecord, timeout_s: float, answer: Callable[[Stored | LogError], None], /
    ) -> Callable[[], None]:
        self.waits.append(timeout_s)
        later = asyncio.get_running_loop().call_later(timeout_s / 100, answer, LogUnavailable("no answer"))
        return later.cancel

    async def find(self, record: EncodedRecord) -> Stored | None:
        raise NotImplementedError

    async def holds(self, record: EncodedRecord, seq: int) -> bool:
        raise NotImplementedError

    def when_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def test_no_try_is_waited_for_so_long_that_the_end_of_an_election_is_missed() -> None:
    sink = Leaderless()
    writer = OrderedWriter(sink)
    writer.put(OWN, b"", msg_id("1"))
    async with asyncio.timeout(10):
        while len(sink.waits) < 8:  # noqa: ASYNC110 - nobody tells of a try
            await asyncio.sleep(0.01)
    await writer.close()
    assert max(sink.waits) <= 1.0


async def test_a_writer_that_is_closed_once_it_has_failed_tells_nobody() -> None:
    told: list[LogError] = []
    writer = OrderedWriter(Leaderless(), on_failure=told.append, bounds=WriterBounds(records=1))
    writer.put(CMD, b"", msg_id("1"))
    with pytest.raises(LogUnavailable):
        writer.put(CMD, b"", msg_id("2"))
    await writer.close()
    await asyncio.sleep(0)
    assert not told
