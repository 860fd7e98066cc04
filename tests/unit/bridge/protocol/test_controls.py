"""What becomes of controls from outside at a bridge: admitted first, done then, each once, and never late."""

from __future__ import annotations

import pytest
from tests.unit.bridge.jobs.books import Book
from tests.unit.bridge.protocol.test_recovery import go_on
from tests.unit.bridge.wires import Wire, facts, outcomes, spoken, verbs, written

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.controls import (
    AnyControl,
    EndSession,
    InterruptAgent,
    MergeSession,
    PauseSessionRecording,
    ResumeSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
    Whisper,
)
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.controls import REMEMBERED, Asked
from unpod_bridge.protocol.outputs import Output
from unpod_bridge.wire.call_frames import VERBS

NUMBER = TransferSession(to_type="sip", to_config={"number": "+15551230000"})


def asks(wire: Wire, control: AnyControl | None, name: str = "c", *, age_s: float = 0.0) -> list[Output]:
    return wire.feed(wire.protocol.admission.ask(Asked(name, control, wire.now - age_s), wire.now))


def answers(outputs: list[Output]) -> list[tuple[str, str]]:
    found = facts(outputs, ev.ControlAnswered)
    return [(fact.outcome, fact.reason) for fact in found if isinstance(fact, ev.ControlAnswered)]


def test_nothing_is_done_before_its_admission_is_stored() -> None:
    wire = Wire().up()
    asked = asks(wire, SaySomething(text="hello"))
    assert answers(asked) == [("admitted", "")]
    assert verbs(asked) == []
    done = wire.stored()
    assert written(done) == [{"event": "agent.say", "text": "hello"}]
    assert answers(done) == [("applied", "")]


def test_a_repeat_changes_nothing() -> None:
    wire = Wire().up()
    asks(wire, SaySomething(text="hello"))
    assert asks(wire, SaySomething(text="hello")) == []
    wire.stored()
    assert asks(wire, SaySomething(text="hello")) == []


def test_an_end_is_claimed_and_applied_once_the_worker_has_it() -> None:
    wire = Wire().up()
    asks(wire, EndSession(reason="enough"))
    assert outcomes(wire.stored()) == [("call.end", "claimed")]
    assert verbs(wire.stored()) == ["agent.end_call"]
    assert answers(wire.pong()) == [("applied", "")]
    assert answers(asks(wire, SaySomething(text="hello"), "d")) == [("refused", "the call is ending")]
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="enough", close_code=1000, by="operator")]


def test_what_was_to_be_said_is_not_said_behind_the_end_though_it_was_admitted_before() -> None:
    wire = Wire().up()
    asks(wire, SaySomething(text="hello"))
    wire.does(cmd.EndCall(reason="done"))  # the log takes the claim of this first
    wire.feed(
        wire.protocol.stored(
            next(output.notify for output in reversed(wire.out) if isinstance(output, do.Store)), wire.now
        )
    )
    assert verbs(wire.out)[-1] == "agent.end_call"
    done = wire.feed(wire.protocol.stored("ctl:c", wire.now))
    assert verbs(done) == []
    assert answers(done) == [("failed", "the call is ending")]


@pytest.mark.parametrize("control", [InterruptAgent(), EndSession(), NUMBER])
def test_the_open_reply_is_ended_once_also_when_nobody_owns_the_session(control: AnyControl) -> None:
    wire = Wire().up(*VERBS)
    wire.speaks(1, 1, "one ")
    asks(wire, control)
    wire.stored(), wire.stored()
    assert spoken(wire.out) == ["one ", None]
    wire.speaks(1, 2, "two")
    wire.ends(1, 2, reason="interrupted")
    assert spoken(wire.out) == ["one ", None]


def test_those_of_the_owner_are_admitted_and_nothing_more() -> None:
    wire = Wire().up()
    out = asks(wire, TakeOver(actor="ann"))
    assert facts(out, ev.ControlAnswered) == [
        ev.ControlAnswered(control="c", outcome="admitted", body=TakeOver(actor="ann"))
    ]
    assert wire.stored() == []


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (None, "it cannot be read"),
        (SaySomething(text="  "), "the text must have between 1 and 4000 characters"),
        (Whisper(text="x" * 4_001), "the text must have between 1 and 4000 characters"),
        (MergeSession(source_session_id=""), "there is no session to merge"),
        (TransferSession(to_type="sip"), "a transfer to sip needs 'number' in to_config"),
        (PauseSessionRecording(), "the worker of this call does not support recording.pause"),
        (MergeSession(source_session_id="x"), "the worker of this call does not support agent.merge"),
    ],
)
def test_what_is_refused(control: AnyControl | None, reason: str) -> None:
    wire = Wire().up("agent.transfer")
    assert answers(asks(wire, control)) == [("refused", reason)]
    assert wire.stored() == []


def test_what_is_late_is_refused_before_and_after_its_admission() -> None:
    wire = Wire().up()
    ((outcome, reason),) = answers(asks(wire, EndSession(), age_s=10.5))
    assert (outcome, reason.partition(":")[0]) == ("refused", "it came too late")
    wire.lost(None)
    asks(wire, SaySomething(text="hello"), "d")
    wire.stored()
    ((outcome, reason),) = answers(wire.passes(10.5))
    assert (outcome, reason.partition(":")[0]) == ("failed", "it came too late")
    wire.back()
    assert "agent.say" not in verbs(wire.out)


