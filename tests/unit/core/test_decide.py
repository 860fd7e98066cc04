"""Decisions: what is chosen where it is not obvious. Whole calls are in tests/unit/session."""

from __future__ import annotations

import pytest
from tests.unit.core.call_log import START, CallLog, speaking

from unpod.core import commands as cmd
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.decide import decide, follow_up, summary
from unpod.core.ephemeral_events import TurnOpened

SETTINGS = d.Settings(agent_id="agt")


def steps(log: CallLog, given: d.Given) -> tuple[d.Step, ...]:
    return decide(log.state, given, log.now, SETTINGS).steps


def appended(steps: tuple[d.Step, ...]) -> list[object]:
    return [step.body for step in steps if isinstance(step, d.Append)]


# --- inputs that come late --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        d.AdapterSpoke(1, "late"),
        d.AdapterFinished(1),
        d.AdapterRaised(1, "c", "e"),
        d.TurnHooksReturned(1, has_adapter=True),
        d.AdapterSpoke(2, "early"),
        d.AdapterSpoke(1, ""),
    ],
)
def test_what_the_brain_does_after_its_reply_has_ended_decides_nothing(given: d.Given) -> None:
    log = speaking()
    log.owner(cmd.EndReply(turn=1, reason="interrupted"))
    assert steps(log, given) == ()


@pytest.mark.parametrize(
    "command",
    [
        cmd.Say(text="x"),
        cmd.EndCall(),
        cmd.Interrupt(),
        cmd.Transfer(transfer_type="human", target="q"),
        cmd.Transfer(transfer_type="human", target="q", mode="warm"),
        cmd.PauseRecording(),
    ],
)
def test_a_call_that_is_over_takes_no_command(command: cmd.AnyCommand) -> None:
    log = CallLog(negotiated=("agent.interrupt",))
    log.owner(cmd.EndCall())
    assert steps(log, d.Verb(command)) == ()


# --- ends -------------------------------------------------------------------------------------------------------------


def test_whoever_ends_a_reply_it_is_the_same_command() -> None:
    log = speaking(negotiated=("agent.interrupt",))
    barge_in = ev.UserInterrupted(heard_prefix="we")
    causes = set()
    for given in (d.AdapterFinished(1), d.AdapterRaised(1, "c", "e"), d.Verb(cmd.Interrupt()), d.Verb(cmd.EndCall())):
        causes |= {s.cause for s in steps(log, given) if isinstance(s, d.Append) and isinstance(s.body, cmd.EndReply)}
    record = log.bridge(barge_in)
    causes |= {s.cause for s in steps(log, record) if isinstance(s, d.Append) and isinstance(s.body, cmd.EndReply)}
    assert len(causes) == 1


def test_what_a_reply_was_is_told_with_its_end() -> None:
    log = speaking()
    end = cmd.EndReply(turn=1, deltas=1, chars=4, reason="interrupted")
    found = steps(log, log.bridge(ev.UserInterrupted(heard_prefix="we")))
    assert found[0] == d.StopAdapter(1, mark=True, heard="we")
    assert appended(found) == [end]
    assert [step.event for step in found if isinstance(step, d.FireHooks)] == ["interruption", "agent_turn"]


def test_a_complete_brain_ends_the_call_after_its_reply() -> None:
    log = speaking()
    bodies = appended(steps(log, d.AdapterFinished(1, complete=True)))
    assert [type(body) for body in bodies] == [cmd.EndReply, cmd.EndCall]


def test_a_timer_that_comes_early_decides_nothing() -> None:
    log = CallLog()
    log.now += 9.999
    assert steps(log, d.TimeReached()) == ()


def test_one_moment_can_bring_several_things() -> None:
    log = speaking()
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=4))
    log.now += 30
    found = appended(steps(log, d.TimeReached()))
    assert {type(body) for body in found} == {ev.TurnCompleted, ev.SilenceNoticed}


def test_at_the_longest_that_a_call_may_take_nothing_else_counts() -> None:
    log = speaking()
    log.now += 30
    found = decide(log.state, d.TimeReached(), log.now, d.Settings(max_duration_s=30)).steps
    assert appended(found) == [
        cmd.EndReply(turn=1, deltas=1, chars=4, reason="ended"),
        cmd.EndCall(reason="max_duration"),
    ]


# --- what follows -----------------------------------------------------------------------------------------------------


def test_the_next_text_has_its_turn_when_none_is_open() -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="hi"))
    assert follow_up(log.state, log.now, SETTINGS).steps == (
        TurnOpened(log.now),
        d.FireHooks("user_turn", ("hi",), turn=1),
    )
    assert follow_up(speaking().state, START, SETTINGS).steps == ()


def test_no_turn_is_opened_on_a_call_that_ends() -> None:
    log = CallLog()
    log.bridge(ev.UserText(text="hi"))
    log.owner(cmd.EndCall())
    assert follow_up(log.state, log.now, SETTINGS).steps == ()


def test_an_ended_call_has_one_summary() -> None:
    log = CallLog()
    log.bridge(ev.CallEnded(reason="hangup"))
    [step] = follow_up(log.state, log.now, SETTINGS).steps
    assert isinstance(step, d.Append)
    assert isinstance(step.body, ev.CallCompleted)
    log.owner(step.body)
    assert follow_up(log.state, log.now, SETTINGS).steps == ()


def test_the_summary_of_a_call_without_figures_has_none() -> None:
    log = CallLog()
    log.now += 4
    log.bridge(ev.CallEnded(reason="hangup"))
    row = summary(log.state, SETTINGS)
    assert (row.call_id, row.agent_id, row.reason, row.duration_s, row.turns) == ("s1", "agt", "hangup", 4.0, 0)
    assert (row.avg_stt_ms, row.stt_p95_ms, row.avg_llm_ms, row.llm_p95_ms, row.avg_tts_ms, row.model) == (None,) * 6
