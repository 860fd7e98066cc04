"""Which other bridges are there, and what has stood still."""

from __future__ import annotations

from unpod.core.dispatch_messages import BridgeAnnounced
from unpod_bridge.fleet.bridges import ASK_S, LOOK_AGAIN_S, MISSED_S, NEW_S, SILENT_S, Bridges, Gone
from unpod_bridge.journal.stalls import AT_ONCE, STILL_S, StallDetector


def heard(*bridges: str, at: float = 10.0) -> Bridges:
    other_bridges = Bridges(0.0)
    for bridge in bridges:
        other_bridges.hear(BridgeAnnounced(bridge=bridge), at)
    return other_bridges


def test_nobody_is_gone_while_we_are_new_ourselves() -> None:
    other_bridges = Bridges(0.0)
    assert other_bridges.alive("b1", SILENT_S - 0.1)
    assert not other_bridges.alive("b1", SILENT_S)
    assert other_bridges.gone(SILENT_S) == []


def test_a_bridge_knows_that_it_is_there_itself() -> None:
    assert Bridges(0.0, "b1").alive("b1", 100.0)


def test_one_that_is_silent_is_gone_once() -> None:
    other_bridges = heard("b1", "b2")
    other_bridges.answered("b2", 11.0)
    assert other_bridges.alive("b1", 10.0 + SILENT_S - 0.1)
    assert other_bridges.gone(10.0 + SILENT_S - 0.1) == []
    assert other_bridges.gone(10.0 + SILENT_S) == [Gone("b1", "silent")]
    assert other_bridges.gone(10.0 + SILENT_S) == []
    assert not other_bridges.alive("b1", 10.0 + SILENT_S)
    assert other_bridges.alive("b2", 10.0 + SILENT_S)


def test_one_that_stands_still_has_done_nothing_since_it_was_asked_what_it_has_not_answered() -> None:
    other_bridges = heard("b1")
    asked_at = 10.0 + MISSED_S
    assert other_bridges.due(asked_at) == other_bridges.due(asked_at + ASK_S) == ["b1"]
    assert other_bridges.gone(10.0 + 2 * SILENT_S) == [Gone("b1", "silent", since=asked_at)]


def test_one_that_says_so_is_gone_at_once() -> None:
    other_bridges = heard("b1")
    other_bridges.hear(BridgeAnnounced(bridge="b1", gone=True), 10.5)
    assert not other_bridges.alive("b1", 10.5)
    assert other_bridges.gone(10.5) == [Gone("b1", "said")]
    other_bridges.hear(BridgeAnnounced(bridge="b1", gone=True), 10.6)
    assert other_bridges.gone(10.6) == []
    assert not other_bridges.alive("b1", 10.6)


def test_one_that_was_never_heard_and_says_that_it_is_gone_has_left_its_jobs_behind() -> None:
    other_bridges = Bridges(0.0)
    other_bridges.hear(BridgeAnnounced(bridge="b1", gone=True), 10.5)
    assert other_bridges.gone(10.5) == [Gone("b1", "said")]


def test_one_that_nobody_answers_for_is_gone_at_the_second_look() -> None:
    other_bridges = heard("b1")
    other_bridges.suspect("b1", 10.0)
    assert other_bridges.due(10.0) == ["b1"]
    other_bridges.nobody("b1", 10.1)
    assert other_bridges.gone(10.1) == []
    assert other_bridges.alive("b1", 10.1)
    assert other_bridges.next_at() == 10.1 + LOOK_AGAIN_S
    assert other_bridges.due(10.1 + LOOK_AGAIN_S) == ["b1"]
    other_bridges.nobody("b1", 10.1 + LOOK_AGAIN_S)
    assert other_bridges.gone(10.1 + LOOK_AGAIN_S) == [Gone("b1", "nobody", since=10.0)]


def test_one_that_is_back_at_the_second_look_stays() -> None:
    other_bridges = heard("b1")
    other_bridges.nobody("b1", 10.0)
    other_bridges.answered("b1", 10.1)
    other_bridges.nobody("b1", 10.0 + LOOK_AGAIN_S)
    assert other_bridges.gone(10.0 + LOOK_AGAIN_S) == []


def test_who_is_heard_is_not_asked_and_a_suspect_at_once() -> None:
    other_bridges = heard("b1", "b2")
    now = 10.0
    for _ in range(8):
        now += 0.25
        other_bridges.answered("b1", now)
        other_bridges.answered("b2", now)
        assert other_bridges.due(now) == []
    other_bridges.suspect("b2", now)
    other_bridges.suspect("b3", now)
    assert other_bridges.due(now) == ["b2", "b3"]
    other_bridges.answered("b2", now)
    assert other_bridges.due(now + MISSED_S - 0.01) == ["b3"]
    assert sorted(other_bridges.due(now + MISSED_S)) == ["b1", "b2"]


