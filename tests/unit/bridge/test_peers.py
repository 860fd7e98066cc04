"""Which other bridges are there, and what has stood still."""

from __future__ import annotations

from unpod.core.fleet import BridgeAnnounced
from unpod_bridge.peers import ASK_S, LOOK_AGAIN_S, NEW_S, SILENT_S, Gone, Peers
from unpod_bridge.steadiness import AT_ONCE, STILL_S, Steadiness


def heard(*bridges: str, at: float = 10.0) -> Peers:
    peers = Peers(0.0)
    for bridge in bridges:
        peers.hear(BridgeAnnounced(bridge=bridge), at)
    return peers


def test_nobody_is_gone_while_we_are_new_ourselves() -> None:
    peers = Peers(0.0)
    assert peers.alive("b1", SILENT_S - 0.1)
    assert not peers.alive("b1", SILENT_S)
    assert peers.gone(SILENT_S) == []


def test_a_bridge_knows_that_it_is_there_itself() -> None:
    assert Peers(0.0, "b1").alive("b1", 100.0)


def test_one_that_is_silent_is_gone_once() -> None:
    peers = heard("b1", "b2")
    peers.answered("b2", 11.0)
    assert peers.alive("b1", 10.0 + SILENT_S - 0.1)
    assert peers.gone(10.0 + SILENT_S - 0.1) == []
    assert peers.gone(10.0 + SILENT_S) == [Gone("b1", "silent")]
    assert peers.gone(10.0 + SILENT_S) == []
    assert not peers.alive("b1", 10.0 + SILENT_S)
    assert peers.alive("b2", 10.0 + SILENT_S)


def test_one_that_stands_still_has_done_nothing_since_it_was_asked_what_it_has_not_answered() -> None:
    peers = heard("b1")
    assert peers.due(10.0) == ["b1"]
    peers.answered("b1", 10.001)
    assert peers.due(10.0 + ASK_S) == peers.due(10.0 + 2 * ASK_S) == ["b1"]
    assert peers.gone(10.0 + 2 * SILENT_S) == [Gone("b1", "silent", since=10.0 + ASK_S)]


def test_one_that_says_so_is_gone_at_once() -> None:
    peers = heard("b1")
    peers.hear(BridgeAnnounced(bridge="b1", gone=True), 10.5)
    assert not peers.alive("b1", 10.5)
    assert peers.gone(10.5) == [Gone("b1", "said")]
    peers.hear(BridgeAnnounced(bridge="b1", gone=True), 10.6)
    assert peers.gone(10.6) == []
    assert not peers.alive("b1", 10.6)


def test_one_that_was_never_heard_and_says_that_it_is_gone_has_left_its_jobs_behind() -> None:
    peers = Peers(0.0)
    peers.hear(BridgeAnnounced(bridge="b1", gone=True), 10.5)
    assert peers.gone(10.5) == [Gone("b1", "said")]


def test_one_that_nobody_answers_for_is_gone_at_the_second_look() -> None:
    peers = heard("b1")
    assert peers.due(10.0) == ["b1"]
    peers.nobody("b1", 10.1)
    assert peers.gone(10.1) == []
    assert peers.alive("b1", 10.1)
    assert peers.next_at() == 10.1 + LOOK_AGAIN_S
    assert peers.due(10.1 + LOOK_AGAIN_S) == ["b1"]
    peers.nobody("b1", 10.1 + LOOK_AGAIN_S)
    assert peers.gone(10.1 + LOOK_AGAIN_S) == [Gone("b1", "nobody", since=10.0)]


def test_one_that_is_back_at_the_second_look_stays() -> None:
    peers = heard("b1")
    peers.nobody("b1", 10.0)
    peers.answered("b1", 10.1)
    peers.nobody("b1", 10.0 + LOOK_AGAIN_S)
    assert peers.gone(10.0 + LOOK_AGAIN_S) == []


def test_each_is_asked_now_and_then_and_a_suspect_at_once() -> None:
    peers = heard("b1", "b2")
    assert sorted(peers.due(10.0)) == ["b1", "b2"]
    assert peers.due(10.0 + ASK_S / 2) == []
    peers.suspect("b2", 10.0 + ASK_S / 2)
    peers.suspect("b3", 10.0 + ASK_S / 2)
    assert peers.due(10.0 + ASK_S / 2) == ["b2", "b3"]
    assert "b1" in peers.due(10.0 + ASK_S)


