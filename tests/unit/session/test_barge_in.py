"""Barge-in: the brain is stopped at its provider, told what was heard, and the reply ends once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext
from unpod.core import commands as cmd
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle


def ends(call: SimulatedCall) -> list[tuple[int, str]]:
    return [(body.turn, body.reason) for body in call.commands if isinstance(body, cmd.EndReply)]


async def test_a_brain_that_blocks_is_stopped_at_its_provider_at_once() -> None:
    stopped, asked = asyncio.Event(), asyncio.Event()

    class Blocking(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            try:
                yield "well"
                asked.set()
                await asyncio.Event().wait()
                yield "never"
            finally:
                stopped.set()

    async with simulate_call(agent(brain=Blocking())) as call:
        await call.user("hi", wait=False)
        await asked.wait()
        began = time.process_time()  # ours: the machine may be busy with something else
        await call.line.record({"event": "user.interrupted", "turn_id": 1, "heard_prefix": "we"}, "user.interrupted")
        await stopped.wait()
        assert time.process_time() - began < 0.05
        await settle()
        assert call.line.replies[1].text == "well"
        assert ends(call) == [(1, "interrupted")]


async def test_a_brain_is_stopped_before_it_has_said_anything() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.barge_in()
        assert brain.happened == ["asked hi", "closed hi"], "nothing was said, so there is nothing to tell"
        assert ends(call) == [(1, "interrupted")]
    assert ear.args("agent_turn") == []


async def test_no_piece_leaves_after_the_barge_in() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("one ")
        await call.line.record({"event": "user.interrupted", "turn_id": 1, "heard_prefix": None}, "user.interrupted")
        await brain.finish("two ", "three")
        assert call.line.replies[1].text == "one "
        assert (call.line.replies[1].reason, ends(call)) == ("interrupted", [(1, "interrupted")])


async def test_a_slow_hook_does_not_delay_the_stop_of_the_brain() -> None:
    go_on, brain = asyncio.Event(), Brain()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain

        @ctx.session.on("metric")
        async def slow(event: object) -> None:
            await go_on.wait()

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await brain.say("one")
        await call.frame("metric", turns=1)
        await call.barge_in("o")
        assert brain.happened == ["asked hi", "closed hi"]
        go_on.set()
        await settle()
        assert brain.marks == ["o"]
        assert ends(call) == [(1, "interrupted")]


@pytest.mark.parametrize("heard", [None, "wel", ""])
async def test_in_mid_reply_the_brain_is_told_what_was_heard(heard: str | None) -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.barge_in(heard)
        assert (brain.marks, brain.notes) == ([heard], [])


async def test_between_turns_with_a_prefix_the_brain_is_told_it() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.finish("well, well")
        await call.reply()
        await call.advance(1)
        await call.barge_in("well")
        assert (brain.marks, brain.notes) == (["well"], [])
        assert ends(call) == [(1, "done")]
        assert (await call.state()).history[-1].heard == "well"
    assert ear.args("interruption") == [()]


async def test_between_turns_without_a_prefix_the_brain_gets_one_note() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.finish("well, well")
        await call.reply()
        await call.advance(1)
        await call.barge_in()
        assert brain.marks == []
        assert brain.notes == ["The caller cut in on your last reply; it is not known how much of it they heard."]
        assert call.commands == (cmd.EndReply(turn=1, deltas=1, chars=10),)
    assert ear.args("interruption") == [()]


async def test_the_text_of_the_note_can_be_set() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain, interruption_note="They cut in.")) as call:
        await call.barge_in()
        assert brain.notes == ["They cut in."]
    settings = SessionSettings(interruption_note="From the settings.")
    async with simulate_call(agent(brain=brain), settings=settings) as call:
        await call.barge_in()
        assert brain.notes[1:] == ["From the settings."]


async def test_while_the_reply_is_still_playing_the_brain_is_told_what_was_heard_of_it() -> None:
    """The reply has left, the caller still hears it: it is between turns for us, and in mid-reply for them."""
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.finish("well, well")
        await call.frame("state", state="speaking")
        await call.barge_in("well")
        assert brain.marks == ["well"]
        await call.advance(1)
        [fields] = ear.fields("turn_complete")
    assert (fields["interrupted"], fields["heard_text"]) == (True, "well")


async def test_the_brains_memory_is_cut_before_it_is_asked_again() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("one", wait=False)
        await brain.say("well")
        await call.line.record({"event": "user.interrupted", "turn_id": 1, "heard_prefix": "we"}, "user.interrupted")
        await call.user("two", wait=False)
        await brain.finish("yes")
        assert (await call.reply()).text == "yes"
        assert brain.happened == ["asked one", "closed one", "marked", "asked two", "closed two"]


async def test_a_brain_without_the_optional_methods_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    plain = Plain("yes")
    async with simulate_call(agent(brain=plain)) as call:
        assert await call.user("hi") == "yes"
        await call.barge_in("y")
        await call.barge_in()
        assert await call.user("hi") == "yes"
    assert len(plain.notes) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("heard", "note"),
    [
        (None, "They cut in."),
        ("we", "The caller cut in on your last reply; of it they heard: we"),
        ("", "The caller cut in on your last reply before they heard anything of it."),
    ],
)
async def test_a_brain_that_cannot_be_marked_gets_one_note_in_mid_reply(heard: str | None, note: str) -> None:
    class Forgetful(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield "well"
            await asyncio.Event().wait()

    plain = Forgetful()
    async with simulate_call(agent(brain=plain, interruption_note="They cut in.")) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.barge_in(heard)
        assert plain.notes == [note]
        assert ends(call) == [(1, "interrupted")]


@pytest.mark.parametrize("said", [(), ("well",)])
async def test_who_stops_its_own_brain_tells_it_only_of_what_was_said(said: tuple[str, ...]) -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say(*said)
        assert call.context is not None
        await call.context.session.interrupt()
        await settle()
        assert (brain.marks, brain.notes) == ([None] * len(said), [])


async def test_a_brain_whose_memory_fails_is_logged_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(Plain):
        def mark_interrupted(self, heard: str | None) -> None:
            raise ValueError("no memory")

        def assist(self, note: str) -> None:
            raise KeyError("no notes")

    async with simulate_call(agent(brain=Forgetful("yes"))) as call:
        await call.user("hi")
        await call.barge_in("y")
        await call.barge_in()
        assert await call.user("hi") == "yes"
    assert "mark_interrupted failed: ValueError" in caplog.text
    assert "assist failed: KeyError" in caplog.text


async def test_a_barge_in_in_the_hooks_of_a_text_leaves_its_answer_alone() -> None:
    go_on, brain = asyncio.Event(), Brain()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain

        @ctx.session.on("user_turn")
        async def slow(text: str) -> None:
            await go_on.wait()

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.barge_in("what was said before")
        go_on.set()
        await brain.say("yes")
        assert brain.marks == ["what was said before"]
        await brain.finish()
        assert (await call.reply()).text == "yes"
        assert ends(call) == [(1, "done")]


async def test_two_barge_ins_end_one_reply_once() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.barge_in("w")
        await call.barge_in("we")
        assert ends(call) == [(1, "interrupted")]
        assert brain.marks == ["w", "we"]
        assert (await call.state()).interruptions == 2
    assert ear.args("interruption") == [(), ()]


@pytest.mark.parametrize("after", range(6))
async def test_at_every_point_of_a_reply_there_is_one_end(after: int) -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await settle(after)
        script = [brain.say("a"), brain.say("b"), brain.say("c"), brain.finish(), settle()]
        for step, action in enumerate(script):
            if step == after:
                await call.barge_in("a")
            await action
        await call.user("still there?", wait=False)
        await brain.finish("yes")
        await settle()
        assert [turn for turn, _ in ends(call)] == [1, 2]
        pieces = call.line.replies[1].pieces
        assert pieces == ["a", "b", "c"][: len(pieces)]
