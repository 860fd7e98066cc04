"""What every `EventLog` does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from unpod.core.positions import Positions
from unpod.errors import Fenced, LogFull, LogUnavailable, ProtocolViolation, RecordTooLarge
from unpod.ports import EventLog, Fence, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.contract.places import Client, Place

OWN = "unpod.call.a.s.own"
CMD = "unpod.call.a.s.cmd"
OTHER = "unpod.call.a.other.cmd"
ALL = "unpod.call.*.s.>"


def msg_id(text: str) -> dict[str, str]:
    return {"Nats-Msg-Id": text}


async def read(log: EventLog, pattern: str = ALL, *, start_seq: int = 1, until_seq: int = 0) -> list[Message]:
    return [message async for message in log.read(pattern, start_seq=start_seq, until_seq=until_seq)]


async def test_it_is_an_event_log(client: Client) -> None:
    assert isinstance(client.log, EventLog)


async def test_a_record_is_read_back_as_it_was_written(client: Client) -> None:
    headers = {"Nats-Msg-Id": "1", "ce-type": "x.v1", "note": "a: b, c%20d"}
    stored = await client.log.append(CMD, b'{"a":1}\r\n', headers)
    [message] = await read(client.log)
    assert (message.subject, message.data, dict(message.headers)) == (CMD, b'{"a":1}\r\n', headers)
    assert message.seq == stored.seq
    assert message.time_ns > 1_600_000_000_000_000_000
    assert not stored.duplicate


async def test_records_without_payload_or_headers_are_kept(client: Client) -> None:
    await client.log.append(CMD, b"", {})
    [message] = await read(client.log)
    assert (message.data, dict(message.headers)) == (b"", {})


async def test_sequences_grow_and_order_is_kept(client: Client) -> None:
    seqs = [(await client.log.append(CMD, b"%d" % n, msg_id(str(n)))).seq for n in range(20)]
    assert seqs == sorted(set(seqs))
    assert [message.data for message in await read(client.log)] == [b"%d" % n for n in range(20)]


async def test_a_repeated_id_is_stored_once(client: Client) -> None:
    first = await client.log.append(CMD, b"x", msg_id("same"))
    again = await client.log.append(CMD, b"x", msg_id("same"))
    assert again.duplicate
    assert again.seq == first.seq
    assert len(await read(client.log)) == 1


async def test_an_id_that_another_subject_took_first_keeps_no_record_out(client: Client) -> None:
    theirs = await client.log.append(OTHER, b"theirs", msg_id("same"))
    ours = await client.log.append(CMD, b"ours", {**msg_id("same"), "ce-id": "1"})
    assert not ours.duplicate
    assert ours.seq > theirs.seq
    [message] = await read(client.log)
    assert (message.data, message.headers["ce-id"]) == (b"ours", "1")
    assert message.headers["Nats-Msg-Id"] != "same"


async def test_last_is_the_newest_on_the_subject(client: Client) -> None:
    assert await client.log.last(OWN) is None
    for n in range(3):
        stored = await client.log.append(OWN, b"%d" % n, msg_id(f"o{n}"))
        await client.log.append(CMD, b"else", msg_id(f"c{n}"))
        newest = await client.log.last(OWN)
        assert newest is not None
        assert (newest.data, newest.seq) == (b"%d" % n, stored.seq)


async def test_the_newest_of_each_subject(client: Client) -> None:
    kinds = ("unpod.call.a.s.own", "unpod.call.a.s.cmd", "unpod.call.a.s.run.>")
    assert await client.log.newest(kinds) == []
    types = ("own", "run.turn.started", "cmd", "run.settled", "run.turn.started", "ack", "cmd")
    stored = []
    for number, each in enumerate(types):
        stored.append(await client.log.append(f"unpod.call.a.s.{each}", each.encode(), msg_id(str(number))))
    await client.log.append("unpod.call.a.other.cmd", b"", msg_id("other"))
    records = await client.log.newest(kinds, until_seq=stored[-1].seq + 1)
    assert records is not None
    assert [record.seq for record in records] == [stored[n].seq for n in (0, 3, 4, 6)]
    assert [record.data for record in records] == [b"own", b"run.settled", b"run.turn.started", b"cmd"]
    assert records[-1].headers["Nats-Msg-Id"] == "6"


async def test_compare_and_append_on_its_own_subject(client: Client) -> None:
    first = await client.log.append(OWN, b"1", msg_id("1"), fence=Fence(OWN, 0))
    with pytest.raises(Fenced):
        await client.log.append(OWN, b"2", msg_id("2"), fence=Fence(OWN, 0))
    second = await client.log.append(OWN, b"3", msg_id("3"), fence=Fence(OWN, first.seq))
    assert second.seq > first.seq
    assert [message.data for message in await read(client.log)] == [b"1", b"3"]


async def test_who_is_fenced_by_nothing_at_all_is_told_so(client: Client) -> None:
    await client.log.append(CMD, b"", msg_id("1"))
    with pytest.raises(Fenced) as absent:
        await client.log.append(CMD, b"2", msg_id("2"), fence=Fence(OWN, 7))
    assert absent.value.absent
    own = await client.log.append(OWN, b"", msg_id("3"), fence=Fence(OWN, 0))
    with pytest.raises(Fenced) as newer:
        await client.log.append(CMD, b"4", msg_id("4"), fence=Fence(OWN, own.seq + 7))
    assert not newer.value.absent


async def test_one_of_many_wins_a_compare_and_append(place: Place) -> None:
    clients = [await place.client() for _ in range(4)]
    results = await asyncio.gather(
        *(c.log.append(OWN, b"%d" % n, msg_id(str(n)), fence=Fence(OWN, 0)) for n, c in enumerate(clients)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Fenced) for result in results) == 3
    assert len(await read(clients[0].log)) == 1


async def test_a_fence_on_another_subject_refuses_the_zombie(client: Client) -> None:
    own = await client.log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    fence = Fence(OWN, own.seq)
    await client.log.append(CMD, b"mine", msg_id("c1"), fence=fence)
    await client.log.append(OWN, b"", msg_id("o2"), fence=fence)
    with pytest.raises(Fenced):
        await client.log.append(CMD, b"zombie", msg_id("c2"), fence=fence)
    assert [message.data for message in await read(client.log, CMD)] == [b"mine"]


async def test_what_is_stored_already_is_no_zombie(client: Client) -> None:
    # The acknowledgement was lost, and a new owner came before the retry.
    own = await client.log.append(OWN, b"", msg_id("o1"), fence=Fence(OWN, 0))
    fence = Fence(OWN, own.seq)
    first = await client.log.append(CMD, b"mine", msg_id("c1"), fence=fence)
    await client.log.append(CMD, b"newer", msg_id("c2"), fence=fence)
    await client.log.append(OWN, b"", msg_id("o2"), fence=fence)
    again = await client.log.append(CMD, b"mine", msg_id("c1"), fence=fence)
    assert (again.seq, again.duplicate) == (first.seq, True)
    retried = await client.log.append(OWN, b"", msg_id("o2"), fence=fence)
    assert retried.duplicate


async def test_too_large_is_refused_and_nothing_else_happens(client: Client) -> None:
    with pytest.raises(RecordTooLarge):
        await client.log.append(CMD, b"x" * (1024 * 1024), msg_id("big"))
    await client.log.append(CMD, b"small", msg_id("small"))
    assert [message.data for message in await read(client.log)] == [b"small"]


async def test_the_largest_record_fits(client: Client) -> None:
    size = 1024 * 1024 - len(CMD) - len("NATS/1.0\r\nNats-Msg-Id: big\r\n\r\n")
    await client.log.append(CMD, b"x" * size, msg_id("big"))
    with pytest.raises(RecordTooLarge):
        await client.log.append(CMD, b"x" * (size + 1), msg_id("bigger"))
    [message] = await read(client.log)
    assert len(message.data) == size


@pytest.mark.parametrize("value", ["a\r\nNats-Msg-Id: forged", "a\nb", "a\rb", "käse"])
async def test_unsafe_header_values_are_refused(client: Client, value: str) -> None:
    with pytest.raises(ProtocolViolation):
        await client.log.append(CMD, b"", {"x": value})
    with pytest.raises(ProtocolViolation):
        await client.log.append(CMD, b"", {f"x{value}": "y"})


@pytest.mark.parametrize("subject", ["", "unpod.call.a b", "unpod.call.a\r\nPUB x 0", "unpod.call.\x00", "x" * 4000])
async def test_unsafe_subjects_are_refused(client: Client, subject: str) -> None:
    with pytest.raises(ProtocolViolation):
        await client.log.append(subject, b"", {})


async def test_patterns_choose(client: Client) -> None:
    for subject in ("unpod.call.a.s.evt.x", "unpod.call.b.s.ack", "unpod.call.a.t.ack", "unpod.call.a.s.evt.y.z"):
        await client.log.append(subject, subject.encode(), msg_id(subject))
    assert len(await read(client.log, "unpod.call.*.s.>")) == 3
    assert len(await read(client.log, "unpod.call.a.s.evt.*")) == 1
    assert len(await read(client.log, "unpod.call.a.>")) == 3
    assert len(await read(client.log, "unpod.call.a.t.ack")) == 1
    assert await read(client.log, "unpod.call.nobody.>") == []


async def test_a_read_may_start_later(client: Client) -> None:
    seqs = [(await client.log.append(CMD, b"%d" % n, msg_id(str(n)))).seq for n in range(6)]
    assert [message.seq for message in await read(client.log, start_seq=seqs[3])] == seqs[3:]
    assert await read(client.log, start_seq=seqs[-1] + 1) == []
    assert len(await read(client.log, until_seq=seqs[-1])) == 6


async def test_a_read_ends_at_the_end_as_it_was(client: Client) -> None:
    for n in range(10):
        await client.log.append(CMD, b"%d" % n, msg_id(str(n)))
    seen = 0
    async for _ in client.log.read(ALL):
        seen += 1
        for extra in range(2):
            await client.log.append(CMD, b"more", msg_id(f"more-{seen}-{extra}"))
        assert seen < 100
    assert seen >= 10


async def scatter(client: Client, count: int, others: int = 2) -> list[int]:
    """Store records of the session, with others between them; return where they stand."""
    seqs = []
    for n in range(count):
        seqs.append((await client.log.append(CMD, b"%d" % n, msg_id(str(n)))).seq)
        for extra in range(others):
            await client.log.append(OTHER, b"other", msg_id(f"{n}-{extra}"))
    return seqs


async def at(log: EventLog, seqs: Sequence[int], through: int, **bounds: int) -> list[int]:
    positions = Positions(tuple(seqs), through)
    return [message.seq async for message in log.read(ALL, positions=positions, **bounds)]


async def test_records_are_fetched_from_where_they_are_known_to_stand(client: Client) -> None:
    seqs = await scatter(client, 40)
    assert await at(client.log, seqs, seqs[-1]) == seqs
    # What is left out is not looked for, and what stands behind is.
    assert await at(client.log, seqs[::2], seqs[-3]) == [*seqs[:-3:2], *seqs[-2:]]
    assert await at(client.log, (), seqs[20]) == seqs[21:]
    assert await at(client.log, (), 0) == seqs


async def test_known_records_are_whole_messages(client: Client) -> None:
    headers = {"Nats-Msg-Id": "1", "note": "a: b"}
    seq = (await client.log.append(CMD, b"{}\r\n", headers)).seq
    await client.log.append(CMD, b"", {})
    known = [message async for message in client.log.read(ALL, positions=Positions((seq, seq + 1), seq + 1))]
    assert known == await read(client.log)


async def test_more_records_than_are_asked_for_at_once_come_in_order(client: Client) -> None:
    writer = client.log.writer()
    for n in range(1_500):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    await writer.flush()
    await writer.close()
    seqs = range(1, 1_501)
    seen = []
    async for message in client.log.read(ALL, positions=Positions(tuple(seqs), 1_500)):
        seen.append(message.seq)
        if len(seen) % 100 == 0:
            await asyncio.sleep(0)
    assert seen == list(seqs)


async def test_a_read_of_known_records_may_start_later(client: Client) -> None:
    seqs = await scatter(client, 6)
    assert await at(client.log, seqs, seqs[-1], start_seq=seqs[3]) == seqs[3:]
    assert await at(client.log, seqs, seqs[2], start_seq=seqs[4]) == seqs[4:]
    assert await at(client.log, seqs, seqs[-1], until_seq=seqs[-1]) == seqs
    assert await at(client.log, seqs, seqs[-1] + 2, until_seq=seqs[-1] + 2) == seqs


async def test_from_a_place_with_another_session_on_the_log_is_searched(client: Client) -> None:
    seqs = await scatter(client, 6)
    wrong = [*seqs[:3], seqs[3] + 1, *seqs[4:]]
    assert await at(client.log, wrong, seqs[-1]) == seqs


async def test_from_a_place_with_nothing_on_the_log_is_searched(client: Client) -> None:
    seqs = await scatter(client, 6)
    assert await at(client.log, [*seqs[:2], seqs[-1] + 1_000], seqs[-1] + 2_000) == seqs
    assert await at(client.log, [*seqs[:2], seqs[-1] + 1_000], seqs[-1] + 2_000, until_seq=seqs[-1]) == seqs


async def test_a_read_of_known_records_ends_at_the_end_as_it_was(client: Client) -> None:
    seqs = await scatter(client, 4)
    seen = []
    async for message in client.log.read(ALL, positions=Positions(tuple(seqs[:2]), seqs[1])):
        seen.append(message.seq)
        await client.log.append(CMD, b"more", msg_id(f"more-{message.seq}"))
        assert len(seen) < 10
    assert seen[:4] == seqs


async def test_an_outage_within_a_read_of_known_records_costs_none(place: Place, client: Client) -> None:
    writer = client.log.writer()
    for n in range(1_200):
        writer.put(CMD, b"%d" % n, msg_id(str(n)))
    await writer.flush()
    await writer.close()
    seen = []
    async for message in client.log.read(ALL, positions=Positions(tuple(range(1, 1_201)), 1_200)):
        seen.append(message.seq)
        if len(seen) == 40:
            async with place.outage():
                pass
    assert seen == list(range(1, 1_201))


async def test_a_read_can_be_left(client: Client) -> None:
    for n in range(200):
        await client.log.append(CMD, b"%d" % n, msg_id(str(n)))
    async for message in client.log.read(ALL):
        assert message.data == b"0"
        break
    assert len(await read(client.log)) == 200


async def test_usage_grows(client: Client) -> None:
    before = await client.log.usage()
    await client.log.append(CMD, b"x" * 500_000, msg_id("1"))
    assert 0.0 <= before < await client.log.usage() < 1.0


async def test_a_full_log_says_so_and_keeps_what_it_has(place: Place, client: Client) -> None:
    await client.log.append(CMD, b"kept", msg_id("1"))
    await place.fill()
    with pytest.raises(LogFull):
        await client.log.append(CMD, b"no", msg_id("2"))
    assert await client.log.usage() > 0.9
    assert [message.data for message in await read(client.log)] == [b"kept"]


async def test_an_outage_is_told_and_nothing_is_sent_later(place: Place, client: Client) -> None:
    await client.log.append(CMD, b"before", msg_id("1"))
    async with place.outage():
        with pytest.raises(LogUnavailable):
            await client.log.append(CMD, b"never", msg_id("2"), timeout_s=0.2)
    await client.log.append(CMD, b"after", msg_id("3"), timeout_s=10)
    assert [message.data for message in await read(client.log)] == [b"before", b"after"]


async def test_an_append_survives_a_short_outage(place: Place, client: Client) -> None:
    await client.log.append(CMD, b"before", msg_id("1"))
    async with place.outage():
        append = asyncio.ensure_future(client.log.append(CMD, b"through", msg_id("2"), timeout_s=10))
        await asyncio.sleep(0)
    await append
    assert [message.data for message in await read(client.log)] == [b"before", b"through"]
