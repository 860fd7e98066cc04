"""The fold, record by record: what each changes, and what it leaves alone."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.core.call_log import START, CallLog

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.controls import (
    AnyControl,
    EndSession,
    PauseSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
)
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, LocalEvent, TurnOpened
from unpod.core.events import Unknown
from unpod.core.state import Exchange, SessionState, evolve, evolve_local, fold
from unpod.core.verbs import SPEECH_VERBS


class Live(CallLog):
    """A call with what is not stored, too."""

    def local(self, event: LocalEvent) -> None:
        self.state = evolve_local(self.state, event)

    def asked(self, text: str = "hi") -> None:
        """Let a text be with the adapter."""
        self.bridge(ev.UserText(text=text))
        self.local(TurnOpened(self.now))
        self.local(AdapterAsked(self.state.turn_count, self.now))


def test_a_call_that_has_started() -> None:
    log = CallLog("s-7", negotiated=("agent.transfer", "agent.fly"))
    assert (log.state.session_id, log.state.started_at) == ("s-7", START)
    assert log.state.negotiated == {*SPEECH_VERBS, "agent.transfer"}
    assert log.state.duration_s(START + 5) == 5.0
    assert SessionState().duration_s(START) == 0.0


def test_final_texts_wait_for_their_turn_and_count() -> None:
    log = CallLog()
    first = log.bridge(ev.UserText(text="one", extra={"language": "de"}))
    log.bridge(ev.UserText(text="tw", is_final=False))
    log.bridge(ev.UserText(text="two"))
    assert [(p.number, p.text, p.language) for p in log.state.queue] == [(1, "one", "de"), (2, "two", None)]
    assert log.state.queue[0].cause == first.envelope.id
    assert (log.state.turn_count, log.state.metrics.turns) == (2, 2)


def test_a_turn_is_opened_and_completed() -> None:
    log = Live()
    log.bridge(ev.UserText(text="one"))
    log.bridge(ev.UserText(text="two"))
    log.local(TurnOpened(log.now))
    assert [pending.number for pending in log.state.queue] == [2]
    open_turns = [log.state.turn]
    log.owner(ev.TurnCompleted(turn_id=1, user_text="one", agent_text="a", heard_text="a"))
    open_turns.append(log.state.turn)
    assert [turn and (turn.number, turn.user_text) for turn in open_turns] == [(1, "one"), None]
    assert [pending.number for pending in log.state.queue] == [2]
    assert log.state.history == (Exchange(1, "one", "a", "a"),)


def test_a_reader_of_the_log_alone_comes_to_the_same_history() -> None:
    log = Live()
    log.asked("one")
    log.local(DeltaSent(1, "a", log.now))
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=1))
    log.owner(ev.TurnCompleted(turn_id=1, user_text="one", agent_text="a", heard_text="a"))
    folded = fold(log.records)
    assert (folded.history, folded.queue, folded.turn) == (log.state.history, (), None)


def test_a_text_of_the_pause_has_no_text_where_it_was_stored_and_is_withheld() -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="", withheld=True))
    assert [(pending.text, pending.withheld) for pending in log.state.queue] == [(None, True)]


def test_a_text_of_the_pause_is_withheld_where_it_came_whole() -> None:
    log = CallLog()
    log.owner(cmd.PauseRecording())
    log.bridge(ev.UserText(text="4111"))
    assert [(pending.text, pending.withheld) for pending in log.state.queue] == [("4111", True)]


def test_pieces_make_up_the_reply() -> None:
    log = Live()
    log.asked()
    log.now += 1
    log.local(DeltaSent(1, "a", log.now))
    log.now += 1
    log.local(DeltaSent(1, "b", log.now))
    turn = log.state.turn
    assert turn is not None
    assert (turn.phase, turn.sent, turn.deltas) == ("speaking", "ab", 2)
    assert (turn.first_delta_at, turn.last_delta_at) == (START + 1, START + 2)
    assert log.state.quiet_since == START + 2


def test_what_is_local_to_another_turn_changes_nothing() -> None:
    log = Live()
    before = log.state
    log.local(DeltaSent(1, "a", log.now))
    assert log.state == before
    log.asked()
    before = log.state
    log.local(DeltaSent(7, "a", log.now))
    log.local(AdapterAsked(7, log.now))
    assert log.state == before


def test_the_end_of_a_reply() -> None:
    log = Live()
    log.asked()
    log.now += 2
    log.owner(cmd.EndReply(turn=1, reason="empty"))
    turn = log.state.turn
    assert turn is not None
    assert (turn.phase, turn.ended_at, turn.end_reason, turn.interrupted) == ("ended", START + 2, "empty", False)
    before = log.state.turn
    log.owner(cmd.EndReply(turn=1, reason="done"))
    log.owner(cmd.EndReply(turn=2, reason="done"))
    assert log.state.turn == before


def test_a_barge_in_in_mid_reply_is_the_open_turns() -> None:
    log = Live()
    log.asked()
    log.bridge(ev.UserInterrupted(heard_prefix="we"))
    assert log.state.turn is not None
    assert (log.state.turn.interrupted, log.state.turn.heard, log.state.interruptions) == (True, "we", 1)


def test_a_barge_in_before_the_brain_was_asked_is_not_the_open_turns() -> None:
    log = Live()
    log.bridge(ev.UserText(text="hi"))
    log.local(TurnOpened(log.now))
    log.bridge(ev.UserInterrupted(heard_prefix="we"))
    assert log.state.turn is not None
    assert (log.state.turn.interrupted, log.state.interruptions) == (False, 1)


def test_a_barge_in_between_turns_is_the_last_ones() -> None:
    log = CallLog()
    for number in (1, 2):
        log.bridge(ev.UserText(text="hi"))
        log.owner(ev.TurnCompleted(turn_id=number, user_text="hi", agent_text="well", heard_text="well"))
    log.bridge(ev.UserInterrupted(heard_prefix=None))
    assert [exchange.heard for exchange in log.state.history] == ["well", "well"]
    log.bridge(ev.UserInterrupted(heard_prefix="we"))
    assert [exchange.heard for exchange in log.state.history] == ["well", "we"]


def test_what_was_heard_before_a_barge_in_of_the_pause_is_known_to_nobody() -> None:
    for body in (ev.UserInterrupted(heard_prefix="we"), ev.UserInterrupted(withheld=True)):
        log = CallLog()
        log.bridge(ev.UserText(text="hi"))
        log.owner(ev.TurnCompleted(turn_id=1, user_text="hi", agent_text="well", heard_text="well"))
        log.owner(cmd.PauseRecording())
        log.bridge(body)
        assert log.state.history == (Exchange(1, "hi", "well", None),)


def test_a_barge_in_on_nothing_counts_and_changes_no_history() -> None:
    log = CallLog()
    log.bridge(ev.UserInterrupted(heard_prefix="we"))
    assert (log.state.interruptions, log.state.history) == (1, ())


def test_speech_of_the_worker_begins_and_ends() -> None:
    log = CallLog()
    log.now += 5
    log.bridge(ev.StateChanged(state="speaking"))
    assert (log.state.speaking, log.state.quiet_since) == (True, START + 5)
    log.now += 5
    log.bridge(ev.StateChanged(state="speaking"))
    assert log.state.quiet_since == START + 5
    log.bridge(ev.StateChanged(state="listening"))
    assert (log.state.speaking, log.state.quiet_since) == (False, START + 10)
    log.now += 5
    log.bridge(ev.StateChanged(state="idle"))
    assert log.state.quiet_since == START + 10


@pytest.mark.parametrize("phase", ["speaking", "ended"])
def test_the_workers_figures_are_the_turns_that_speaks_or_has_spoken(phase: str) -> None:
    log, figures = Live(), ev.TurnMetrics(asr_ms=100)
    log.asked()
    log.bridge(figures)
    assert log.state.turn is not None
    assert log.state.turn.metrics is None
    log.local(DeltaSent(1, "a", log.now))
    if phase == "ended":
        log.owner(cmd.EndReply(turn=1))
    log.bridge(figures)
    assert log.state.turn is not None
    assert log.state.turn.metrics == figures


def test_what_a_model_call_took_is_its_turns() -> None:
    log = Live()
    log.asked()
    log.owner(ev.LLMCalled(turn_id=1, model="a", tokens_in=1, cost=0.5, latency_ms=10, ttft_ms=3))
    log.owner(ev.LLMCalled(turn_id=1, model="b", tokens_in=2, cost=None, latency_ms=20, ttft_ms=9))
    log.owner(ev.LLMCalled(turn_id=2, tokens_in=7))
    assert log.state.turn is not None
    usage = log.state.turn.usage
    assert (usage.calls, usage.tokens_in, usage.cost, usage.latency_ms, usage.ttft_ms) == (2, 3, 0.5, 30, 3)
    assert usage.model == "b"
    log.owner(ev.TurnCompleted(turn_id=1))
    assert list(log.state.usage) == [2]


def test_the_first_end_counts() -> None:
    log = CallLog()
    log.owner(cmd.EndCall(reason="one"))
    log.owner(cmd.EndCall(reason="two"))
    assert (log.state.ending, log.state.over, log.state.ended) == ("one", True, None)
    log.now += 9
    log.bridge(ev.CallEnded(reason="one", by="agent"))
    log.now += 9
    log.bridge(ev.CallEnded(reason="lost"))
    assert log.state.ended == ev.CallEnded(reason="one", by="agent")
    assert log.state.duration_s(START + 1_000) == 9.0


def test_a_cold_transfer_ends_the_session_and_a_warm_one_does_not() -> None:
    warm, cold = CallLog(), CallLog()
    warm.owner(cmd.Transfer(transfer_type="human", target="q", mode="warm"))
    assert (warm.state.over, warm.state.ending) == (False, None)
    cold.owner(cmd.Transfer(transfer_type="human", target="q"))
    assert (cold.state.over, cold.state.ending) == (True, "transferred")


@pytest.mark.parametrize("command", [cmd.EndCall(), cmd.Transfer(transfer_type="human", target="q")])
def test_what_is_refused_ends_nothing(command: cmd.AnyCommand) -> None:
    log = CallLog()
    asked = log.owner(command).envelope.id
    for outcome in ("claimed", "delivered", "unknown"):
        log.bridge(ev.CommandAcknowledged(command=asked, verb="", outcome=outcome, owner_index=0))
        assert log.state.over
    log.bridge(ev.CommandAcknowledged(command="another", verb="", outcome="refused", owner_index=0))
    assert log.state.over
    log.now += 5
    log.bridge(ev.CommandAcknowledged(command=asked, verb="", outcome="refused", owner_index=0))
    assert (log.state.over, log.state.ending, log.state.quiet_since) == (False, None, log.now)
    log.owner(cmd.EndCall(reason="later"))
    assert log.state.ending == "later"
    log.bridge(ev.CallEnded(reason="later"))
    log.bridge(ev.CommandAcknowledged(command=log.state.ender, verb="", outcome="refused", owner_index=0))
    assert log.state.ending == "later"


def test_an_end_lets_the_open_reply_come_to_its_end() -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="bye")), log.bridge(ev.UserText(text="wait"))
    log.owner(cmd.EndCall(reason="done", turn=1))
    assert (log.state.ending, log.state.over) == ("done", False)
    log.owner(cmd.EndReply(turn=1))
    assert (log.state.ending, log.state.over) == ("done", True)
    log.owner(ev.TurnCompleted(turn_id=1))
    assert log.state.over


TO_A_NUMBER = TransferSession(to_type="sip", to_config={"number": "+1"})


@pytest.mark.parametrize(("control", "reason"), [(EndSession(), "completed"), (TO_A_NUMBER, "transferred")])
def test_an_end_from_outside_counts_once_the_worker_is_given_it(control: AnyControl, reason: str) -> None:
    log = CallLog()
    log.bridge(ev.ControlAnswered(control="c", outcome="admitted", body=control))
    assert not log.state.over
    log.owner(cmd.Transfer(transfer_type="human", target="q"))  # asked for at the same moment, and second at the bridge
    log.bridge(ev.CommandAcknowledged(command="c", verb="", outcome="claimed", owner_index=0))
    log.bridge(
        ev.CommandAcknowledged(command=log.records[-2].envelope.id, verb="transfer", outcome="refused", owner_index=0)
    )
    assert (log.state.ending, log.state.ender) == (reason, "c")
    log.bridge(ev.CommandAcknowledged(command="c", verb="", outcome="refused", owner_index=0))
    assert not log.state.over


@pytest.mark.parametrize("turn", [0, 1])
def test_an_end_of_its_own_counts_again_once_one_from_outside_is_refused(turn: int) -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="bye"))
    log.owner(cmd.EndCall(reason="done", turn=turn))
    log.bridge(ev.ControlAnswered(control="c", outcome="admitted", body=TO_A_NUMBER))
    log.bridge(ev.CommandAcknowledged(command="c", verb="", outcome="claimed", owner_index=0))
    assert (log.state.ending, log.state.over) == ("transferred", True)
    log.bridge(ev.CommandAcknowledged(command="c", verb="transfer", outcome="refused", owner_index=0))
    assert (log.state.ending, log.state.over) == ("done", True)


def test_a_control_that_is_refused_is_as_if_it_had_not_been_asked() -> None:
    log = CallLog()
    log.bridge(ev.ControlAnswered(control="t", outcome="admitted", body=TakeOver(actor="ann")))
    before = log.state
    asked: list[AnyControl] = [EndSession(), TO_A_NUMBER, SaySomething(text="hi"), PauseSessionRecording()]
    for number, control in enumerate(asked):
        name = f"c{number}"
        log.bridge(ev.ControlAnswered(control=name, outcome="admitted", body=control))
        assert log.state.paused == isinstance(control, PauseSessionRecording)
        log.bridge(ev.CommandAcknowledged(command=name, verb="", outcome="refused", owner_index=0))
        log.bridge(ev.ControlAnswered(control=name, outcome="failed"))
        assert replace(log.state, bridge_index=before.bridge_index) == before


def test_a_pause_that_is_refused_takes_back_no_other_pause() -> None:
    log = CallLog()
    log.owner(cmd.PauseRecording())
    log.bridge(ev.ControlAnswered(control="c", outcome="admitted", body=PauseSessionRecording()))
    log.bridge(ev.CommandAcknowledged(command="c", verb="", outcome="refused", owner_index=0))
    assert log.state.paused


def test_a_supervisor_has_said_what_was_said() -> None:
    log = CallLog()
    log.bridge(ev.ControlAnswered(control="t", outcome="admitted", body=TakeOver(actor="ann")))
    log.bridge(ev.ControlAnswered(control="s", outcome="admitted", body=SaySomething(text="hi")))
    assert not log.state.supervision.asides
    log.bridge(ev.CommandAcknowledged(command="s", verb="", outcome="written", owner_index=0))
    log.bridge(ev.ControlAnswered(control="s", outcome="applied"))
    assert [aside.text for aside in log.state.supervision.asides] == ["hi"]


def test_nothing_is_said_after_the_end() -> None:
    log = CallLog()
    log.bridge(ev.CallEnded(reason="hangup"))
    log.bridge(ev.UserText(text="hello?"))
    assert (log.state.turn_count, log.state.queue) == (0, ())


@pytest.mark.parametrize(
    ("outcome", "paused"),
    [("written", False), ("delivered", False), ("ignored", False), ("refused", True), ("unknown", True)],
)
def test_a_recording_is_resumed_once_the_bridge_has_written_it(outcome: ev.CommandOutcome, paused: bool) -> None:  # noqa: FBT001 - a parameter of the test
    log = CallLog()
    log.owner(cmd.PauseRecording())
    resume = log.owner(cmd.ResumeRecording())
    assert log.state.paused
    log.bridge(ev.CommandAcknowledged(command="another", verb="say", outcome="written", owner_index=1))
    assert log.state.paused
    log.bridge(
        ev.CommandAcknowledged(command=resume.envelope.id, verb="recording.resume", outcome=outcome, owner_index=2)
    )
    assert log.state.paused == paused


def test_no_receipt_resumes_what_nobody_asked_to_resume() -> None:
    log = CallLog()
    log.owner(cmd.PauseRecording())
    log.bridge(ev.CommandAcknowledged(command="", verb="", outcome="written", owner_index=1))
    assert log.state.paused


def test_a_second_pause_takes_back_the_resume() -> None:
    log = CallLog()
    log.owner(cmd.PauseRecording())
    resume = log.owner(cmd.ResumeRecording())
    log.owner(cmd.PauseRecording())
    log.bridge(
        ev.CommandAcknowledged(command=resume.envelope.id, verb="recording.resume", outcome="written", owner_index=2)
    )
    assert log.state.paused


def test_a_pause_makes_the_open_turn_private_and_what_a_brain_remembers_of_it_for_good() -> None:
    log = Live()
    log.asked()
    assert not log.state.private
    log.owner(cmd.PauseRecording())
    resume = log.owner(cmd.ResumeRecording())
    log.bridge(
        ev.CommandAcknowledged(command=resume.envelope.id, verb="recording.resume", outcome="written", owner_index=2)
    )
    assert (log.state.paused, log.state.private, log.state.has_withheld) == (False, True, True)
    log.owner(ev.TurnCompleted(turn_id=1, withheld=True))
    assert (log.state.private, log.state.has_withheld) == (False, True)


def test_what_a_session_did_is_known() -> None:
    log = CallLog()
    log.owner(ev.EntrypointFailed(error="x"))
    log.owner(ev.CallCompleted(call_id="s", agent_id="a", runner_id="r", reason="error"))
    log.owner(ev.SessionFinished(failed=True))
    assert (log.state.failed, log.state.completed, log.state.finished) == (True, True, True)


def test_a_takeover_moves_the_epoch_and_forgets_what_is_void() -> None:
    log = CallLog()
    log.epoch = 10
    log.bridge(ev.OwnerChanged(epoch=10))
    log.owner(cmd.Say(text="a"))
    log.bridge(ev.OwnerChanged(epoch=20, last_owner_index=1, takeover=1))
    assert (log.state.epoch, log.state.takeovers, log.state.owner_index) == (20, 1, 1)
    before = log.state
    log.owner(cmd.EndCall(reason="void"))  # still of epoch 10
    assert log.state == before


def test_an_unknown_record_moves_the_index_and_nothing_else() -> None:
    log = CallLog()
    known = log.bridge(ev.CallMetric())
    strange = Record("evt", known.envelope, Unknown("user.emotion", b"{}"))
    state = fold(log.records[:-1])
    assert evolve(state, strange) == evolve(state, known)


def test_placements_say_who_holds_the_call() -> None:
    log = CallLog()
    own = Record("own", log.records[0].envelope, ev.OwnerAppointed(runner="runner-7"), seq=3)
    assert evolve(log.state, own).runner_id == "runner-7"
    assert evolve(log.state, own).bridge_index == log.state.bridge_index
