"""Controls as the core sees them: what they come to, and what they do to a session's state."""

from __future__ import annotations

import pytest

from unpod.core import commands as cmd
from unpod.core import supervision as sup
from unpod.core.controls import (
    OWNER_CONTROLS,
    AnyControl,
    EndSession,
    HandBack,
    Impossible,
    InterruptAgent,
    MergeSession,
    PauseAgent,
    PauseSessionRecording,
    ResumeAgent,
    ResumeSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
    Whisper,
    command_of,
)
from unpod.core.subjects import identifier, token


@pytest.mark.parametrize(
    ("control", "command"),
    [
        (EndSession(), cmd.EndCall(reason="completed")),
        (EndSession(reason="enough"), cmd.EndCall(reason="enough")),
        (MergeSession(source_session_id="b"), cmd.Merge(source_session_id="b")),
        (SaySomething(text="hi"), cmd.Say(text="hi")),
        (InterruptAgent(), cmd.Interrupt()),
        (PauseSessionRecording(reason="card"), cmd.PauseRecording(reason="card")),
        (ResumeSessionRecording(), cmd.ResumeRecording()),
        (
            TransferSession(to_type="sip", to_config={"number": "+1"}, mode="warm", warm_handoff_ms=4000),
            cmd.Transfer(transfer_type="number", target="+1", mode="warm"),
        ),
        (
            TransferSession(to_type="agent", to_config={"agent_id": "b"}),
            cmd.Transfer(transfer_type="agent", target="b"),
        ),
        (TransferSession(to_type="human", to_config={"queue": "q"}), cmd.Transfer(transfer_type="human", target="q")),
    ],
)
def test_what_the_bridge_does(control: AnyControl, command: cmd.AnyCommand) -> None:
    assert command_of(control) == command


@pytest.mark.parametrize(
    "control", [TransferSession(to_type="webrtc"), TransferSession(to_type="sip", to_config={"number": 5})]
)
def test_what_nobody_can_do(control: AnyControl) -> None:
    assert isinstance(command_of(control), Impossible)


@pytest.mark.parametrize("control", [Whisper(text="x"), PauseAgent(), ResumeAgent(), TakeOver(), HandBack()])
def test_what_the_owner_does(control: AnyControl) -> None:
    assert command_of(control) is None
    assert isinstance(control, OWNER_CONTROLS)


def test_both_kinds_of_hold_are_apart() -> None:
    state = sup.admitted(sup.Supervision(), "1", PauseAgent())
    state = sup.performed(sup.admitted(state, "2", TakeOver(actor="ann")), "2")
    state = sup.said(state, "Caller", "hello")
    state = sup.performed(sup.admitted(state, "3", HandBack(actor="ann")), "3")
    assert state.held  # it is paused still, so the adapter is told later
    assert state.notes == ()
    state = sup.performed(sup.admitted(state, "4", ResumeAgent()), "4")
    assert not state.held
    assert state.asides == ()
    assert state.notes[0].endswith("Caller: hello")
    assert [waiting.id for waiting in state.waiting] == ["1"]


def test_what_was_not_recorded_is_not_told() -> None:
    state = sup.said(sup.admitted(sup.Supervision(), "1", PauseAgent()), "Caller", None)
    state = sup.performed(sup.admitted(state, "2", ResumeAgent()), "2")
    assert state.notes[0].endswith(f"Caller: {sup.NOT_RECORDED}")


def test_what_is_kept_is_bounded() -> None:
    state = sup.admitted(sup.Supervision(), "p", PauseAgent())
    for number in range(3 * sup.MAX_KEPT):
        state = sup.said(sup.admitted(state, str(number), Whisper(text="x")), "Caller", "y")
    assert len(state.waiting) == len(state.asides) == sup.MAX_KEPT
    for number in range(3 * sup.MAX_KEPT):
        state = sup.performed(state, str(number))
    assert len(state.notes) <= sup.MAX_KEPT


@pytest.mark.parametrize("name", ["plain", "a.b c", "späti", "=", "x=20y"])
def test_a_token_can_be_read(name: str) -> None:
    assert identifier(token(name)) == name


def test_a_token_of_a_long_id_stays_one() -> None:
    assert identifier(token("x y" * 200)) == token("x y" * 200)
