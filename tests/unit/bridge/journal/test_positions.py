"""What a bridge knows of where a session's records stand."""

from __future__ import annotations

import pytest

from unpod.core.positions import Positions, unpack
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod_bridge.fleet.horizon import Horizon
from unpod_bridge.journal.positions import StreamPositions

CALL = Subjects().call("agent", "session")


def a_call() -> StreamPositions:
    """Line at 1, two frames, the first owner at 6 and its starting point."""
    stream_positions = StreamPositions()
    stream_positions.placed(1)
    stream_positions.wrote(3)
    stream_positions.wrote(4)
    stream_positions.placed(6)
    stream_positions.searched((), 0, 6)
    stream_positions.wrote(7)
    return stream_positions


def test_a_new_call_is_known_as_a_whole() -> None:
    assert unpack(a_call().pack(6, 7)) == Positions((1, 3, 4, 6, 7), 7)


def test_what_the_owner_has_told_is_known() -> None:
    stream_positions = a_call()
    assert stream_positions.lacks(1)
    stream_positions.told(0, [10, 20])
    assert (stream_positions.owner_index, stream_positions.lacks(2)) == (2, False)
    stream_positions.told(0, [10, 20])  # an answer that is late
    stream_positions.told(2, [30])
    assert stream_positions.owners(3) == Positions((30,), 30)
    assert unpack(stream_positions.pack(40, 41)) == Positions(
        (1, 3, 4, 6, 7, 10, 20, 30), 30
    )  # what follows was not looked for
    stream_positions.searched([50], 4, 60)
    assert unpack(stream_positions.pack(60, 61)) == Positions((1, 3, 4, 6, 7, 10, 20, 30, 50), 61)


def test_where_the_owner_has_sent_no_more_the_log_is_known_up_to_when_it_was_asked() -> None:
    stream_positions = a_call()
    stream_positions.told(0, [10])
    stream_positions.sent(1, 500)
    assert stream_positions.owners(1) == Positions((10,), 500)
    stream_positions.sent(2, 900)  # there is a second
    assert stream_positions.owners(1) == Positions((10,), 500)


def test_of_what_has_not_come_in_all_places_are_asked_for() -> None:
    stream_positions = a_call()
    stream_positions.told(0, [10, 20, 30])
    assert stream_positions.owners(2) == Positions((30,), 30)
    assert stream_positions.owners(1) == Positions((10, 20, 30), 30)


def test_an_owner_that_tells_nothing_is_searched_for() -> None:
    stream_positions = a_call()
    assert stream_positions.owners(5) is None
    assert stream_positions.owners(0) == Positions((), 6)


@pytest.mark.parametrize(
    ("after", "seqs"), [(1, [10]), (0, [7, 5]), (0, [20, 20]), (0, [20, 19]), (0, [2**63]), (0, [-1])]
)
def test_what_cannot_be_spoils_what_comes_later(after: int, seqs: list[int]) -> None:
    stream_positions = a_call()
    stream_positions.told(0, [])
    if not after:
        stream_positions.searched([8], 0, 8)
    stream_positions.told(after, seqs)
    stream_positions.sent(0, 900)
    stream_positions.searched([70], 3, 80)
    assert stream_positions.owners(0) is None
    assert not stream_positions.lacks(9)
    assert unpack(stream_positions.pack(80, 81)).through < 10


def test_a_call_that_was_read_is_known_as_a_whole() -> None:
    stream_positions = StreamPositions()
    subjects = [CALL.line, CALL.evt("x"), CALL.own, CALL.ack, CALL.cmd, CALL.ctl, CALL.run("y"), CALL.line]
    for seq, subject in enumerate(subjects, 1):
        stream_positions.take(CALL, Message(subject, b"", seq=seq))
    stream_positions.searched((), 2, 8)
    assert unpack(stream_positions.pack(8, 9)) == Positions((1, 2, 3, 4, 5, 7, 8), 9)
    assert stream_positions.owners(2) == Positions((7,), 8)


def test_of_nothing_nothing_is_handed_over() -> None:
    stream_positions = StreamPositions()
    stream_positions.spoil()
    assert stream_positions.pack(3, 4) == b""


def test_all_calls_of_a_bridge_move_its_horizon() -> None:
    horizon = Horizon()
    one, two = StreamPositions(horizon), StreamPositions(horizon)
    one.placed(5)
    two.wrote(9)
    one.wrote(7)
    assert horizon.seq == 9
