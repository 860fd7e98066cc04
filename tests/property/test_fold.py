"""The fold's laws: prefixes, duplicates, any order of arrival, and takeovers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from tests.property.strategies import of_struct
from tests.unit.core.call_log import CallLog

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.replay.ordering import Tail, merge
from unpod.core.state import SessionState, evolve, fold

from_bridge = st.one_of(
    [of_struct(kind) for kind in (*get_args(ev.CallerEvent), *get_args(ev.Receipt)) if kind is not ev.OwnerChanged]
)
from_owner = st.one_of([of_struct(kind) for kind in (*get_args(ev.SessionEvent), *get_args(cmd.AnyCommand))])
# Small numbers, so that turns, ends and receipts meet.
meeting = (
    st.builds(ev.UserText, text=st.text(max_size=3), is_final=st.booleans(), withheld=st.booleans())
    | st.builds(ev.UserInterrupted, heard_prefix=st.none() | st.text(max_size=3))
    | st.builds(ev.StateChanged, state=st.sampled_from(["speaking", "listening"]))
)
answering = st.builds(ev.TurnCompleted, turn_id=st.integers(1, 4)) | st.builds(cmd.EndReply, turn=st.integers(1, 4))


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """A call's valid records in merged order, and what former owners wrote after they had lost it."""
    log, void, epoch = CallLog(), list[Record](), 10
    log.epoch = epoch
    log.bridge(ev.OwnerChanged(epoch=epoch))
    for _ in range(draw(st.integers(0, 12))):
        log.now += draw(st.sampled_from([0.0, 0.5, 11.0]))
        what = draw(st.sampled_from(["bridge", "owner", "bridge", "owner", "takeover"]))
        if what == "bridge":
            log.bridge(draw(meeting | from_bridge))
        elif what == "owner":
            log.owner(draw(answering | from_owner))
        else:
            zombie = CallLog()
            zombie.epoch, zombie.owner_index, zombie.bridge_index = epoch, log.owner_index, log.bridge_index
            void += [zombie.owner(draw(answering | from_owner)) for _ in range(draw(st.integers(0, 3)))]
            epoch += 10
            log.bridge(ev.OwnerChanged(epoch=epoch, last_owner_index=log.owner_index, takeover=epoch // 10 - 1))
            log.epoch = epoch
    return log.records, void


def shuffled(draw: st.DrawFn, records: Sequence[Record]) -> list[Record]:
    repeated = draw(st.lists(st.sampled_from(records), max_size=5))
    return draw(st.permutations([*records, *repeated]))


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """A call's valid records, and all records in any order, some twice."""
    valid, void = draw(logs())
    return valid, shuffled(draw, [*valid, *void])


@given(logs(), st.integers(0, 20))
def test_a_fold_can_go_on_where_another_stopped(log: tuple[list[Record], list[Record]], cut: int) -> None:
    records, _ = log
    assert fold(records) == fold(records[cut:], fold(records[:cut]))


@given(logs(), st.data())
def test_a_repeat_changes_nothing(log: tuple[list[Record], list[Record]], data: st.DataObject) -> None:
    state = SessionState()
    for position, record in enumerate(log[0]):
        state = evolve(state, record)
        again = data.draw(st.sampled_from(log[0][: position + 1]))
        assert evolve(state, again) == state


@given(logs())
def test_what_a_takeover_has_made_void_changes_nothing(log: tuple[list[Record], list[Record]]) -> None:
    valid, void = log
    assert fold([*valid, *void]) == fold(valid)


@given(arrivals())
def test_in_any_order_of_arrival_there_is_one_merged_order(log: tuple[list[Record], list[Record]]) -> None:
    valid, arrived = log
    assert merge(arrived) == valid
    assert fold(merge(arrived)) == fold(valid)


@given(arrivals())
def test_a_tail_puts_one_writers_records_in_order_and_each_once(log: tuple[list[Record], list[Record]]) -> None:
    valid, arrived = log
    tail, taken = Tail(), list[Record]()
    for record in arrived:
        if record.channel in BRIDGE_CHANNELS:
            taken += tail.push(record)
    assert taken == [record for record in valid if record.channel in BRIDGE_CHANNELS]
    assert tail.gap is None


@pytest.mark.slow
@given(logs())
def test_what_counts_only_grows(log: tuple[list[Record], list[Record]]) -> None:
    state = SessionState()
    for record in log[0]:
        after = evolve(state, record)
        assert after.bridge_index >= state.bridge_index
        assert after.turn_count >= state.turn_count
        assert after.interruptions >= state.interruptions
        assert len(after.history) >= len(state.history)
        assert after.epoch >= state.epoch
        assert after.ended is state.ended or state.ended is None
        assert after.ending == state.ending or state.ending is None
        state = after


@pytest.mark.slow
@given(logs())
def test_a_record_moves_its_own_writers_index_by_one(log: tuple[list[Record], list[Record]]) -> None:
    state = SessionState()
    for record in log[0]:
        after = evolve(state, record)
        assert after.bridge_index - state.bridge_index == (record.channel in BRIDGE_CHANNELS)
        assert after.owner_index - state.owner_index == (record.channel in OWNER_CHANNELS)
        state = after


@given(of_struct(ev.OwnerChanged) | from_bridge, st.lists(from_owner, max_size=3))
def test_no_record_makes_a_fold_fail(first: Struct, others: list[Struct]) -> None:
    log = CallLog()
    log.bridge(first)
    for body in others:
        log.owner(body)
