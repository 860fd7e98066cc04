"""Reading calls for their spans out of a real log: each record once, and the same spans whoever has read before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.integration.consumers.test_traces import begin, whole_call
from tests.unit.consumers.records import AGENT, SUBJECTS

from unpod.core import codec
from unpod.core.events import CallEnded, CallStarted, TurnCompleted
from unpod.jetstream import JetStreamLog, connect, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_consumers import reading
from unpod_consumers.projections.sampling import Sampling
from unpod_consumers.projections.traces import spans_of_log
from unpod_consumers.trace_reader import TraceReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unpod.ports import Message
    from unpod_consumers.projections.spans import Span


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JetStreamLog]:
    async with (
        EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server,
        connect(server.connection("test")) as nats,
    ):
        yield await open_log(nats, topology(max_bytes=64 * MIB).calls)


async def stored(log: JetStreamLog, session: str) -> list[Message]:
    return [message async for message in log.read(SUBJECTS.session(session))]


def records_of(messages: list[Message]) -> list[codec.Record]:
    """Return the records as a consumer reads them: these are old, so their time is the log's."""
    return [reading.read(SUBJECTS, one)[0] for one in messages]


def triggers_of(messages: list[Message]) -> list[Message]:
    wanted = (CallStarted, TurnCompleted, CallEnded)
    return [one for one, record in zip(messages, records_of(messages), strict=True) if isinstance(record.body, wanted)]


async def test_each_record_is_read_once_however_many_turns_there_are(log: JetStreamLog) -> None:
    await begin(log, "s", turns=30)
    messages = await stored(log, "s")
    reader = TraceReader(log, SUBJECTS, Sampling())
    sent: list[Span] = []
    for trigger in triggers_of(messages):
        sent += (await reader.spans("s", [trigger]))[0]
    assert sent == spans_of_log("s", AGENT, records_of(messages))[: len(sent)]
    assert len({span.attributes["turn.number"] for span in sent if span.name == "turn"}) == 30
    assert reader.records == len(messages)


async def test_what_is_delivered_again_to_anybody_gives_the_same(log: JetStreamLog) -> None:
    await whole_call(log, "s")
    triggers = triggers_of(await stored(log, "s"))
    first, second = TraceReader(log, SUBJECTS, Sampling()), TraceReader(log, SUBJECTS, Sampling(), remembered=0)
    at_once = await first.spans("s", triggers)
    one_by_one = [(await second.spans("s", [trigger]))[0] for trigger in triggers]
    again = [(await first.spans("s", [trigger]))[0] for trigger in reversed(triggers)]
    assert at_once == one_by_one == again[::-1]


async def test_so_many_calls_are_remembered(log: JetStreamLog) -> None:
    reader = TraceReader(log, SUBJECTS, Sampling(), remembered=2)
    calls = {name: triggers_of(await begun(log, name)) for name in ("a", "b", "c")}
    for name, triggers in calls.items():
        await reader.spans(name, triggers[:1])
    read = {}
    for name in ("c", "a"):
        before = reader.records
        await reader.spans(name, calls[name][1:2])
        read[name] = reader.records - before
    assert read["c"] < read["a"]  # which was forgotten, and is read from its start


async def test_few_calls_that_have_ended_are_remembered(log: JetStreamLog) -> None:
    reader = TraceReader(log, SUBJECTS, Sampling(), ended=1)
    for name in ("a", "b"):
        await whole_call(log, name)
        await reader.spans(name, triggers_of(await stored(log, name)))
    assert list(reader._readings) == ["b"]


async def begun(log: JetStreamLog, session: str) -> list[Message]:
    await begin(log, session)
    return await stored(log, session)


async def test_of_a_call_that_is_not_sampled_nothing_is_read(log: JetStreamLog) -> None:
    await whole_call(log, "s")
    messages = await stored(log, "s")
    reader = TraceReader(log, SUBJECTS, Sampling(0.0))
    assert not any(await reader.spans("s", triggers_of(messages)))
    assert await reader.whole(messages[0]) == []
    assert reader.records == 0


async def test_a_time_leads_to_what_was_stored_then(log: JetStreamLog) -> None:
    await whole_call(log, "early")
    await whole_call(log, "late")
    late = await stored(log, "late")
    assert await log.since(0.0) == 1
    assert await log.since(late[0].time_ns / 1e9) in {late[0].seq, late[0].seq + 1}  # a float has no nanoseconds
    assert await log.since(late[-1].time_ns / 1e9 + 1) is None
    assert await log.since(1e12) is None