def test_one_that_only_a_record_names_is_asked_at_once_and_is_gone_if_it_stays_silent() -> None:
    other_bridges = Bridges(0.0)
    other_bridges.doubt("b1", 0.1)
    assert other_bridges.due(0.1) == ["b1"]
    assert other_bridges.gone(0.1 + SILENT_S) == [Gone("b1", "silent", since=0.1)]
    other_bridges.doubt("b1", 4.0)
    assert other_bridges.alive("b1", 4.0)
    other_bridges.hear(BridgeAnnounced(bridge="b1"), 5.0)
    assert other_bridges.alive("b1", 5.0)


def test_a_newcomer_is_told_from_those_who_are_known() -> None:
    other_bridges = Bridges(0.0)
    assert other_bridges.hear(BridgeAnnounced(bridge="b1"), 1.0)
    assert not other_bridges.hear(BridgeAnnounced(bridge="b1"), 2.0)
    assert not other_bridges.hear(BridgeAnnounced(bridge="b1", gone=True), 3.0)
    assert not other_bridges.hear(BridgeAnnounced(bridge="b2", gone=True), 3.0)


def test_after_our_own_connection_was_lost_nobody_counts_as_missing() -> None:
    other_bridges = heard("b1")
    other_bridges.nobody("b1", 10.0)
    other_bridges.reconnected(20.0)
    assert other_bridges.gone(20.0) == []
    other_bridges.nobody("b1", 20.1)
    other_bridges.nobody("b1", 20.1 + LOOK_AGAIN_S)
    assert other_bridges.gone(20.5) == []
    assert other_bridges.due(20.0 + NEW_S) == ["b1"]
    other_bridges.nobody("b1", 20.0 + NEW_S)
    other_bridges.nobody("b1", 20.0 + NEW_S + LOOK_AGAIN_S)
    assert other_bridges.gone(20.0 + SILENT_S - 0.1) == []
    assert other_bridges.gone(20.0 + SILENT_S) == [Gone("b1", "silent", since=20.0 + NEW_S)]


def test_one_that_has_come_back_as_we_have_is_missed_as_soon_as_nobody_listens() -> None:
    other_bridges = heard("b1")
    other_bridges.reconnected(20.0)
    other_bridges.hear(BridgeAnnounced(bridge="b1"), 20.2)
    other_bridges.nobody("b1", 20.3)
    other_bridges.nobody("b1", 20.3 + LOOK_AGAIN_S)
    assert other_bridges.gone(20.5) == [Gone("b1", "nobody")]


def test_nobody_is_judged_while_our_own_connection_is_away() -> None:
    other_bridges = heard("b1")
    other_bridges.cut_off()
    assert other_bridges.due(100.0) == []
    assert other_bridges.next_at() is None
    other_bridges.nobody("b1", 100.0)
    other_bridges.nobody("b1", 100.0 + LOOK_AGAIN_S)
    assert other_bridges.gone(100.5) == []
    assert other_bridges.alive("b1", 100.5)
    assert other_bridges.takers(100.5) == ["b1"]
    other_bridges.reconnected(110.0)
    assert other_bridges.gone(110.0 + SILENT_S - 0.1) == []
    assert other_bridges.gone(110.0 + SILENT_S) == [Gone("b1", "silent")]


def test_nobody_is_judged_while_the_server_does_not_answer_us() -> None:
    other_bridges = heard("b1")
    other_bridges.server_answered(10.0)
    assert other_bridges.gone(10.0 + SILENT_S) == []
    assert other_bridges.alive("b1", 10.0 + SILENT_S)
    back_at = 20.0
    other_bridges.server_answered(back_at)
    for second in range(1, int(SILENT_S)):
        other_bridges.server_answered(back_at + second)
        assert other_bridges.gone(back_at + second) == []
    other_bridges.server_answered(back_at + SILENT_S)
    assert other_bridges.gone(back_at + SILENT_S) == [Gone("b1", "silent")]


def test_who_wants_to_be_rid_of_its_calls() -> None:
    other_bridges = heard("b1", "b2")
    other_bridges.hear(BridgeAnnounced(bridge="b2", draining=True), 10.5)
    assert list(other_bridges.draining()) == ["b2"]


def test_a_process_knows_that_it_has_stood_still() -> None:
    now = 100.0
    stalls = StallDetector(lambda: now)
    assert stalls.look() == 0
    now += STILL_S
    assert stalls.look() == 0
    now += STILL_S + 0.1
    assert stalls.look() == 1
    assert stalls.look() == 1


def test_after_a_stop_all_who_listen_are_told_once_some_at_a_time() -> None:
    now = 100.0
    stalls = StallDetector(lambda: now)
    told: list[int] = []
    ends = [
        stalls.listen(lambda: None, lambda number=number: told.append(number))  # type: ignore[misc]
        for number in range(AT_ONCE + 3)
    ]
    stalls.check()
    assert told == []
    now += STILL_S + 0.1
    assert stalls.look() == 1  # somebody else has noticed first
    stalls.check()
    assert told == list(range(AT_ONCE))
    ends[AT_ONCE]()
    for _ in range(3):
        stalls.check()
    assert told == [*range(AT_ONCE), AT_ONCE + 1, AT_ONCE + 2]
