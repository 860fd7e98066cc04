"""What a control from outside does to a session: whoever runs it, and wherever that one dies."""

from __future__ import annotations

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import CallContext
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.controls import (
    AnyControl,
    EndSession,
    HandBack,
    InterruptAgent,
    PauseAgent,
    PauseSessionRecording,
    ResumeAgent,
    ResumeSessionRecording,
    SaySomething,
    TakeOver,
    TransferSession,
    Whisper,
)
from unpod.testing import ScriptedAdapter, SimulatedCall, simulate_call
from unpod.testing.clock import settle
from unpod.testing.survive import assert_survives_crashes


async def performed(call: SimulatedCall) -> list[tuple[str, str]]:
    bodies = [record.body for record in await call.records()]
    return [(body.outcome, body.reason) for body in bodies if isinstance(body, ev.ControlPerformed)]


def ends(call: SimulatedCall) -> list[tuple[int, str]]:
    return [(body.turn, body.reason) for body in call.commands if isinstance(body, cmd.EndReply)]


async def test_a_whisper_is_for_the_brain_alone() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.control(Whisper(text="offer the refund"))
        assert brain.notes == ["offer the refund"]
        assert call.spoken == ()
        assert await performed(call) == [("applied", "")]


async def test_a_paused_agent_answers_nothing_and_is_told_afterwards() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.control(PauseAgent())
        assert await call.user("are you there?") == ""
        await call.control(ResumeAgent())
        assert not brain.asked
        (note,) = brain.notes
        assert note.startswith("You were paused")
        assert note.endswith("Caller: are you there?")
        await call.user("hello?", wait=False)
        await settle()
        assert brain.asked == ["hello?"]
        await brain.finish("yes")


async def test_a_pause_lets_the_agent_finish_its_sentence() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("hello ")
        await call.control(PauseAgent())
        await brain.finish("there")
        assert (await call.reply()).text == "hello there"


async def test_a_supervisor_takes_the_call_in_mid_reply_and_hands_it_back() -> None:
    brain, ear = Brain(), Ear()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well, ")
        await call.control(TakeOver(actor="ann"))
        assert ends(call) == [(1, "interrupted")]
        assert brain.marks == [None]
        await call.control(SaySomething(text="this is Ann"))
        assert await call.user("at last") == ""
        assert call.said == ("this is Ann",)
        await call.control(HandBack(actor="ann"))
        (note,) = brain.notes
        assert note.endswith("Supervisor: this is Ann\nCaller: at last")
        assert ear.args("user_turn") == [("hi",), ("at last",)]
        assert await performed(call) == [("applied", ""), ("applied", "")]


@pytest.mark.parametrize(
    ("before", "control", "reason"),
    [
        (None, HandBack(), "nobody has taken the call over"),
        (None, ResumeAgent(), "the agent is not paused"),
        (TakeOver(actor="ann"), TakeOver(actor="bob"), "another supervisor has the call already"),
    ],
)
async def test_what_makes_no_sense_fails(before: AnyControl | None, control: AnyControl, reason: str) -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        if before is not None:
            await call.control(before)
        await call.control(control)
        assert (await performed(call))[-1] == ("failed", reason)


async def test_nobody_is_told_of_silence_while_a_supervisor_has_the_call() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, silence_timeout_s=5.0)) as call:
        await call.control(TakeOver(actor="ann"))
        await call.advance(12)
        assert "silence" not in ear.events
        await call.control(HandBack(actor="ann"))
        await call.advance(4)
        assert "silence" not in ear.events
        await call.advance(2)
        assert ear.args("silence") == [(5.0,)]


async def test_an_interruption_ends_the_reply_once() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.control(InterruptAgent())
        await call.user("hi", wait=False)
        await brain.say("well, ")
        await call.control(InterruptAgent())
        assert ends(call) == [(1, "interrupted")]
        assert brain.happened[-1] == "marked"


