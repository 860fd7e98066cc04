"""What was not recorded, and what kills its process, when a call is taken over."""

from __future__ import annotations

from functools import partial

import pytest
from tests.unit.session.takeover_rig import APOLOGY, Slow, facts, slowly

from unpod import CallContext, ChatMessage, EchoAdapter
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.ids import record_id
from unpod.testing import SimulatedCall, simulate_call
from unpod.testing.clock import settle


@pytest.mark.slow
async def test_what_was_not_recorded_stays_out_of_the_log_through_a_crash_at_any_point() -> None:
    memories: list[list[ChatMessage]] = []

    class Remembers(EchoAdapter):
        def restore(self, history: list[ChatMessage]) -> None:
            memories.append(list(history))

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = Remembers()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if text == "card":
                await session.recording.pause(reason="PII")
            if text == "done":
                await session.recording.resume()
            if "4111" in text:
                raise ValueError(text)

        @session.on("turn_complete")
        async def complete(**fields: object) -> None:
            await session.say(f"got {fields['user_text']}")

        await session.run()

    async def script(call: SimulatedCall) -> None:
        await call.user("card")
        await call.user("4111 1111")
        await call.advance(2)
        await call.user("done")
        await call.user("after")
        await call.advance(2)
        await call.hang_up()

    async with simulate_call(handle) as call:
        await script(call)
        points = list(call.points)
    third_text = [number for number, point in enumerate(points, start=1) if point == "evt.user.text"][2]
    for crash_at in range(1, len(points) + 1):
        async with simulate_call(handle, crash_at=crash_at) as call:
            await script(call)
            stored = [record.data for record in await call.records()]
            history = (await call.state()).history
            pauses = [type(c) for c in call.commands if isinstance(c, cmd.PauseRecording | cmd.ResumeRecording)]
        where = (crash_at, points[crash_at - 1])
        assert not any(b"4111 1111" in data for data in stored), where
        assert [part.withheld for part in history if part.turn == 2] == [True], where
        lost = crash_at == third_text  # nobody knows any more that the caller was done
        assert [part.withheld for part in history if part.turn == 4] == [lost], where
        assert pauses == [cmd.PauseRecording, *([] if lost else [cmd.ResumeRecording])], where
    told = [message["content"] for memory in memories for message in memory]
    assert not any("4111 1111" in text for text in told)
    assert any("not recorded" in text for text in told)


async def test_a_text_that_nobody_has_any_more_is_asked_for() -> None:
    brains: list[Slow] = []
    run = slowly(brains)

    async def handle(ctx: CallContext) -> None:
        await ctx.session.recording.pause()
        await run(ctx)

    async with simulate_call(handle) as call:
        await call.user("4111", wait=False)
        await settle()
        await call.crash()
        assert (await call.reply(1)).text == f"one {APOLOGY}"
        assert brains[1].asked == []


async def test_a_text_that_is_to_be_passed_over_is_and_stays_so() -> None:
    ran: list[str] = []
    errors: list[str] = []

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        def hook(text: str) -> None:
            ran.append(text)

        @session.on("error")
        def error(code: str, message: str, severity: str, source: str) -> None:
            errors.append(code)

        await session.run()

    async with simulate_call(handle, crash_at=1) as call:
        line, takeover = call.line, call.line.takeover
        deadly = record_id(line.session_id, "bridge", 4)
        line.takeover = partial(takeover, skip=deadly)  # type: ignore[method-assign]
        await call.user("deadly", wait=False)
        await call.settled()
        line.takeover = takeover  # type: ignore[method-assign]
        reply = await call.reply(1)
        assert (reply.text, reply.reason) == ("", "failed")
        assert await call.user("well?") == "You said: well?"
        await call.advance(2)
        assert (ran, errors) == (["well?"], ["poisoned_input"])
        assert facts(await call.records(), ev.HookPoisoned) == [ev.HookPoisoned(input=deadly)]
        await call.crash()
        assert (ran, errors) == (["well?", "well?"], ["poisoned_input"])
