"""Every hook fires, with its arguments; each is proven from frames as a speech worker sends them."""

from __future__ import annotations

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import LLMCall, ToolCall, ToolResult
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle


async def facts(call: SimulatedCall, kind: type[object]) -> list[object]:
    return [record.body for record in await call.records() if isinstance(record.body, kind)]


async def test_call_start_has_no_arguments_and_comes_first() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)):
        assert ear.told == [("call_start", (), {})]


async def test_user_turn_has_the_text() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("hi there")
    assert ear.args("user_turn") == [("hi there",)]


async def test_user_turn_fires_without_an_adapter_and_the_gate_is_opened() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        assert await call.user("hi") == ""
        assert await call.user("again") == ""
        assert call.commands == (cmd.EndReply(turn=1, reason="unanswered"), cmd.EndReply(turn=2, reason="unanswered"))
    assert ear.args("user_turn") == [("hi",), ("again",)]
    assert ear.args("agent_turn") == []


async def test_user_partial_has_a_text_that_is_not_final_and_asks_nobody() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.partial("hi th")
        await call.frame("user.text", text="hi the", is_final=False, extra={"stability": 0.5})
        assert brain.asked == []
    assert ear.args("user_partial") == [("hi th",), ("hi the",)]
    assert ear.args("user_turn") == []


async def test_agent_turn_has_what_was_sent() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes", ", ", "sir"))) as call:
        assert await call.user("hi") == "yes, sir"
        await settle()
        assert ear.events == ["call_start", "user_turn", "agent_turn"]
    assert ear.args("agent_turn") == [("yes, sir",)]


async def test_tool_call_and_tool_result_are_what_the_adapter_reports() -> None:
    ear = Ear()
    brain = Plain(ToolCall("lookup", {"order": 7}, "t1"), ToolResult("lookup", {"state": "sent"}, "t1"), "It was sent.")
    async with simulate_call(agent(ear, brain)) as call:
        assert await call.user("where is it?") == "It was sent."
        assert await facts(call, ev.ToolCalled) == [
            ev.ToolCalled(name="lookup", arguments={"order": 7}, call_id="t1", turn_id=1)
        ]
        assert await facts(call, ev.ToolReturned) == [
            ev.ToolReturned(name="lookup", result={"state": "sent"}, call_id="t1", turn_id=1)
        ]
    assert ear.args("tool_call") == [("lookup", {"order": 7}, "t1")]
    assert ear.args("tool_result") == [("lookup", {"state": "sent"}, "t1")]


LLM_FIELDS = {
    "turn_id": 1,
    "model": "gpt",
    "provider": "acme",
    "call_type": "chat",
    "latency_ms": 120.0,
    "ttft_ms": 30.0,
    "tokens_in": 100,
    "tokens_out": 20,
    "cached": 60,
    "cache_write": 5,
    "estimated": True,
    "cost": 0.25,
    "node_id": "n1",
    "edge_id": "e1",
    "prompt_messages": [{"role": "user", "content": "hi"}],
    "response_json": {"text": "yes"},
}


async def test_llm_call_has_every_field_by_name() -> None:
    ear = Ear()
    report = LLMCall(**{name: value for name, value in LLM_FIELDS.items() if name != "turn_id"})  # type: ignore[arg-type]
    async with simulate_call(agent(ear, Plain(report, "yes"))) as call:
        await call.user("hi")
        await settle()
        [fact] = await facts(call, ev.LLMCalled)
        assert fact == ev.LLMCalled(**LLM_FIELDS)  # type: ignore[arg-type]
        assert ear.told[-2:] == [("llm_call", (), LLM_FIELDS), ("agent_turn", ("yes",), {})]


async def test_llm_call_has_all_fields_where_the_adapter_knows_few() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain(LLMCall(model="gpt")))) as call:
        await call.user("hi")
    [fields] = ear.fields("llm_call")
    assert set(fields) == set(LLM_FIELDS)
    assert (fields["turn_id"], fields["model"], fields["tokens_in"], fields["cost"]) == (1, "gpt", 0, None)


class Reporting(Brain):
    """Reports its model calls by the callback."""

    def register_llm_callback(self, report: object) -> None:
        self.report = report


async def test_llm_call_comes_by_the_callback_too() -> None:
    ear, brain = Ear(), Reporting()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("yes")
        assert callable(brain.report)
        brain.report(model="gpt", tokens_in=3, provider=None, unknown="x")
        await brain.finish()
    [fields] = ear.fields("llm_call")
    assert (fields["turn_id"], fields["model"], fields["tokens_in"]) == (1, "gpt", 3)


async def test_interruption_has_no_arguments() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.barge_in()
        assert ear.told[-2:] == [("interruption", (), {}), ("agent_turn", ("well",), {})]
        await call.barge_in("we")
    assert ear.args("interruption") == [(), ()]


async def test_metric_has_the_frame_with_its_extras() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.frame("metric", ttfa_ms=120, turns=3, cost_usd_so_far=0.5, region="eu")
    [(event,)] = ear.args("metric")
    assert dict(event) == {  # type: ignore[call-overload]
        "event": "metric",
        "ttfa_ms": 120,
        "turns": 3,
        "cost_usd_so_far": 0.5,
        "region": "eu",
    }
    assert (event.ttfa_ms, event["region"], event.get("nope"), event.nope) == (120, "eu", None, None)  # type: ignore[attr-defined, index]


async def test_state_has_the_frame_and_causes_no_verb() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        for state in ("listening", "thinking", "speaking", "interrupted", "idle", "dreaming"):
            await call.frame("state", state=state, turn_id=4, mood="good")
        assert call.commands == ()
    assert [event["state"] for (event,) in ear.args("state")] == [  # type: ignore[index]
        "listening",
        "thinking",
        "speaking",
        "interrupted",
        "idle",
        "dreaming",
    ]
    assert ear.args("state")[0][0]["mood"] == "good"  # type: ignore[index]


@pytest.mark.parametrize("severity", ["warn", "error", "unheard_of"])
async def test_error_has_code_message_severity_and_source_and_ends_nothing(severity: str) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.frame("error", severity=severity, source="tts", code="tts_slow", message="slow")
        assert call.commands == ()
        assert await call.user("still there?") == "yes"
    assert ear.args("error") == [("tts_slow", "slow", severity, "tts")]


async def test_a_fatal_error_ends_the_call() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.frame("error", severity="fatal", source="transport", code="gone", message="no media")
        assert await call.ended() == "error"
        assert call.commands == (cmd.EndCall(reason="error"),)
    assert ear.args("error") == [("gone", "no media", "fatal", "transport")]
    assert ear.returned == "error"


async def test_call_end_has_the_reason_and_comes_last() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.hang_up()
    assert ear.told[-1] == ("call_end", ("hangup",), {})
    assert ear.events.count("call_end") == 1
    assert ear.returned == "hangup"


@pytest.mark.parametrize("reason", ["hangup", "cancelled", "lost", "max_duration"])
async def test_every_end_of_the_bridge_is_told(reason: str) -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.hang_up(reason)
        assert call.reason == reason
    assert ear.args("call_end") == [(reason,)]
