"""What the log of a call says that another bridge had."""

from __future__ import annotations

import pytest
from tests.unit.bridge.jobs.books import CALL, SUBJECTS, Book
from tests.unit.bridge.wires import EPOCH

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.ports import Message
from unpod_bridge.protocol.outputs import Owned
from unpod_bridge.protocol.recovered_log import NEVER, CallLog, Hearing
from unpod_bridge.wire.call_frames import OWN_VERBS, VERBS

ALL_VERBS = frozenset(VERBS + OWN_VERBS)


def names(owned: tuple[Owned, ...]) -> list[str]:
    return [each.id for each in owned]


# ------------------------------------------------------------------------------------------------------ what a log says


def test_a_call_that_has_just_begun() -> None:
    past = Book(recording=False).adopted()
    assert past.session_id == "s"
    assert (past.index, past.owner_index) == (3, 0)
    assert past.started
    assert not past.recorded
    assert past.verbs == ALL_VERBS
    assert past.owner == ev.OwnerChanged(epoch=EPOCH, runner="runner-1")
    assert past.owner_seq == 3
    assert not past.owned
    assert not past.unknown


def test_nothing_is_in_the_log() -> None:
    past = CallLog(SUBJECTS, CALL, "s").adopted(Hearing())
    assert not past.started
    assert past.owner is None
    assert past.index == 0


@pytest.mark.parametrize("outcome", ["written", "delivered", "ignored", "refused", "unknown"])
def test_what_has_a_receipt_is_settled(outcome: ev.CommandOutcome) -> None:
    book = Book()
    book.owner(cmd.Say(text="a"), "say")
    book.owner(cmd.EndCall(), "end")
    book.acks("say", outcome)
    book.acks("end", "claimed", outcome)
    past = book.adopted()
    assert not past.owned
    assert not past.unknown
    assert past.outcomes == {"say": outcome, "end": outcome}


@pytest.mark.parametrize(
    "command",
    [
        cmd.EndCall(),
        cmd.Transfer(transfer_type="human", target="x"),
        cmd.DispatchAgent(agent_id="a"),
        cmd.Merge(source_session_id="t"),
        cmd.AddParticipant(participant_type="sip"),
        cmd.RemoveParticipant(participant_id="p"),
    ],
)
def test_a_claim_without_a_receipt_is_unknown_and_no_claim_is_to_be_done(command: cmd.AnyCommand) -> None:
    book = Book()
    book.owner(command, "claimed")
    book.owner(command, "not-claimed")
    book.acks("claimed", "claimed")
    past = book.adopted()
    assert names(past.unknown) == ["claimed"]
    assert names(past.owned) == ["not-claimed"]
    assert past.outcomes == {"claimed": "unknown"}


def test_say_is_to_be_done_if_the_former_bridge_cannot_have_heard_it() -> None:
    book = Book()
    book.owner(cmd.Say(text="a"), "before")
    deaf_from = book.seq + 1
    book.owner(cmd.Say(text="b"), "after")
    past = book.adopted(deaf_from=deaf_from)
    assert names(past.unknown) == ["before"]
    assert names(past.owned) == ["after"]
    assert names(book.adopted().unknown) == ["before", "after"]
    assert not past.shadowed
    assert book.adopted(deaf_from=NEVER).shadowed
    assert names(book.adopted(clean=True).owned) == ["before", "after"]


@pytest.mark.parametrize(
    "command", [cmd.Interrupt(), cmd.SetFiller(text="hm"), cmd.PauseRecording(), cmd.ResumeRecording()]
)
def test_what_may_be_repeated_is_done_again(command: cmd.AnyCommand) -> None:
    book = Book()
    book.owner(command, "again")
    assert names(book.adopted().owned) == ["again"]


def test_a_reply_that_was_ended_is_and_one_that_was_not_gets_its_end() -> None:
    book = Book()
    book.owner(cmd.EndReply(turn=1, deltas=2), "end-1")
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=8, ended=True))
    book.owner(cmd.EndReply(turn=2, deltas=5), "end-2")
    book.bridge(ev.ReplySpoken(turn=2, deltas=1, chars=4))
    past = book.adopted()
    assert past.closed == 1
    assert names(past.owned) == ["end-2"]
    assert past.reply == ev.ReplySpoken(turn=2, deltas=1, chars=4)


def test_the_caller_has_cut_into_the_reply_that_is_open() -> None:
    book = Book()
    book.bridge(ev.UserInterrupted())
    book.bridge(ev.ReplySpoken(turn=1, deltas=1, chars=4))
    assert not book.adopted().cut
    book.bridge(ev.UserInterrupted())
    assert book.adopted().cut
    book.bridge(ev.ReplySpoken(turn=1, deltas=1, chars=4, ended=True))
    book.bridge(ev.ReplySpoken(turn=2, deltas=1, chars=4))
    assert not book.adopted().cut


