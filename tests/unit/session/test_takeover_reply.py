"""The reply that a crash has cut, and what the brain remembers of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.unit.session.takeover_rig import APOLOGY, Slow, data_of, facts, slowly

from unpod import CallContext, EchoAdapter
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SessionSettings, simulate_call
from unpod.testing.clock import settle


@pytest.mark.parametrize(
    ("policy", "goes_on", "reply", "asked", "heard"),
    [
        ("continue", True, "one two", [("hi", "one ")], "one two"),
        ("continue", False, f"one {APOLOGY}", [], "one "),
        ("apologise", True, f"one {APOLOGY}", [], "one "),
        ("repeat", True, "one one two", [("hi", "")], "one two"),
    ],
)
async def test_a_reply_that_was_cut_goes_on_by_policy(
    policy: str,
    goes_on: bool,  # noqa: FBT001
    reply: str,
    asked: list[tuple[str, str]],
    heard: str,
) -> None:
    brains: list[Slow] = []
    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    async with simulate_call(slowly(brains, goes_on=goes_on), settings=settings) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.crash()
        assert (await call.reply(1)).text == reply
        assert brains[1].asked == asked
        assert [c.part for c in call.commands if isinstance(c, cmd.EndReply)] == [1]
        assert data_of(call)["spoken"] == (reply if policy != "repeat" else "one two")
        await call.advance(2)
        turn = (await call.state()).history[0]
        assert (turn.agent, turn.heard) == (data_of(call)["spoken"], heard)
        await call.crash()
        assert brains[2].memory == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": heard}]
        state = await call.state()
    assert [fact.outcome for fact in facts(await call.records(), ev.TurnCompleted)] == [  # type: ignore[attr-defined]
        "interrupted" if APOLOGY in reply else "done"
    ]
    assert state.turn_count == 1


async def test_with_nothing_spoken_the_turn_is_asked_again() -> None:
    asked = []

    class Silent(EchoAdapter):
        async def stream(self, text: str) -> AsyncGenerator[str, None]:
            asked.append(text)
            if len(asked) == 1:
                await asyncio.Event().wait()
            yield "well"

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Silent()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.crash()
        assert (await call.reply(1)).text == "well"
        assert asked == ["hi", "hi"]
        assert [c.part for c in call.commands if isinstance(c, cmd.EndReply)] == [0]


async def test_the_policy_may_be_set_on_the_session() -> None:
    brains: list[Slow] = []
    run = slowly(brains)

    async def handle(ctx: CallContext) -> None:
        ctx.session.on_resume = "repeat"
        await run(ctx)

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.crash()
        assert (await call.reply(1)).text == "one one two"


@pytest.mark.parametrize("policy", ["continue", "apologise", "repeat"])
async def test_a_reply_that_the_caller_had_cut_does_not_go_on(policy: str) -> None:
    brains: list[Slow] = []
    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    # The runner dies with the barge-in, before it has ended the reply.
    async with simulate_call(slowly(brains), settings=settings, crash_at=3) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.barge_in("on")
        assert call.points[:3] == ["evt.user.text", "piece 1 of the reply to text 1", "evt.user.interrupted"]
        reply = await call.reply(1)
        assert (reply.text, reply.reason) == ("one ", "interrupted")
        assert brains[1].asked == []
        assert brains[1].marks == ["on"]
        assert brains[1].memory == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "on"}]
        await call.advance(2)
        turn = (await call.state()).history[0]
        assert (turn.agent, turn.heard) == ("one ", "on")


async def test_a_barge_in_on_what_was_said_before_does_not_cut_the_next_reply() -> None:
    brains: list[Slow] = []
    async with simulate_call(slowly(brains)) as call:
        await call.user("hi", wait=False)
        await settle()
        brains[0].gate.set()
        await call.user("you", wait=False)
        await call.barge_in("o")
        await call.reply(2)
        await call.crash()
        assert [line.text for line in call.line.replies.values()] == ["one two", "one two"]


async def test_a_reply_that_had_ended_is_in_the_brains_memory_and_keeps_its_figures() -> None:
    brains: list[Slow] = []
    async with simulate_call(slowly(brains)) as call:
        await call.user("hi", wait=False)
        await settle()
        brains[0].gate.set()
        await call.reply(1)
        await call.frame("state", state="speaking")
        await call.frame("turn.metrics", turn_id=1, asr_ms=12.0)
        await call.barge_in("one t")
        await call.crash()
        assert brains[1].memory == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "one t"}]
        await call.frame("state", state="listening")
        [turn] = facts(await call.records(), ev.TurnCompleted)
    assert isinstance(turn, ev.TurnCompleted)
    assert (turn.agent_text, turn.heard_text, turn.asr_ms, turn.interrupted) == ("one two", "one t", 12.0, True)


async def test_a_brain_without_restore_is_told_in_one_note_and_one_that_hangs_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []

    class Forgetful(EchoAdapter):
        restore = None

        def assist(self, text: str) -> None:
            notes.append(text)

    class Hanging(EchoAdapter):
        async def restore(self, history: object) -> None:
            await asyncio.Event().wait()

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Forgetful() if not notes else Hanging()
        await ctx.session.run()

    monkeypatch.setattr("unpod.session.replay.RESTORE_S", 0.01)
    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.advance(2)
        await call.crash()
        assert notes == ["The conversation so far:\nuser: hi\nassistant: You said: hi"]
        await call.crash()
        assert await call.user("you") == "You said: you"


async def test_a_session_without_a_brain_is_taken_over_too() -> None:
    async def handle(ctx: CallContext) -> None:
        await ctx.session.run()

    async with simulate_call(handle, crash_at=1) as call:
        await call.user("hi")
        assert call.line.replies[1].reason == "unanswered"


@pytest.mark.parametrize(
    ("policy", "goes_on", "reply", "heard", "kept"),
    [
        ("continue", True, f"one {APOLOGY}", None, APOLOGY),
        ("continue", False, f"one {APOLOGY}", None, APOLOGY),
        ("apologise", True, f"one {APOLOGY}", None, APOLOGY),
        ("repeat", True, "one one two", "one two", "one two"),
    ],
)
async def test_where_nobody_knows_how_far_a_reply_was_spoken_nothing_of_it_is_repeated_unasked(
    policy: str,
    goes_on: bool,  # noqa: FBT001
    reply: str,
    heard: str | None,
    kept: str,
) -> None:
    brains: list[Slow] = []
    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    async with simulate_call(slowly(brains, goes_on=goes_on), settings=settings) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.crash(bridge=True)
        assert (await call.reply(1)).text == reply
        assert brains[1].asked == ([("hi", "")] if policy == "repeat" else [])
        await call.advance(2)
        [turn] = (await call.state()).history
        assert (turn.agent, turn.heard) == (kept, heard)
        brains[1].gate.set()
        assert await call.user("and?") == "one two"


@pytest.mark.parametrize("policy", ["continue", "apologise"])
async def test_where_nobody_knows_whether_a_reply_was_begun_it_is_not_begun_again(policy: str) -> None:
    brains: list[Slow] = []
    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    async with simulate_call(slowly(brains), settings=settings, crash_at=1) as call:
        await call.user("hi", wait=False)
        await call.crash(bridge=True)
        assert (await call.reply(1)).text.endswith(APOLOGY)
        assert brains[-1].asked == []
        assert await call.user("and?") == "one two"


async def test_of_a_reply_that_had_ended_nobody_knows_the_words() -> None:
    brains: list[Slow] = []
    async with simulate_call(slowly(brains)) as call:
        await call.user("hi", wait=False)
        await settle()
        brains[0].gate.set()
        await call.reply(1)
        await call.crash(bridge=True)
        await call.advance(2)
        [turn] = (await call.state()).history
        assert (turn.user, turn.agent, turn.heard) == ("hi", None, None)
        assert [line.text for line in call.line.replies.values()] == ["one two"]
        assert await call.user("and?") == "one two"
