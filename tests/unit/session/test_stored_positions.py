"""Where an owner's newest records stand, until the bridge has asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.subjects import Subjects
from unpod.errors import RecordTooLarge
from unpod.session.outbox import Outbox
from unpod.session.ownership import Ownership
from unpod.session.stored_positions import AT_ONCE, MOST, StoredPositions
from unpod.testing import ALL_VERBS, MemoryBroker, MemoryLog, VirtualClock
from unpod.testing.line import MemoryLine


def begun(*seqs: int, index: int = 0) -> StoredPositions:
    receipts = StoredPositions()
    receipts.begin(index)
    for seq in seqs:
        receipts.add(seq)
    return receipts


def test_before_it_has_begun_nothing_is_known() -> None:
    receipts = StoredPositions()
    receipts.add(7)
    assert receipts.stored(0) is None


def test_it_tells_what_comes_behind_an_index() -> None:
    receipts = begun(70, 80, 90, index=4)
    assert receipts.stored(4) == (4, [70, 80, 90])
    assert receipts.stored(6) == (6, [90])
    assert receipts.stored(7) == (7, [])


def test_what_is_known_is_forgotten() -> None:
    receipts = begun(70, 80, 90)
    receipts.forget(2)
    receipts.forget(1)
    receipts.add(91)
    assert receipts.stored(2) == (2, [90, 91])
    assert receipts.stored(0) == (2, [90, 91])  # and it says so
    receipts.forget(4)
    assert receipts.stored(0) == (4, [])


def test_a_bridge_that_knows_more_than_was_acknowledged_shifts_nothing() -> None:
    receipts = begun(70)
    assert receipts.stored(2) is None
    receipts.forget(2)
    receipts.add(80)
    assert receipts.stored(1) == (1, [80])
    receipts.forget(2**70)
    receipts.add(90)
    assert receipts.stored(2) == (2, [90])


def test_an_answer_has_room_for_those_of_other_sessions() -> None:
    receipts = begun(*range(1, 200))
    said = receipts.stored(0)
    assert said is not None
    assert said[1] == [*range(1, AT_ONCE + 1)]
    assert receipts.stored(190) == (190, [*range(191, 200)])


def test_what_was_told_stays_as_it_was_told() -> None:
    receipts = begun(70)
    told = receipts.stored(0)
    receipts.add(80)
    assert told == (0, [70])


def test_without_a_bridge_that_asks_the_older_are_forgotten() -> None:
    receipts = begun(*range(1, MOST + 3))
    assert receipts.stored(0) == (MOST, [MOST + 1, MOST + 2])


@pytest.fixture
async def journal() -> AsyncIterator[tuple[Outbox, MemoryBroker]]:
    clock, subjects, broker = VirtualClock(), Subjects(), MemoryBroker()
    line = MemoryLine(MemoryLog(broker), clock, subjects, "agent", "s1")
    until_seq = await line.open({}, ALL_VERBS, {})
    log = MemoryLog(broker)
    ownership = Ownership(log, log, clock, subjects, "agent", "s1", "r1", line.epoch, until_seq)
    made = Outbox(ownership, on_failure=lambda _: None)
    made.begin(4)
    yield made, broker
    await made.close()
    await line.close()


async def test_an_owner_knows_where_its_records_stand(journal: tuple[Outbox, MemoryBroker]) -> None:
    writing, broker = journal
    before = len(broker.records)
    for number in range(3):
        writing.append(ev.SilenceNoticed(seconds=number), now=1.0, cause="", seen=3, settled=(0, 0), hidden=False)
    await writing.flush()
    assert writing.stored(4) == (4, [before + 1, before + 2, before + 3])
    writing.forget(6)
    assert writing.stored(6) == (6, [before + 3])


async def test_an_index_is_told_before_its_record_is_sent(journal: tuple[Outbox, MemoryBroker]) -> None:
    writing, broker = journal
    told: list[int] = []
    broker.watch = lambda _: told.append(writing.index)
    for number in range(2):
        writing.append(ev.SilenceNoticed(seconds=number), now=1.0, cause="", seen=3, settled=(0, 0), hidden=False)
        await writing.flush()
    assert told == [5, 6]


async def test_what_cannot_be_stored_takes_no_index(journal: tuple[Outbox, MemoryBroker]) -> None:
    writing, broker = journal
    broker.max_payload = 2_000
    with pytest.raises(RecordTooLarge):
        writing.append(
            cmd.Say(text="x" * 3_000), now=1.0, cause="", seen=3, settled=(0, 0), hidden=False, command_id="c"
        )
    assert writing.index == 4
    writing.append(cmd.Say(text="x"), now=1.0, cause="", seen=3, settled=(0, 0), hidden=False, command_id="c")
    await writing.flush()
    assert (writing.index, len((writing.stored(4) or (0, []))[1])) == (5, 1)
