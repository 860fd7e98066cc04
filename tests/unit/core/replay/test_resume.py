"""How far a reply was spoken when an owner begins, as far as the log says."""

from __future__ import annotations

import pytest
from tests.unit.core.call_log import CallLog

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.decision import Settings
from unpod.core.ephemeral_events import TurnResumed
from unpod.core.replay.history import History
from unpod.core.replay.resume import Present, Trace, resume, spoken_of
from unpod.core.state import SessionState
from unpod.core.turns import Turn


def taken_over(**begins: object) -> tuple[CallLog, History]:
    """A call of which the second of three texts is the first without a completed turn, and its new owner's past."""
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.bridge(ev.UserText(text="one"))
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=3))
    log.bridge(ev.UserText(text="two"))
    log.owner(ev.TurnCompleted(turn_id=1, agent_text="yes"))
    log.bridge(ev.UserText(text="three"))
    log.bridge(ev.OwnerChanged(epoch=2, last_owner_index=2, takeover=1, **begins))  # type: ignore[arg-type]
    return log, History(log.records, 2)


@pytest.mark.parametrize(
    ("begins", "unsure"),
    [
        ({}, False),
        ({"turn": 2, "chars": 3, "text": "yes"}, False),
        ({"turn": 1, "unsure_until": 1}, False),
        ({"turn": 2, "unsure_until": 2}, True),
        # The receipt of the end of the first reply was lost, its turn was completed all the same.
        ({"turn": 1, "unsure_until": 2}, True),
        ({"turn": 1, "chars": 3, "unsure_until": 3}, True),
    ],
    ids=str,
)
def test_a_reply_may_have_been_begun_wherever_the_record_is_unsure_of_it(
    begins: dict[str, object],
    unsure: bool,  # noqa: FBT001
) -> None:
    log, past = taken_over(**begins)
    first = log.state.queue[0]
    assert first.number == 2
    spoken = spoken_of(first, past)
    assert (0 < spoken.turn <= spoken.unsure_until) is unsure
    assert spoken.text == begins.get("text")


def test_an_earlier_reply_that_is_not_completed_keeps_its_text() -> None:
    """Its owner died before it had stored the turn's row, and another reply has begun."""
    earlier = (ev.EarlierReply(turn=2, part=1, chars=5, text="whole"),)
    log, past = taken_over(turn=3, chars=1, text="a", earlier=earlier)
    spoken = spoken_of(log.state.queue[0], past)
    assert (spoken.turn, spoken.part, spoken.chars, spoken.text) == (2, 1, 5, "whole")


WORDS = "one two three"


@pytest.mark.parametrize(
    ("receipt", "newest", "text", "chars"),
    [
        # The next bridge knows only that the reply is over, and says nothing of it.
        ({"chars": 13, "ended": True}, {}, WORDS, 13),
        ({}, {}, WORDS, 13),
        # It knows how much, and not which words.
        ({"chars": 13}, {"turn": 2, "chars": 13}, WORDS, 13),
        # More was spoken since, of which nobody knows the words.
        ({"chars": 20, "ended": True}, {}, None, 20),
        ({"chars": 20}, {"turn": 2, "chars": 20}, None, 20),
    ],
    ids=str,
)
def test_what_one_bridge_has_told_of_a_reply_stays_known_when_another_has_taken_the_call_over(
    receipt: dict[str, object], newest: dict[str, object], text: str | None, chars: int
) -> None:
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.bridge(ev.UserText(text="one"))
    log.owner(ev.TurnCompleted(turn_id=1, agent_text="yes"))
    log.bridge(ev.UserText(text="two"))
    log.bridge(ev.OwnerChanged(epoch=2, last_owner_index=1, takeover=1, turn=2, part=1, chars=13, text=WORDS))
    if receipt:
        log.bridge(ev.ReplySpoken(turn=2, part=1, **receipt))  # type: ignore[arg-type]
    log.bridge(ev.OwnerChanged(epoch=3, last_owner_index=1, takeover=2, **newest))  # type: ignore[arg-type]
    spoken = spoken_of(log.state.queue[0], History(log.records, 3))
    assert (spoken.text, spoken.chars, spoken.turn) == (text, chars, 2)


def cut_by_nobody(**begins: object) -> tuple[cmd.EndReply | None, Turn]:
    """Return the end of a reply as its fold has it, and the open turn of a new owner, whose adapter can go on."""
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.bridge(ev.UserText(text="hi"))
    log.owner(cmd.EndReply(turn=1, deltas=4, chars=8))
    log.bridge(ev.OwnerChanged(epoch=2, last_owner_index=1, takeover=1, **begins))  # type: ignore[arg-type]
    past = History(log.records, 2)
    trace = Trace(SessionState(), log.records, Settings())
    present = Present(now=10.0, settings=Settings(), has_adapter=True, can_continue=True)
    steps = resume(log.state, trace, past, present).steps
    (resumed,) = [step for step in steps if isinstance(step, TurnResumed)]
    return log.state.reply_ends.get(1), resumed.turn


def test_a_reply_whose_end_was_not_carried_out_goes_on() -> None:
    """Pieces of it were lost with its owner, who had ended it: the next one says them, in a part that is new."""
    end, turn = cut_by_nobody(turn=1, deltas=2, chars=4, text="one ", unended=1)
    assert end is None
    assert (turn.phase, turn.part, turn.sent) == ("opened", 2, "one ")


def test_a_reply_whose_end_was_carried_out_is_over() -> None:
    end, turn = cut_by_nobody(turn=1, deltas=2, chars=4, text="one ")
    assert end is not None
    assert (turn.phase, turn.untold) == ("ended", True)


def test_of_a_reply_that_is_over_its_end_is_kept_where_nobody_knows_more() -> None:
    """Another bridge has said the beginning."""
    _, turn = cut_by_nobody(turn=1, chars=8, text="word")
    assert (turn.phase, turn.sent, turn.untold) == ("ended", "word", True)