def test_one_that_only_a_record_names_is_asked_at_once_and_is_gone_if_it_stays_silent() -> None:
    peers = Peers(0.0)
    peers.doubt("b1", 0.1)
    assert peers.due(0.1) == ["b1"]
    assert peers.gone(0.1 + SILENT_S) == [Gone("b1", "silent", since=0.1)]
    peers.doubt("b1", 4.0)
    assert peers.alive("b1", 4.0)
    peers.hear(BridgeAnnounced(bridge="b1"), 5.0)
    assert peers.alive("b1", 5.0)


def test_a_newcomer_is_told_from_those_who_are_known() -> None:
    peers = Peers(0.0)
    assert peers.hear(BridgeAnnounced(bridge="b1"), 1.0)
    assert not peers.hear(BridgeAnnounced(bridge="b1"), 2.0)
    assert not peers.hear(BridgeAnnounced(bridge="b1", gone=True), 3.0)
    assert not peers.hear(BridgeAnnounced(bridge="b2", gone=True), 3.0)


def test_after_our_own_connection_was_lost_nobody_counts_as_missing() -> None:
    peers = heard("b1")
    peers.nobody("b1", 10.0)
    peers.reconnected(20.0)
    assert peers.gone(20.0) == []
    peers.nobody("b1", 20.1)
    peers.nobody("b1", 20.1 + LOOK_AGAIN_S)
    assert peers.gone(20.5) == []
    assert peers.due(20.0 + NEW_S) == ["b1"]
    peers.nobody("b1", 20.0 + NEW_S)
    peers.nobody("b1", 20.0 + NEW_S + LOOK_AGAIN_S)
    assert peers.gone(20.0 + SILENT_S - 0.1) == []
    assert peers.gone(20.0 + SILENT_S) == [Gone("b1", "silent", since=20.0 + NEW_S)]


def test_one_that_has_come_back_as_we_have_is_missed_as_soon_as_nobody_listens() -> None:
    peers = heard("b1")
    peers.reconnected(20.0)
    peers.hear(BridgeAnnounced(bridge="b1"), 20.2)
    peers.nobody("b1", 20.3)
    peers.nobody("b1", 20.3 + LOOK_AGAIN_S)
    assert peers.gone(20.5) == [Gone("b1", "nobody")]


def test_nobody_is_judged_while_our_own_connection_is_away() -> None:
    peers = heard("b1")
    peers.cut_off()
    assert peers.due(100.0) == []
    assert peers.next_at() is None
    peers.nobody("b1", 100.0)
    peers.nobody("b1", 100.0 + LOOK_AGAIN_S)
    assert peers.gone(100.5) == []
    assert peers.alive("b1", 100.5)
    assert peers.takers(100.5) == ["b1"]
    peers.reconnected(110.0)
    assert peers.gone(110.0 + SILENT_S - 0.1) == []
    assert peers.gone(110.0 + SILENT_S) == [Gone("b1", "silent")]


def test_nobody_is_judged_while_the_server_does_not_answer_us() -> None:
    peers = heard("b1")
    peers.server_answered(10.0)
    assert peers.gone(10.0 + SILENT_S) == []
    assert peers.alive("b1", 10.0 + SILENT_S)
    back_at = 20.0
    peers.server_answered(back_at)
    for second in range(1, int(SILENT_S)):
        peers.server_answered(back_at + second)
        assert peers.gone(back_at + second) == []
    peers.server_answered(back_at + SILENT_S)
    assert peers.gone(back_at + SILENT_S) == [Gone("b1", "silent")]


def test_who_wants_to_be_rid_of_its_calls() -> None:
    peers = heard("b1", "b2")
    peers.hear(BridgeAnnounced(bridge="b2", draining=True), 10.5)
    assert list(peers.draining()) == ["b2"]


def test_a_process_knows_that_it_has_stood_still() -> None:
    now = 100.0
    steadiness = Steadiness(lambda: now)
    assert steadiness.look() == 0
    now += STILL_S
    assert steadiness.look() == 0
    now += STILL_S + 0.1
    assert steadiness.look() == 1
    assert steadiness.look() == 1


def test_after_a_stop_all_who_listen_are_told_once_some_at_a_time() -> None:
    now = 100.0
    steadiness = Steadiness(lambda: now)
    told: list[int] = []
    ends = [
        steadiness.listen(lambda: None, lambda number=number: told.append(number))  # type: ignore[misc]
        for number in range(AT_ONCE + 3)
    ]
    steadiness.check()
    assert told == []
    now += STILL_S + 0.1
    assert steadiness.look() == 1  # somebody else has noticed first
    steadiness.check()
    assert told == list(range(AT_ONCE))
    ends[AT_ONCE]()
    for _ in range(3):
        steadiness.check()
    assert told == [*range(AT_ONCE), AT_ONCE + 1, AT_ONCE + 2]
