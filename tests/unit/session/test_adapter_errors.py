"""What a caller hears where the brain has failed: `on_adapter_error`."""

from __future__ import annotations

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.decision import ADAPTER_APOLOGY
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle


def ends(call: SimulatedCall) -> list[cmd.EndReply]:
    return [body for body in call.commands if isinstance(body, cmd.EndReply)]


@pytest.mark.parametrize(
    ("pieces", "reply"),
    [
        (("Your order is",), f"Your order is {ADAPTER_APOLOGY}"),
        (("Your order is ",), f"Your order is {ADAPTER_APOLOGY}"),
        ((), ADAPTER_APOLOGY),
    ],
)
async def test_a_reply_that_fails_ends_with_an_apology(pieces: tuple[str, ...], reply: str) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain(*pieces, ValueError("no")))) as call:
        assert await call.user("hi") == reply
        await settle()
        assert [(end.reason, end.deltas, end.chars) for end in ends(call)] == [("failed", len(pieces) + 1, len(reply))]
        assert call.line.replies[1].pieces[:-1] == list(pieces)
        assert await call.user("again") == reply
        await call.advance(2)
        assert [(turn.agent, turn.heard) for turn in (await call.state()).history] == [(reply, reply)] * 2
    assert ear.args("agent_turn") == [(reply,)] * 2
    assert [args[0] for args in ear.args("error")] == ["adapter_error"] * 2


async def test_a_brain_that_hangs_or_cannot_stop_is_apologised_for_as_well() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain), settings=SessionSettings(max_reply_chars=10)) as call:
        await call.user("hi", wait=False)
        await brain.say("one")
        await call.advance(30)
        assert call.line.replies[1].text == f"one {ADAPTER_APOLOGY}"
        await call.user("again", wait=False)
        await brain.say("two", "more than it may")
        assert call.line.replies[2].text == f"two {ADAPTER_APOLOGY}"
        assert [end.reason for end in ends(call)] == ["failed", "failed"]


@pytest.mark.parametrize("chosen", [None, ""])
async def test_nothing_is_said_where_nothing_is_wanted(chosen: str | None) -> None:
    async with simulate_call(agent(brain=Plain("one", ValueError("no")), on_adapter_error=chosen)) as call:
        assert await call.user("hi") == "one"
        assert [end.reason for end in ends(call)] == ["failed"]


async def test_the_phrase_is_the_sessions_own() -> None:
    settings = SessionSettings(on_adapter_error="Oh dear.")
    async with simulate_call(agent(brain=Plain(ValueError("no"))), settings=settings) as call:
        assert await call.user("hi") == "Oh dear."
        assert call.context is not None
        call.context.session.on_adapter_error = "Dear me."
        assert await call.user("hi") == "Dear me."
        with pytest.raises(TypeError, match="on_adapter_error"):
            call.context.session.on_adapter_error = 7  # type: ignore[assignment]


async def test_a_brain_that_fails_can_end_the_call() -> None:
    async with simulate_call(agent(brain=Plain("one", ValueError("no")), on_adapter_error="end")) as call:
        assert await call.user("hi") == "one"
        assert await call.ended() == "error"
        assert [body for body in call.commands if isinstance(body, cmd.EndCall)] == [cmd.EndCall(reason="error")]
        assert [(end.reason, end.closing) for end in ends(call)] == [("failed", True)]


@pytest.mark.parametrize("policy", ["Sorry.", "end"])
async def test_a_reply_with_which_the_call_ends_is_not_apologised_for(policy: str) -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain, on_adapter_error=policy)) as call:
        await call.user("hi", wait=False)
        await brain.say("Good")
        assert call.context is not None
        await call.context.session.end("done")
        await brain.say(ValueError("no"))
        assert await call.ended() == "done"
        assert call.line.replies[1].text == "Good"
        assert [body.reason for body in call.commands if isinstance(body, cmd.EndCall)] == ["done"]


async def test_what_was_cut_in_on_is_not_apologised_for() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("one")
        await call.barge_in("o")
        await brain.say(ValueError("late"))
        assert call.line.replies[1].text == "one"


@pytest.mark.parametrize("policy", ["apologise", "continue", "repeat"])
@pytest.mark.parametrize("point", range(1, 9))
async def test_wherever_its_runner_dies_a_failed_reply_is_apologised_for_once(point: int, policy: str) -> None:
    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Plain("one", ValueError("no"))
        await ctx.session.run()

    settings = SessionSettings(on_resume=policy, resume_apology="Sorry!")  # type: ignore[arg-type]
    async with simulate_call(handle, settings=settings, crash_at=point) as call:
        await call.user("hi")
        await call.settled()
        await call.advance(2)
        reply = call.line.replies[1].text
        assert reply.count(ADAPTER_APOLOGY) + reply.count("Sorry!") == 1
        assert [end.turn for end in ends(call)] == [1]
        [turn] = [record.body for record in await call.records() if isinstance(record.body, ev.TurnCompleted)]
        assert turn.agent_text is not None
        assert reply.endswith(turn.agent_text)


@pytest.mark.parametrize("point", range(1, 9))
async def test_wherever_its_runner_dies_a_brain_that_fails_ends_the_call_once(point: int) -> None:
    handle = agent(brain=Plain("one", ValueError("no")), on_adapter_error="end")
    async with simulate_call(handle, crash_at=point, settings=SessionSettings(on_resume="repeat")) as call:
        await call.user("hi", wait=False)
        assert await call.ended() == "error"
        assert [body for body in call.commands if isinstance(body, cmd.EndCall)] == [cmd.EndCall(reason="error")]
