"""The gate: one end per reply, in order, and who is at fault where there are more."""

import pytest

from unpod_orchestrator.wire.call_frames import FrameError
from unpod_orchestrator.worker.replies import ReplyQueue


def test_a_turn_is_ended_once() -> None:
    replies = ReplyQueue()
    replies.user_turn(1, 10.0)
    replies.delta("Hel", 1, 10.5)
    replies.delta("lo", 1, 10.6)
    reply = replies.end(11.0)
    assert reply is not None
    assert (reply.turn_id, reply.text, reply.answers_user) == (1, "Hello", True)
    assert (reply.asked_s, reply.first_delta_s, reply.ended_s) == (10.0, 10.5, 11.0)
    with pytest.raises(FrameError, match="no reply is open"):
        replies.end(11.1)


def test_a_turn_that_yields_nothing_still_ends_once() -> None:
    replies = ReplyQueue()
    replies.user_turn(1, 0.0)
    reply = replies.end(1.0)
    assert reply is not None
    assert reply.text == ""


def test_texts_during_a_reply_are_owed_an_end_each_in_order() -> None:
    replies = ReplyQueue()
    for turn_id in (1, 2, 3):
        replies.user_turn(turn_id, float(turn_id))
    assert replies.owed == 3
    ended = [replies.end(9.0) for _ in range(3)]
    assert [reply.turn_id for reply in ended if reply] == [1, 2, 3]


def test_a_delta_with_no_reply_open_opens_one_that_must_end() -> None:
    replies = ReplyQueue()
    replies.delta("By the way", 4, 0.0)
    reply = replies.end(1.0)
    assert reply is not None
    assert not reply.answers_user
    with pytest.raises(FrameError):
        replies.end(1.0)


def test_an_interrupted_reply_still_ends_once() -> None:
    replies = ReplyQueue()
    replies.user_turn(1, 0.0)
    replies.delta("Well", 1, 0.0)
    replies.interrupt(heard_something=True)
    reply = replies.end(1.0)
    assert reply is not None
    assert reply.interrupted
    with pytest.raises(FrameError):
        replies.end(1.0)


def test_between_replies_with_nothing_heard_a_nudge_may_end_without_a_word() -> None:
    replies = ReplyQueue()
    replies.interrupt(heard_something=False)
    assert replies.end(1.0) is None
    with pytest.raises(FrameError):
        replies.end(1.0)


def test_between_replies_with_something_heard_there_is_no_nudge() -> None:
    replies = ReplyQueue()
    replies.interrupt(heard_something=True)
    with pytest.raises(FrameError):
        replies.end(1.0)


def test_after_a_drop_one_end_may_be_repeated() -> None:
    replies = ReplyQueue()
    replies.user_turn(1, 0.0)
    replies.end(1.0)
    replies.line_dropped()
    assert replies.end(2.0) is None
    with pytest.raises(FrameError):
        replies.end(2.0)


def test_the_repetition_is_not_owed_for_ever() -> None:
    replies = ReplyQueue()
    replies.line_dropped()
    replies.user_turn(1, 0.0)
    assert replies.end(1.0) is not None
    with pytest.raises(FrameError):
        replies.end(2.0)


def test_old_replies_are_forgotten() -> None:
    replies = ReplyQueue(most_chars=100)
    for turn_id in range(10):
        replies.user_turn(turn_id, 0.0)
        replies.delta("x" * 60, turn_id, 0.0)
        replies.delta("y" * 60, turn_id, 0.0)
        replies.end(0.0)
    assert [reply.text for reply in replies.completed] == ["x" * 60]
    assert replies.completed_total == 10
