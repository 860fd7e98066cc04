"""Merging: the one order on which every reader agrees; and the tail in front of a fold."""

from __future__ import annotations

from msgspec.structs import replace
from tests.unit.core.call_log import CallLog

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.envelope import Envelope
from unpod.core.replay.ordering import Gap, Tail, is_whole, merge
from unpod.core.state import fold


def a_call() -> CallLog:
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.owner(cmd.Say(text="hello"))
    log.bridge(ev.UserText(text="hi"))
    log.owner(cmd.EndReply(turn=1))
    log.owner(ev.TurnCompleted(turn_id=1, user_text="hi", agent_text="you"))
    log.bridge(ev.CallEnded(reason="hangup"))
    log.owner(ev.CallCompleted(call_id="s1", agent_id="a", runner_id="r", reason="hangup"))
    return log


def rewritten(record: Record, **changes: object) -> Record:
    envelope: Envelope = replace(record.envelope, **changes)
    return Record(record.channel, envelope, record.body, record.seq, record.data)


def test_an_owners_record_comes_after_what_its_writer_had_seen_and_before_the_bridges_next() -> None:
    log = a_call()
    assert merge(reversed(log.records)) == log.records


def test_each_record_counts_once() -> None:
    log = a_call()
    assert merge([*log.records, *log.records]) == log.records


def test_placements_come_first_in_the_order_of_the_stream() -> None:
    log = a_call()
    line = Record("line", rewritten(log.records[0], index=0).envelope, ev.LineTaken(bridge="b"), seq=1)
    own = Record("own", rewritten(log.records[0], index=0).envelope, ev.OwnerAppointed(runner="r"), seq=5)
    again = Record("line", rewritten(log.records[0], index=0).envelope, ev.LineTaken(bridge="c"), seq=9)
    records = [rewritten(record, epoch=5) if record.channel in OWNER_CHANNELS else record for record in log.records]
    assert merge([again, *records, own, line]) == [line, own, again, *records]


def test_what_has_an_epoch_that_nobody_was_given_does_not_count() -> None:
    log = a_call()
    line = Record("line", rewritten(log.records[0], index=0).envelope, ev.LineTaken(bridge="b"), seq=1)
    own = Record("own", rewritten(log.records[0], index=0).envelope, ev.OwnerAppointed(runner="r"), seq=1)
    forged = [
        rewritten(record, epoch=epoch, id="forged", index=index)
        for record in log.records
        for index in (record.envelope.index, record.envelope.index + 1)
        for epoch in (0, 2, 10**15)
    ]
    assert merge([*forged, *log.records, line, own]) == [line, own, *log.records]


def test_a_control_from_outside_has_no_place_of_its_own() -> None:
    log = a_call()
    control = Record("ctl", log.records[0].envelope, ev.Unknown("end", b"{}"))
    assert merge([control, *log.records]) == log.records


def test_of_two_epochs_the_newer_one_counts() -> None:
    log = a_call()
    say = next(record for record in log.records if isinstance(record.body, cmd.Say))
    newer = rewritten(say, epoch=2, id="another")
    merged = merge([say, newer, *log.records])
    assert [record.envelope.id for record in merged if isinstance(record.body, cmd.Say)] == ["another"]


def takeover() -> tuple[list[Record], list[Record]]:
    """A call that changes hands after the owner's first record: what counts, and what the former owner wrote on."""
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.owner(cmd.Say(text="hello"))
    log.bridge(ev.UserText(text="hi"))
    zombie = CallLog()
    zombie.owner_index, zombie.bridge_index, zombie.epoch = 1, 4, 1
    void = [zombie.owner(cmd.EndReply(turn=1)), zombie.owner(ev.TurnCompleted(turn_id=1)), zombie.owner(cmd.EndCall())]
    log.bridge(ev.OwnerChanged(epoch=5, last_owner_index=1, takeover=1))
    log.epoch = 5
    log.owner(cmd.EndReply(turn=1, deltas=2))
    return log.records, void


def test_what_a_former_owner_wrote_after_the_takeover_is_void() -> None:
    valid, void = takeover()
    assert merge([*void, *valid]) == valid
    assert merge([*valid, *void]) == valid


def test_void_records_change_nothing_in_a_fold_that_meets_them_late() -> None:
    valid, void = takeover()
    assert fold([*valid, *void]) == fold(valid)
    assert fold(valid).takeovers == 1


def test_a_tail_gives_what_is_next_and_holds_back_what_is_early() -> None:
    events = [record for record in a_call().records if record.channel == "evt"]
    one, two, three, four = (rewritten(record, index=n) for n, record in enumerate(events, 1))
    tail = Tail()
    steps = [(tail.push(record), tail.gap, tail.index) for record in (three, two, one)]
    assert steps == [([], Gap(1, 2), 0), ([], Gap(1, 1), 0), ([one, two, three], None, 3)]
    assert tail.push(two) == []
    assert tail.push(four) == [four]


def test_a_tail_goes_on_after_what_was_read() -> None:
    record = a_call().records[0]
    tail = Tail(7)
    assert tail.push(rewritten(record, index=7)) == []
    assert tail.gap is None
    assert tail.push(rewritten(record, index=8)) == [rewritten(record, index=8)]


def test_of_two_records_with_an_index_the_first_counts() -> None:
    record = a_call().records[0]
    first, second = rewritten(record, index=2, id="first"), rewritten(record, index=2, id="second")
    tail = Tail()
    tail.push(first)
    tail.push(second)
    assert tail.push(rewritten(record, index=1)) == [rewritten(record, index=1), first]


def stored() -> list[Record]:
    """A call that a second owner takes over, as it stands in the log, the newer record after the starting point."""
    log = CallLog()
    log.epoch = 1
    placed = rewritten(log.records[0], index=0).envelope
    bodies: list[tuple[str, object]] = [("owner", cmd.Say(text="a")), ("bridge", ev.UserText(text="b"))]
    for side, body in bodies:
        getattr(log, side)(body)
    start = ev.OwnerChanged(epoch=2, last_owner_index=1, takeover=1)
    log.bridge(start)
    log.bridge(ev.UserText(text="c"))
    records = [
        Record("line", placed, ev.LineTaken(bridge="b"), seq=1),
        Record("own", placed, ev.OwnerAppointed(runner="r"), seq=1),
        Record("own", placed, ev.OwnerAppointed(runner="s"), seq=2),
    ]
    return records + [
        Record(record.channel, record.envelope, record.body, 10 + number) for number, record in enumerate(log.records)
    ]


def test_a_history_is_whole_or_shows_what_it_lacks() -> None:
    records = stored()
    start = next(record.seq for record in records if isinstance(record.body, ev.OwnerChanged))
    assert is_whole(records, 2, start)
    assert is_whole(records[:-1], 2, start)  # what comes behind the starting point is not history
    for missing in records[:-1]:
        assert not is_whole([record for record in records if record is not missing], 2, start), missing
    assert not is_whole(records, 3, start)
    assert not is_whole(records, 2, start - 1)
    assert not is_whole([], 2, start)
