"""How far a reply was spoken when an owner begins, as far as the log says."""

from __future__ import annotations

import pytest
from tests.unit.core.call_log import CallLog

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.past import Past
from unpod.core.resume import spoken_of


def taken_over(**begins: object) -> tuple[CallLog, Past]:
    """A call of which the second of three texts is the first without a completed turn, and its new owner's past."""
    log = CallLog()
    log.bridge(ev.OwnerChanged(epoch=1))
    log.bridge(ev.UserText(text="one"))
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=3))
    log.bridge(ev.UserText(text="two"))
    log.owner(ev.TurnCompleted(turn_id=1, agent_text="yes"))
    log.bridge(ev.UserText(text="three"))
    log.bridge(ev.OwnerChanged(epoch=2, last_owner_index=2, takeover=1, **begins))  # type: ignore[arg-type]
    return log, Past(log.records, 2)


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