async def test_an_end_in_mid_reply() -> None:
    brain, ear = Brain(), Ear()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well, ")
        await call.control(EndSession(reason="enough"))
        assert await call.ended() == "enough"
        assert ends(call) == [(1, "ended")]
        assert ear.args("call_end") == [("enough",)]


async def test_a_cold_transfer_leaves_the_session_no_call() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("yes"))) as call:
        await call.control(TransferSession(to_type="sip", to_config={"number": "+1"}))
        await call.ended()
        assert ear.args("call_end") == [("transferred",)]
        assert ear.returned == "transferred"


@pytest.mark.parametrize(
    "control", [EndSession(), TransferSession(to_type="sip", to_config={"number": "+1"}), InterruptAgent()]
)
@pytest.mark.parametrize("claimed", [False, True])
async def test_what_was_admitted_and_came_to_nothing_is_as_if_it_had_not_been_asked(
    control: AnyControl, *, claimed: bool
) -> None:
    brain, ear = Brain(), Ear()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well, ")
        await call.line.acknowledge(ev.ControlAnswered(control="c", outcome="admitted", body=control))
        await call.user("are you there?", wait=False)
        if claimed and not isinstance(control, InterruptAgent):
            await call.line.acknowledge(ev.CommandAcknowledged(command="c", verb="", outcome="claimed", owner_index=0))
        else:
            await brain.finish("yes")
        await call.line.acknowledge(ev.CommandAcknowledged(command="c", verb="", outcome="refused", owner_index=0))
        await call.line.acknowledge(ev.ControlAnswered(control="c", outcome="failed"))
        await brain.finish("yes")
        assert (await call.reply(2)).text == "yes"
        assert brain.asked == ["hi", "are you there?"]
        assert "error" not in ear.events
        await call.control(EndSession(reason="enough"))
        assert await call.ended() == "enough"


async def test_a_warm_transfer_lets_the_agent_go_on() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        await call.control(TransferSession(to_type="human", to_config={"queue": "q"}, mode="warm"))
        assert await call.user("hi") == "yes"


async def test_what_is_said_while_the_recording_is_paused_from_outside_is_not_kept() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        await call.control(PauseSessionRecording(reason="card"))
        assert await call.user("secret 4111") == "yes"
        assert (await call.state()).paused
        await call.control(ResumeSessionRecording())
        assert not (await call.state()).paused
        assert not any(b"4111" in record.data for record in await call.records())


class Remembering(ScriptedAdapter):
    """Keeps what it was told from outside."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__([("hi", "hello there"), ("bye", "see you")])
        self.notes = notes

    def assist(self, note: str) -> None:
        self.notes.append(note)


async def supervised(ctx: CallContext) -> None:
    notes: list[str] = []
    ctx.session.dialog_machine = Remembering(notes)
    ctx.session.data["notes"] = notes
    await ctx.session.run()


async def supervise(call: SimulatedCall) -> None:
    await call.user("hi")
    await call.control(Whisper(text="be kind"))
    await call.control(TakeOver(actor="ann"))
    await call.control(SaySomething(text="this is Ann"))
    await call.user("at last")
    await call.control(HandBack(actor="ann"))
    await call.control(PauseAgent())
    await call.user("hi again")
    await call.control(ResumeAgent())
    await call.user("bye")
    await call.control(EndSession(reason="enough"))
    await call.ended()


async def test_a_supervised_call_comes_out_the_same_wherever_its_runner_dies() -> None:
    assert await assert_survives_crashes(supervised, supervise) > 30


async def test_a_call_that_was_transferred_from_outside_comes_out_the_same_wherever_its_runner_dies() -> None:
    async def transfer(call: SimulatedCall) -> None:
        await call.user("hi")
        await call.control(TransferSession(to_type="agent", to_config={"agent_id": "b"}))
        await call.ended()

    assert await assert_survives_crashes(supervised, transfer) > 8