def test_the_pause_counts_from_its_arrival_until_it_is_resumed() -> None:
    book = Book()
    book.owner(cmd.PauseRecording(reason="card"), "pause")
    past = book.adopted()
    assert past.paused
    assert past.pause_reason == "card"
    book.acks("pause", "written")
    book.owner(cmd.ResumeRecording(), "resume")
    assert book.adopted().paused
    book.acks("resume", "written")
    assert not book.adopted().paused


def test_a_pause_that_was_refused_is_none() -> None:
    book = Book(verbs=VERBS)
    book.owner(cmd.PauseRecording(), "pause")
    book.acks("pause", "refused")
    assert not book.adopted().paused


def test_turns_filler_reattachments_and_the_end() -> None:
    book = Book()
    book.bridge(ev.UserText(text="a"))
    book.bridge(ev.UserText(text="b", is_final=False))
    book.bridge(ev.UserText(text="c"))
    book.bridge(ev.CallReattached(session_id="s", attempt=3))
    book.bridge(ev.HelloAcked(negotiated_verbs=("agent.say",)))
    book.owner(cmd.SetFiller(text="hm"))
    book.owner(cmd.SetFiller(text="one moment"))
    past = book.adopted()
    assert past.turns == 2
    assert past.attempts == 3
    assert past.filler == "one moment"
    assert "recording.pause" not in past.verbs
    assert past.ended is None
    book.bridge(ev.CallEnded(reason="hangup"))
    assert book.adopted().ended == ev.CallEnded(reason="hangup")


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        (cmd.EndCall(reason="done"), True),
        (cmd.Transfer(transfer_type="human", target="x"), True),
        (cmd.Transfer(transfer_type="human", target="x", mode="warm"), False),
    ],
)
def test_an_end_that_was_sent_or_may_have_been(command: cmd.AnyCommand, *, is_one: bool) -> None:
    book = Book()
    book.owner(command, "end")
    assert book.adopted().ending is None
    book.acks("end", "claimed")
    assert (book.adopted().ending is not None) is is_one
    book.acks("end", "delivered")
    assert (book.adopted().ending is not None) is is_one
    book.acks("end", "refused")
    assert book.adopted().ending is None


def test_what_a_takeover_has_made_void_is_not_done() -> None:
    book = Book()
    book.owner(cmd.Say(text="a"), "kept")
    book.bridge(ev.OwnerChanged(epoch=EPOCH + 5, runner="runner-2", last_owner_index=1, takeover=1))
    book.owner(cmd.Say(text="b"), "void")
    book.owner_index -= 1
    book.owner(cmd.Say(text="c"), "new", epoch=EPOCH + 5)
    past = book.adopted(clean=True)
    assert names(past.owned) == ["kept", "new"]
    assert past.owner is not None
    assert past.owner.epoch == EPOCH + 5
    assert past.owner_index == 2


def test_what_cannot_be_read_is_refused_if_it_is_a_command_and_else_passed_over() -> None:
    book = Book()
    book.owner(cmd.Say(text="a"), "broken")
    broken = book.messages.pop()
    book.messages.append(Message(broken.subject, b"{", broken.headers, seq=broken.seq))
    book.messages.append(Message(CALL.evt("user.text"), b"{}", {}, seq=book.seq + 1))
    book.messages.append(Message(CALL.ack, b"{}", {"ce-type": "io.unpod.ack.reply.spoken.v1"}, seq=book.seq + 1))
    past = book.adopted(clean=True)
    assert [owned.refusal for owned in past.owned] == ["it cannot be read"]
    assert past.index == 3


def test_the_first_record_of_an_index_counts() -> None:
    book = Book()
    book.bridge(ev.UserText(text="a"))
    book.messages.append(book.messages[-1])
    assert book.adopted().turns == 1


def test_a_bridge_that_has_written_since_it_was_deaf_has_heard_what_it_was_told() -> None:
    """It was cut off, and is back: what it has done last may be in no receipt, since its line was taken then."""
    book = Book()
    deaf_from = book.seq + 1
    book.owner(cmd.Say(text="a"), "a")
    book.owner(cmd.Say(text="b"), "b")
    assert [owned.id for owned in book.adopted(deaf_from=deaf_from).owned] == ["a", "b"]
    book.acks("a", "written")
    past = book.adopted(deaf_from=deaf_from)
    assert (past.owned, [owned.id for owned in past.unknown], past.shadowed) == ((), ["b"], True)
