"""The timers of a session: which run, and when the next one is due."""

from __future__ import annotations

from msgspec.structs import replace
from tests.unit.core.call_log import START, CallLog, speaking

from unpod.core import commands as cmd
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core import timers
from unpod.core.ephemeral_events import ToolsRun
from unpod.core.state import SessionState, evolve_local
from unpod.core.timers import due, reached, restarted

SETTINGS = d.Settings(agent_id="agt")


def test_before_the_call_nothing_is_due() -> None:
    assert due(SessionState(), SETTINGS) is None


def test_silence_is_due_at_each_multiple() -> None:
    log = CallLog()
    assert due(log.state, SETTINGS) == START + 10
    log.owner(ev.SilenceNoticed(seconds=10.0))
    assert due(log.state, SETTINGS) == START + 20


def test_the_earliest_moment_is_due() -> None:
    log = speaking()
    chosen = d.Settings(silence_timeout_s=10, reply_timeout_s=4, max_duration_s=7)
    assert due(log.state, chosen) == START + 4
    assert due(log.state, replace(chosen, reply_timeout_s=None)) == START + 7
    assert due(log.state, d.Settings(silence_timeout_s=None, reply_timeout_s=None)) is None


def test_while_a_tool_runs_the_reply_has_no_time_out_and_a_new_one_after_it() -> None:
    log, chosen = speaking(), d.Settings(silence_timeout_s=None, reply_timeout_s=30)
    for _ in range(2):
        log.state = evolve_local(log.state, ToolsRun(1, 1, log.now))
    log.now += 50
    log.state = evolve_local(log.state, ToolsRun(1, -1, log.now))
    assert due(log.state, chosen) is None
    log.now += 50
    log.state = evolve_local(log.state, ToolsRun(1, -1, log.now))
    assert due(log.state, chosen) == START + 130
    log.state = evolve_local(log.state, ToolsRun(2, 1, log.now))
    assert due(log.state, chosen) == START + 130


def test_a_tool_that_was_only_reported_is_waited_for_for_a_while() -> None:
    log, chosen = speaking(), d.Settings(silence_timeout_s=None, reply_timeout_s=30)
    log.owner(ev.ToolCalled(name="a", call_id="1", turn_id=1))
    log.now += 20
    log.owner(ev.ToolCalled(name="b", call_id="2", turn_id=1))
    assert due(log.state, chosen) == START + 20 + 60 + 30
    log.owner(ev.ToolReturned(name="b", call_id="2", turn_id=1))
    assert due(log.state, chosen) == START + 60 + 30
    log.owner(ev.ToolReturned(name="a", call_id="1", turn_id=1))
    assert due(log.state, chosen) == START + 20 + 30


def test_nobody_is_silent_while_an_answer_is_owed() -> None:
    log, chosen = CallLog(), d.Settings(silence_timeout_s=10, reply_timeout_s=None, metrics_wait_s=60)
    log.bridge(ev.UserText(text="hi"))
    assert due(log.state, chosen) is None
    log = speaking()
    log.now += 25
    assert due(log.state, chosen) is None
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=4))
    assert due(log.state, chosen) == log.now + 10


def test_the_wait_for_figures_begins_when_the_speech_is_over() -> None:
    log = speaking()
    log.owner(cmd.EndReply(turn=1, deltas=1, chars=4))
    assert due(log.state, SETTINGS) == START + 1
    log.bridge(ev.StateChanged(state="speaking"))
    assert due(log.state, d.Settings(silence_timeout_s=None)) is None
    log.now += 5
    log.bridge(ev.StateChanged(state="listening"))
    assert due(log.state, SETTINGS) == START + 6


def test_a_reply_that_may_not_have_reached_the_worker_keeps_its_turn_open_where_receipts_come() -> None:
    log, chosen = speaking(), d.Settings(silence_timeout_s=None)
    log.bridge(ev.ReplySpoken(turn=1, deltas=1, chars=2))
    log.owner(cmd.EndReply(turn=1, deltas=2, chars=4))
    assert due(log.state, chosen) == START + timers.UNCONFIRMED_S
    log.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4, ended=True))
    assert due(log.state, chosen) == START + 1


def test_a_call_that_is_over_has_no_timers() -> None:
    log = CallLog()
    log.owner(cmd.EndCall())
    assert due(log.state, d.Settings(max_duration_s=1)) is None


def test_what_is_overdue_starts_afresh_and_what_is_not_goes_on() -> None:
    log = CallLog()
    log.owner(ev.SilenceNoticed(seconds=10.0))
    chosen, now = d.Settings(silence_timeout_s=10, max_duration_s=30), START + 20
    assert reached(log.state, chosen, now) == {"silence"}
    again = restarted(log.state, now, chosen)
    assert due(again, chosen) == START + 30
    assert reached(again, chosen, START + 30) == {"silence", "max_duration"}
    assert due(restarted(again, START + 30, chosen), chosen) == START + 40
