"""`turn_complete(**fields)`: once per turn, with all its fields, and what the worker measured if it comes in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext, LLMCall
from unpod.core import events as ev
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle

FIGURES: Final = {
    "ttfa_ms": 410.0,
    "asr_ms": 100.0,
    "llm_ttft_ms": 150.0,
    "tts_ttfb_ms": 60.0,
    "llm_total_ms": 300.0,
    "llm_call_count": 2,
    "from_node": "greeting",
    "to_node": "order",
}
FIELDS: Final = {
    "turn_id",
    "user_text",
    "agent_text",
    "heard_text",
    "interrupted",
    "ttfa_ms",
    "asr_ms",
    "stt_ms",
    "llm_ttft_ms",
    "llm_total_ms",
    "llm_call_count",
    "tts_ttfb_ms",
    "tts_ms",
    "from_node",
    "to_node",
}


async def completed(call: SimulatedCall) -> list[ev.TurnCompleted]:
    return [record.body for record in await call.records() if isinstance(record.body, ev.TurnCompleted)]


async def test_it_has_every_field_with_the_workers_figures() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("hi")
        await call.frame("turn.metrics", call_id="c", turn_id=1, **FIGURES)
        assert ear.told[-1] == (
            "turn_complete",
            (),
            {
                "turn_id": 1,
                "user_text": "hi",
                "agent_text": "yes",
                "heard_text": "yes",
                "interrupted": False,
                **FIGURES,
                "stt_ms": 100.0,
                "tts_ms": 60.0,
            },
        )
        assert ear.args("metric") == []
        [fact] = await completed(call)
        assert fact.worker_metrics


async def test_it_waits_a_second_for_the_workers_figures_and_then_no_longer() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("hi")
        await call.advance(0.9)
        assert ear.fields("turn_complete") == []
        await call.advance(0.1)
        [fields] = ear.fields("turn_complete")
        assert set(fields) == FIELDS
        assert (fields["turn_id"], fields["agent_text"], fields["asr_ms"], fields["ttfa_ms"]) == (1, "yes", None, None)
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
    assert len(ear.fields("turn_complete")) == 1
    [(late,)] = ear.args("metric")
    assert (late["event"], late["asr_ms"]) == ("turn.metrics", 100.0)  # type: ignore[index]


async def test_figures_that_come_before_the_replys_end_are_the_turns() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        await brain.say("well")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        await brain.finish()
        await call.advance(1)
    [fields] = ear.fields("turn_complete")
    assert fields["asr_ms"] == 100.0
    assert ear.args("metric") == []


async def test_it_waits_until_the_speech_is_over_so_that_a_late_barge_in_counts() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes, of course"))) as call:
        await call.frame("state", state="speaking")
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        await call.advance(5)
        assert ear.fields("turn_complete") == []
        await call.barge_in("yes, of")
        [fields] = ear.fields("turn_complete")
    assert (fields["interrupted"], fields["heard_text"], fields["agent_text"]) == (True, "yes, of", "yes, of course")


async def test_with_the_figures_there_it_comes_when_the_speech_is_over() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.frame("state", state="speaking")
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        assert ear.fields("turn_complete") == []
        await call.frame("state", state="listening")
        assert len(ear.fields("turn_complete")) == 1


async def test_the_next_text_does_not_wait() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("one")
        await call.user("two")
        assert [fields["turn_id"] for fields in ear.fields("turn_complete")] == [1]
        await call.advance(1)
        await call.hang_up()
    assert [fields["user_text"] for fields in ear.fields("turn_complete")] == ["one", "two"]


async def test_the_end_of_the_call_does_not_wait() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("one", wait=False)
        await settle()
        await brain.say("we")
        await call.user("two", wait=False)
        await call.hang_up()
        turns = await completed(call)
    told = ear.fields("turn_complete")
    assert [(f["turn_id"], f["user_text"], f["agent_text"]) for f in told] == [(1, "one", "we"), (2, "two", "")]
    assert [turn.outcome for turn in turns] == ["ended", "unanswered"]
    assert ear.events[-3:] == ["turn_complete", "turn_complete", "call_end"]


async def test_a_turn_without_an_adapter_is_completed_too() -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        await call.user("hi")
        await call.advance(1)
        [fact] = await completed(call)
    [fields] = ear.fields("turn_complete")
    assert (fields["user_text"], fields["agent_text"], fields["llm_call_count"]) == ("hi", "", 0)
    assert fact.outcome == "unanswered"


async def test_a_turn_that_was_cut_says_what_was_heard() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        await brain.say("well, you know")
        await call.barge_in("well")
        await call.advance(1)
        [fact] = await completed(call)
    [fields] = ear.fields("turn_complete")
    assert (fields["interrupted"], fields["heard_text"], fields["agent_text"]) == (True, "well", "well, you know")
    assert fact.outcome == "interrupted"


async def test_a_cut_without_a_prefix_leaves_unknown_what_was_heard() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        await brain.say("well, you know")
        await call.barge_in()
        await call.advance(1)
    [fields] = ear.fields("turn_complete")
    assert (fields["interrupted"], fields["heard_text"]) == (True, None)


async def test_the_turns_row_has_the_brains_calls_and_the_sessions_own_measure() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", language="de", wait=False)
        await settle()
        await call.advance(0.2)
        await brain.say("well")
        await call.advance(0.3)
        await brain.finish(LLMCall(model="gpt", provider="acme", tokens_in=10, tokens_out=4, cost=0.5))
        await call.advance(1)
        [fact] = await completed(call)
    assert (fact.model, fact.provider, fact.tokens_in, fact.tokens_out, fact.cost) == ("gpt", "acme", 10, 4, 0.5)
    assert (fact.llm_ttft_ms, fact.llm_total_ms, fact.llm_call_count) == (200.0, 500.0, 1)
    assert (fact.language, fact.outcome, fact.worker_metrics) == ("de", "done", False)
    [fields] = ear.fields("turn_complete")
    assert (fields["llm_ttft_ms"], fields["llm_total_ms"], fields["llm_call_count"]) == (200.0, 500.0, 1)


async def test_with_a_quick_brain_it_waits_until_the_reply_begins_to_be_heard() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes, of course"))) as call:
        await call.frame("state", state="thinking", turn_id=0)
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        assert ear.fields("turn_complete") == []
        await call.frame("state", state="speaking", turn_id=1)
        await call.advance(5)
        assert ear.fields("turn_complete") == []
        await call.barge_in("yes, of")
        [fields] = ear.fields("turn_complete")
    assert (fields["interrupted"], fields["heard_text"], fields["asr_ms"]) == (True, "yes, of", 100.0)


async def test_it_waits_a_second_at_most_for_the_reply_to_be_heard() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.frame("state", state="thinking")
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        await call.advance(0.9)
        assert ear.fields("turn_complete") == []
        await call.advance(0.1)
        assert [fields["asr_ms"] for fields in ear.fields("turn_complete")] == [100.0]


async def test_a_reply_of_nothing_is_not_waited_for() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain())) as call:
        await call.frame("state", state="thinking")
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        assert len(ear.fields("turn_complete")) == 1


async def test_figures_that_are_late_are_not_the_next_turns() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("one")
        await call.advance(1)
        await call.user("two")
        await call.frame("turn.metrics", turn_id=1, asr_ms=1.0)
        assert len(ear.fields("turn_complete")) == 1
        await call.frame("turn.metrics", turn_id=2, asr_ms=2.0)
        assert [fields["asr_ms"] for fields in ear.fields("turn_complete")] == [None, 2.0]
        [(late,)] = ear.args("metric")
        assert late["asr_ms"] == 1.0  # type: ignore[index]


@pytest.mark.parametrize("ids", [(0, 1), (2, 3), ("a", "b"), (None, None), (7, 1)], ids=str)
async def test_ids_that_count_something_else_are_not_looked_at(ids: tuple[object, object]) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        for turn_id, figure in zip(ids, (1.0, 2.0), strict=True):
            await call.user("hi")
            await call.frame("turn.metrics", turn_id=turn_id, asr_ms=figure)
    assert [fields["asr_ms"] for fields in ear.fields("turn_complete")] == [1.0, 2.0]


async def test_figures_that_are_late_are_not_the_next_turns_after_a_takeover_either() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.user("one")
        await call.advance(1)
        await call.user("two")
        await call.frame("turn.metrics", turn_id=1, asr_ms=1.0)
        await call.crash()
        await call.frame("turn.metrics", turn_id=2, asr_ms=2.0)
        facts = await completed(call)
    assert [fact.asr_ms for fact in facts] == [None, 2.0]


async def test_a_runner_that_takes_over_waits_for_the_reply_to_be_heard_too() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes, of course"))) as call:
        await call.frame("state", state="thinking")
        await call.user("hi")
        await call.frame("turn.metrics", turn_id=1, **FIGURES)
        await call.crash()
        assert await completed(call) == []
        await call.frame("state", state="speaking")
        await call.advance(5)
        await call.barge_in("yes")
        [fact] = await completed(call)
    assert (fact.interrupted, fact.heard_text, fact.asr_ms) == (True, "yes", 100.0)


class Walking(Plain):
    """Goes one node further with each reply; at its second piece."""

    def __init__(self, state: object = None) -> None:
        super().__init__()
        self.state = {"node_id": "greeting"} if state is None else state

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        yield "well, "
        if isinstance(self.state, dict):
            self.state = {"node_id": text}
        yield "yes"
        if text == "fail":
            raise ValueError
        if text == "wait":
            await asyncio.Event().wait()


@pytest.mark.parametrize("text", ["order", "fail", "wait"])
async def test_the_nodes_are_those_of_the_brains_state_however_the_reply_ends(text: str) -> None:
    ear, brain = Ear(), Walking()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("order")
        await call.advance(1)
        await call.user(text, wait=False)
        await settle()
        if text == "wait":
            await call.barge_in("well")
        await call.advance(1)
    told = [(fields["from_node"], fields["to_node"]) for fields in ear.fields("turn_complete")]
    assert told == [("greeting", "order"), ("order", text)]


async def test_a_turn_that_the_calls_end_cuts_has_the_node_that_was_reached() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Walking())) as call:
        await call.user("wait", wait=False)
        await settle()
        await call.hang_up()
    [fields] = ear.fields("turn_complete")
    assert (fields["from_node"], fields["to_node"]) == ("greeting", "wait")


async def test_the_workers_nodes_go_before_the_brains() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Walking())) as call:
        await call.user("hi")
        await call.frame("turn.metrics", call_id="c", turn_id=1, **FIGURES)
    [fields] = ear.fields("turn_complete")
    assert (fields["from_node"], fields["to_node"]) == ("greeting", "order")


class Stateful(Plain):
    """Shows a state, or raises it."""

    def __init__(self, state: object) -> None:
        super().__init__("yes")
        self._state = state

    @property
    def state(self) -> object:
        if isinstance(self._state, Exception):
            raise self._state
        return self._state


@pytest.mark.parametrize("state", [7, {"node_id": 7}, ["node_id"], {"node_id": ""}, RuntimeError()])
async def test_a_state_that_says_nothing_of_nodes_harms_no_reply(state: object) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Stateful(state))) as call:
        assert await call.user("order") == "yes"
        await call.advance(1)
    [fields] = ear.fields("turn_complete")
    assert (fields["from_node"], fields["to_node"]) == (None, None)


async def test_a_brain_may_say_itself_where_a_turn_came_from() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Stateful({"node_id": "order", "from_node": "menu"}))) as call:
        await call.user("hi")
        await call.advance(1)
    [fields] = ear.fields("turn_complete")
    assert (fields["from_node"], fields["to_node"]) == ("menu", "order")


async def test_a_dialog_machine_is_given_back_as_it_was_assigned() -> None:
    class Astream:
        async def astream(self, text: str) -> AsyncGenerator[str, None]:
            yield text

    async def function(text: str) -> AsyncGenerator[str, None]:
        yield text

    seen: list[tuple[object, object]] = []

    async def handle_call(ctx: CallContext) -> None:
        for given in (Plain("yes"), Astream(), function, None, Walking()):
            ctx.session.dialog_machine = given
            seen.append((given, ctx.session.dialog_machine))
        await ctx.session.run()
        seen.append((given, ctx.session.dialog_machine))

    async with simulate_call(handle_call) as call:
        await call.user("hi")
    assert len(seen) == 6
    assert all(given is kept for given, kept in seen)
