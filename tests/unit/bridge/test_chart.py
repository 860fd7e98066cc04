"""What a bridge knows of where a session's records stand."""

from __future__ import annotations

import pytest

from unpod.core.positions import Positions, unpack
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod_bridge.chart import Chart, Horizon

CALL = Subjects().call("agent", "session")


def a_call() -> Chart:
    """Line at 1, two frames, the first owner at 6 and its starting point."""
    chart = Chart()
    chart.placed(1)
    chart.wrote(3)
    chart.wrote(4)
    chart.placed(6)
    chart.searched((), 0, 6)
    chart.wrote(7)
    return chart


def test_a_new_call_is_known_as_a_whole() -> None:
    assert unpack(a_call().pack(6, 7)) == Positions((1, 3, 4, 6, 7), 7)


def test_what_the_owner_has_told_is_known() -> None:
    chart = a_call()
    assert chart.lacks(1)
    chart.told(0, [10, 20])
    assert (chart.owner_index, chart.lacks(2)) == (2, False)
    chart.told(0, [10, 20])  # an answer that is late
    chart.told(2, [30])
    assert chart.owners(3) == Positions((30,), 30)
    assert unpack(chart.pack(40, 41)) == Positions((1, 3, 4, 6, 7, 10, 20, 30), 30)  # what follows was not looked for
    chart.searched([50], 4, 60)
    assert unpack(chart.pack(60, 61)) == Positions((1, 3, 4, 6, 7, 10, 20, 30, 50), 61)


def test_where_the_owner_has_sent_no_more_the_log_is_known_up_to_when_it_was_asked() -> None:
    chart = a_call()
    chart.told(0, [10])
    chart.sent(1, 500)
    assert chart.owners(1) == Positions((10,), 500)
    chart.sent(2, 900)  # there is a second
    assert chart.owners(1) == Positions((10,), 500)


def test_of_what_has_not_come_in_all_places_are_asked_for() -> None:
    chart = a_call()
    chart.told(0, [10, 20, 30])
    assert chart.owners(2) == Positions((30,), 30)
    assert chart.owners(1) == Positions((10, 20, 30), 30)


def test_an_owner_that_tells_nothing_is_searched_for() -> None:
    chart = a_call()
    assert chart.owners(5) is None
    assert chart.owners(0) == Positions((), 6)


@pytest.mark.parametrize(
    ("after", "seqs"), [(1, [10]), (0, [7, 5]), (0, [20, 20]), (0, [20, 19]), (0, [2**63]), (0, [-1])]
)
def test_what_cannot_be_spoils_what_comes_later(after: int, seqs: list[int]) -> None:
    chart = a_call()
    chart.told(0, [])
    if not after:
        chart.searched([8], 0, 8)
    chart.told(after, seqs)
    chart.sent(0, 900)
    chart.searched([70], 3, 80)
    assert chart.owners(0) is None
    assert not chart.lacks(9)
    assert unpack(chart.pack(80, 81)).through < 10


def test_a_call_that_was_read_is_known_as_a_whole() -> None:
    chart = Chart()
    subjects = [CALL.line, CALL.evt("x"), CALL.own, CALL.ack, CALL.cmd, CALL.ctl, CALL.run("y"), CALL.line]
    for seq, subject in enumerate(subjects, 1):
        chart.take(CALL, Message(subject, b"", seq=seq))
    chart.searched((), 2, 8)
    assert unpack(chart.pack(8, 9)) == Positions((1, 2, 3, 4, 5, 7, 8), 9)
    assert chart.owners(2) == Positions((7,), 8)


def test_of_nothing_nothing_is_handed_over() -> None:
    chart = Chart()
    chart.spoil()
    assert chart.pack(3, 4) == b""


def test_all_calls_of_a_bridge_move_its_horizon() -> None:
    horizon = Horizon()
    one, two = Chart(horizon), Chart(horizon)
    one.placed(5)
    two.wrote(9)
    one.wrote(7)
    assert horizon.seq == 9
