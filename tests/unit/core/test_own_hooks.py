"""The hooks that tell of what the session itself did."""

from __future__ import annotations

import pytest
from tests.unit.core.call_log import speaking

from unpod.core import commands as cmd
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core import own_hooks
from unpod.core.decide import decide
from unpod.core.own_hooks import TURN_FIELDS


@pytest.mark.parametrize(
    ("given", "events"),
    [
        (d.AdapterFinished(1), ["agent_turn"]),
        (d.AdapterRaised(1, "c", "e"), ["agent_turn", "error"]),
        (d.AdapterReported(ev.LLMCalled(turn_id=1, model="m", tokens_in=3)), ["llm_call"]),
        (d.AdapterReported(ev.ToolCalled(turn_id=1, name="n", call_id="c")), ["tool_call"]),
        (d.AdapterReported(ev.ToolReturned(turn_id=1, name="n", call_id="c")), ["tool_result"]),
        (d.TimeReached(), ["agent_turn", "error"]),
        (ev.CallEnded(reason="hangup"), ["turn_complete"]),
        (ev.UserInterrupted(), ["agent_turn"]),
    ],
)
def test_a_takeover_tells_of_a_record_what_its_writer_has_told(given: d.Given, events: list[str]) -> None:
    log = speaking()
    log.now += 30
    what = log.bridge(given) if isinstance(given, (ev.CallEnded, ev.UserInterrupted)) else given
    steps = decide(log.state, what, log.now, d.Settings(on_adapter_error=None)).steps
    told = [step for step in steps if isinstance(step, d.FireHooks) and step.own]
    written = [log.owner(step.body) for step in steps if isinstance(step, d.Append)]
    assert [hooks for record in written for hooks in own_hooks.of_record(record, {1: "well"})] == told
    assert [hooks.event for hooks in told] == events


def test_a_reply_without_a_text_is_not_told_of() -> None:
    record = speaking().owner(cmd.EndReply(turn=1))
    assert list(own_hooks.of_record(record, {})) == []


def test_every_field_of_a_turn_is_named() -> None:
    assert len(TURN_FIELDS) == len(set(TURN_FIELDS)) == 15
    assert set(TURN_FIELDS) - {"stt_ms", "tts_ms"} <= set(ev.TurnCompleted.__struct_fields__)
