from __future__ import annotations

from unpod_cli.transcript import CallOver, Done, Item, Speaking, SpokenLine, Transcriber
from unpod_orchestrator import (
    AnyHappening,
    CallerSaid,
    CallStateChanged,
    Connected,
    DeltaCame,
    Ended,
    Interrupted,
    LineDropped,
    ReplyEnded,
    SpeechProgress,
    TransferRecord,
    Transferred,
    VerbDone,
    VerbOutcome,
    Violated,
)


def heard(text: str, *, done: bool = True) -> SpeechProgress:
    return SpeechProgress("agent", text, done)


LISTENING = CallStateChanged("listening", 1)


def items(*happenings: AnyHappening) -> list[Item]:
    transcriber = Transcriber()
    return [item for happening in happenings for item in transcriber.take(happening)]


def test_a_turn() -> None:
    assert items(
        Connected(again=False),
        heard("Hello!"),
        LISTENING,
        CallerSaid("hi", is_final=True, turn_id=1),
        DeltaCame("You ", 1),
        DeltaCame("said hi", 1),
        ReplyEnded("You said hi", 1, interrupted=False),
        heard("You said", done=False),
        heard("You said hi"),
        LISTENING,
    ) == [
        Done("connected"),
        SpokenLine("agent", "Hello!"),
        SpokenLine("caller", "hi"),
        Speaking("agent", "You said"),
        SpokenLine("agent", "You said hi"),
    ]


def test_a_partial_is_not_said_yet() -> None:
    assert items(CallerSaid("h", is_final=False, turn_id=1)) == [Speaking("caller", "h")]


def test_a_barge_in_shows_what_was_not_heard() -> None:
    assert items(
        DeltaCame("We have margherita, ", 1),
        DeltaCame("funghi and more.", 1),
        heard("We have"),
        Interrupted(1, "We have"),
        CallerSaid("Stop", is_final=True, turn_id=2),
    ) == [SpokenLine("agent", "We have", "margherita, funghi and more.", cut=True), SpokenLine("caller", "Stop")]


def test_pieces_that_come_after_the_cut_belong_to_nothing() -> None:
    assert items(
        DeltaCame("One ", 1),
        heard("One"),
        Interrupted(1, "One"),
        DeltaCame("two", 1),
        CallerSaid("again", is_final=True, turn_id=2),
        DeltaCame("One two", 2),
        heard("One two"),
        LISTENING,
    )[-1] == SpokenLine("agent", "One two")


def test_a_phrase_that_is_cut_off_has_no_rest_that_is_known() -> None:
    assert items(heard("Good"), Interrupted(0, "Good")) == [SpokenLine("agent", "Good", cut=True)]


def test_nothing_heard_shows_nothing() -> None:
    assert items(heard(""), Interrupted(1, "")) == []


def test_the_end_in_mid_reply_cuts_it() -> None:
    assert items(DeltaCame("We have pizza", 1), heard("We"), Ended(VerbOutcome("hangup"))) == [
        SpokenLine("agent", "We", "have pizza", cut=True),
        CallOver(VerbOutcome("hangup"), "the caller hung up"),
    ]


def test_what_is_said_while_the_recording_is_paused_is_marked() -> None:
    assert items(
        VerbDone({"event": "recording.pause", "reason": "PII"}),
        CallerSaid("4929", is_final=True, turn_id=1),
        heard("Thanks"),
        VerbDone({"event": "recording.resume"}),
        CallerSaid("bye", is_final=True, turn_id=2),
    ) == [
        Done("recording paused (PII)"),
        SpokenLine("caller", "4929", recorded=False),
        SpokenLine("agent", "Thanks", recorded=False),
        Done("recording goes on"),
        SpokenLine("caller", "bye"),
    ]


def test_controls_and_ends() -> None:
    cold = TransferRecord(transfer_type="human", target="managers", mode="cold")
    refused = TransferRecord(transfer_type="number", target="12", mode="cold", refused="not an E.164 number")
    assert items(
        VerbDone({"event": "agent.transfer"}),
        Transferred(cold),
        Transferred(refused),
        VerbDone({"event": "agent.end_call", "reason": "completed"}),
        VerbDone({"event": "agent.merge"}),
        LineDropped(None),
        Connected(again=True),
        Violated("agent.say before hello"),
        SpeechProgress("worker", "I am sorry.", done=True),
        Ended(VerbOutcome("transferred", "managers")),
    ) == [
        Done("cold transfer to human managers"),
        Done("transfer to number 12 refused: not an E.164 number", bad=True),
        Done("the agent ends the call (completed)"),
        Done("agent.merge"),
        Done("the line was dropped", bad=True),
        Done("the line is back"),
        Done("protocol: agent.say before hello", bad=True),
        SpokenLine("worker", "I am sorry."),
        CallOver(VerbOutcome("transferred", "managers"), "the caller was connected: managers"),
    ]