@pytest.mark.parametrize("control", [EndSession(), NUMBER, SaySomething(text="hi"), PauseSessionRecording()])
@pytest.mark.parametrize("claimed", [False, True])
def test_what_was_late_is_as_if_it_had_not_been_asked(control: AnyControl, *, claimed: bool) -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "one ")
    if not claimed:
        wire.lost(None)
    asks(wire, control)
    if claimed and not isinstance(control, (EndSession, TransferSession)):
        return  # only those are claimed
    wire.feed(wire.protocol.stored("ctl:c", wire.now))
    wire.lost(None)
    wire.stored()
    assert answers(wire.passes(10.5))[-1][0] == "failed"
    wire.says("user.text", text="hello?")
    assert answers(asks(wire, SaySomething(text="hello"), "d")) == [("admitted", "")]
    wire.speaks(1, 2, "two"), wire.ends(1, 2), wire.back()
    wire.stored()
    assert spoken(wire.out) == ["one ", "two", None]
    assert verbs(wire.out)[-1] == "agent.say"
    assert not any(output.withheld for output in wire.out[-2:] if isinstance(output, do.Store))
    assert facts(wire.passes(60.0), ev.CallEnded) == []
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="hangup", close_code=1000, by="caller")]


def test_of_two_transfers_that_wait_for_the_worker_one_is_sent() -> None:
    wire = Wire().up()
    wire.lost(None)
    asks(wire, NUMBER, "one"), asks(wire, NUMBER, "two"), asks(wire, EndSession(), "end"), wire.stored()
    wire.does(cmd.Transfer(transfer_type="human", target="q"))
    wire.back()
    for _ in range(4):
        wire.stored()
    assert verbs(wire.out) == ["hello", "agent.transfer"]
    assert outcomes(wire.out) == [
        ("transfer", "claimed"), ("transfer", "refused"), ("call.end", "refused"), ("transfer", "refused")
    ]  # fmt: skip
    assert answers(asks(wire, NUMBER, "three")) == [("refused", "the call is ending")]


def test_texts_are_refused_while_the_recording_is_paused() -> None:
    wire = Wire().up()
    asks(wire, PauseSessionRecording(), "a")
    assert verbs(wire.stored()) == ["recording.pause"]
    assert answers(asks(wire, SaySomething(text="4111"), "b"))[0][0] == "refused"
    asks(wire, ResumeSessionRecording(), "c")
    wire.stored()
    assert answers(asks(wire, SaySomething(text="hello"), "d")) == [("admitted", "")]


def test_a_thousand_at_once_are_bounded() -> None:
    wire = Wire().up()
    found = [answers(asks(wire, Whisper(text="x"), f"c-{number}"))[0][0] for number in range(1_000)]
    assert found.count("admitted") == 100
    wire.passes(1.0)
    found = [answers(asks(wire, Whisper(text="x"), f"d-{number}"))[0][0] for number in range(100)]
    assert found.count("admitted") == 20
    for number in range(2 * REMEMBERED):
        asks(wire, Whisper(text="x"), f"e-{number}")
    assert wire.protocol.admission.knows(f"e-{2 * REMEMBERED - 1}")
    assert not wire.protocol.admission.knows("c-0")


def test_the_death_of_the_owner_takes_no_control_with_it() -> None:
    wire = Wire().up()
    wire.lost(None)
    wire.does(None)
    asks(wire, SaySomething(text="hello"))
    wire.stored()
    wire.feed(wire.protocol.owner.inherit([], 0, wire.now))
    assert verbs(wire.back()) == ["hello", "agent.say"]
    assert wire.protocol.owner.progress.unlogged == ()


# --- another bridge ---------------------------------------------------------------------------------------------------


def admitted(book: Book, control: AnyControl, name: str = "c") -> None:
    book.bridge(ev.ControlAnswered(control=name, outcome="admitted", body=control))


def test_an_admission_without_a_receipt_is_done_by_the_next_bridge() -> None:
    book = Book()
    admitted(book, NUMBER)
    wire = Wire()
    wire.protocol.admission.tell_time(-wire.now)  # the book is as old as the log
    wire.feed(wire.protocol.adopt(book.adopted(), wire.now))
    assert outcomes(wire.back()) == [("transfer", "claimed")]
    assert verbs(wire.stored()) == ["agent.transfer"]
    assert asks(wire, NUMBER) == []


def test_what_may_have_been_done_is_reported_and_not_repeated() -> None:
    book = Book()
    admitted(book, SaySomething(text="hello"), "said")
    admitted(book, EndSession(), "claimed")
    book.acks("claimed", "claimed")
    wire = go_on(book.adopted())
    found = answers(wire.out)
    assert [outcome for outcome, _ in found] == ["failed", "failed"]
    assert found[0][1].startswith("it may have been done")
    assert verbs(wire.back()) == ["hello"]


def test_a_pause_from_outside_counts_at_the_next_bridge() -> None:
    book = Book()
    admitted(book, PauseSessionRecording(reason="card"))
    book.acks("c", "written")
    assert book.adopted().paused
    assert verbs(go_on(book.adopted()).back()) == ["hello", "recording.pause"]
    admitted(book, ResumeSessionRecording(), "d")
    book.acks("d", "written")
    assert not book.adopted().paused
