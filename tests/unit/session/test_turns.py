"""Turns on a call: what reaches the brain, in which order it is answered, and that each reply ends once."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from tests.unit.session.rig import Brain, Ear, Plain, agent

from unpod import AdapterError, CallContext, EchoAdapter, ToolCall, ToolResult
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.testing import SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle


def ends(call: SimulatedCall) -> list[tuple[int, str]]:
    return [(body.turn, body.reason) for body in call.commands if isinstance(body, cmd.EndReply)]


async def test_a_text_is_answered_in_pieces_and_ends_once() -> None:
    async with simulate_call(agent(brain=EchoAdapter())) as call:
        assert await call.user("hi there") == "You said: hi there"
        assert call.line.replies[1].pieces == ["You ", "said: hi there"]
        assert call.commands == (cmd.EndReply(turn=1, deltas=2, chars=18),)


async def test_the_first_piece_is_out_before_the_second_is_made() -> None:
    out: list[list[str]] = []

    class Watching(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            yield "one"
            await settle()
            out.append(list(call.line.replies[1].pieces))
            yield "two"
            yield "three"

    async with simulate_call(agent(brain=Watching())) as call:
        assert await call.user("hi") == "onetwothree"
    assert out == [["one"]]


async def test_a_quiet_line_between_pieces_aborts_nothing() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        for piece in ("one ", "two ", "three"):
            await brain.say(piece)
            await call.advance(25)
        await brain.finish()
        assert (await call.reply()).text == "one two three"
        assert ends(call) == [(1, "done")]


async def test_metrics_and_states_in_mid_reply_reach_their_hooks_before_its_end() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("one ")
        await call.frame("metric", turns=1)
        await call.frame("state", state="speaking")
        assert ear.events == ["call_start", "user_turn", "metric", "state"]
        assert ends(call) == []
        await brain.finish("two")
        assert (await call.reply()).text == "one two"


async def test_texts_that_arrive_in_mid_reply_wait_and_are_answered_in_order() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain)) as call:
        for text in ("one", "two", "three"):
            await call.user(text, wait=False)
        await settle()
        assert brain.asked == ["one"]
        assert ear.args("user_turn") == [("one",)]
        await brain.say("a", "b")
        await brain.finish("c")
        assert brain.asked == ["one", "two"]
        await brain.finish("d")
        await brain.finish("e")
        assert (await call.reply(3)).text == "e"
        assert ends(call) == [(1, "done"), (2, "done"), (3, "done")]
        assert [text for _, text in call.spoken] == ["a", "b", "c", "d", "e"]
        assert ear.args("user_turn") == [("one",), ("two",), ("three",)]


async def test_a_brain_that_has_nothing_to_say_ends_its_turn_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain())) as call:
        assert await call.user("hi") == ""
        await settle()
        assert ends(call) == [(1, "empty")]
        assert await call.user("hi") == ""
    assert ear.args("agent_turn") == []
    assert ear.args("error") == []
    assert caplog.text.count("the adapter had nothing to say") == 2


async def test_empty_pieces_are_not_sent() -> None:
    async with simulate_call(agent(brain=Plain("", "a", "", "b"))) as call:
        assert await call.user("hi") == "ab"
        assert call.line.replies[1].pieces == ["a", "b"]


async def test_a_brain_that_raises_after_a_piece_ends_its_turn_once_and_the_call_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear, runs = Ear(), list[str]()

    async def handle(ctx: CallContext) -> None:
        runs.append(ctx.session_id)
        await agent(ear, Plain("well", ValueError("out of quota")), on_adapter_error=None)(ctx)

    async with simulate_call(handle) as call:
        assert await call.user("hi") == "well"
        await settle()
        assert ends(call) == [(1, "failed")]
        [fact] = [record.body for record in await call.records() if isinstance(record.body, ev.AdapterFailed)]
        assert fact == ev.AdapterFailed(turn_id=1, code="adapter_error", error="ValueError: out of quota")
        assert await call.user("again") == "well"
        await call.hang_up()
    assert ear.args("error") == [("adapter_error", "ValueError: out of quota", "error", "adapter")] * 2
    assert ear.args("agent_turn") == [("well",)] * 2
    assert len(runs) == 1
    assert "the adapter failed: ValueError" in caplog.text
    assert call.result is not None
    assert not call.result.failed


async def test_the_code_of_an_adapters_own_error_reaches_the_hook() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain(AdapterError("too many", code="rate_limited")))) as call:
        await call.user("hi")
        await settle()
    assert [args[0] for args in ear.args("error")] == ["rate_limited"]


async def test_a_piece_that_is_none_ends_the_turn_and_says_what_it_was() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("a", 7), on_adapter_error=None)) as call:
        assert await call.user("hi") == "a"
        await settle()
        assert ends(call) == [(1, "failed")]
    assert [args[0] for args in ear.args("error")] == ["bad_piece"]


@pytest.mark.parametrize(
    ("frame", "language"),
    [
        ({}, None),
        ({"language": "de"}, "de"),
        ({"extra": {"language": "fr"}}, "fr"),
        ({"language": "de", "extra": {"language": "fr"}}, "fr"),
    ],
)
async def test_the_language_of_a_text_is_the_brains(frame: dict[str, object], language: str | None) -> None:
    asked: list[tuple[str, str | None]] = []

    class Speaks(Plain):
        async def stream(self, text: str, *, language: str | None = "unset") -> AsyncGenerator[object, None]:
            asked.append((text, language))
            yield "ok"

    async with simulate_call(agent(brain=Speaks())) as call:
        await call.frame("user.text", text="hi", is_final=True, **frame)
    assert asked == [("hi", language)]


async def test_the_context_is_the_calls_and_only_for_brains_that_take_it() -> None:
    contexts: list[dict[str, object]] = []

    class Curious(Plain):
        async def stream(self, text: str, context: dict[str, object]) -> AsyncGenerator[object, None]:  # type: ignore[override]
            contexts.append(dict(context))
            context["call_id"] = "overwritten"
            yield "ok"

    metadata = {
        "user_number": "+15551230000",
        "instructions": "Be brief.",
        "data": {"plan": "gold"},
        "direction": "outbound",
    }
    async with simulate_call(agent(brain=Curious()), session_id="s-1", metadata=metadata) as call:
        await call.user("one")
        await call.user("two")
    expected = {
        "call_id": "s-1",
        "session_id": "s-1",
        "direction": "outbound",
        "user_number": "+15551230000",
        "instructions": "Be brief.",
        "data": {"plan": "gold"},
    }
    assert contexts == [{**expected, "turn_number": 1}, {**expected, "turn_number": 2}]


async def test_a_brain_may_return_its_stream_from_a_coroutine() -> None:
    class Late(Plain):
        async def stream(self, text: str) -> AsyncIterator[str]:  # type: ignore[override]
            async def pieces() -> AsyncIterator[str]:
                yield "late"

            return pieces()

    async with simulate_call(agent(brain=Late())) as call:
        assert await call.user("hi") == "late"


async def test_another_brain_in_mid_call_answers_from_the_next_turn_on() -> None:
    first, second = Brain(), Plain("second")
    async with simulate_call(agent(brain=first)) as call:
        await call.user("one", wait=False)
        await first.say("fi")
        assert call.context is not None
        call.context.session.dialog_machine = second
        assert call.context.session.dialog_machine is second
        await first.finish("rst")
        assert (await call.reply()).text == "first"
        assert await call.user("two") == "second"


class Complete(Plain):
    """Done with the call after its first reply."""

    is_complete = True


class CompleteByMethod(Plain):
    """The same, asked by a call."""

    def is_complete(self) -> bool:
        return True


@pytest.mark.parametrize(
    "brain", [Complete("bye"), CompleteByMethod("bye"), Complete()], ids=["flag", "method", "mute"]
)
async def test_a_brain_that_is_complete_ends_the_call_after_that_turns_end(brain: Plain) -> None:
    ear = Ear()
    async with simulate_call(agent(ear, brain)) as call:
        await call.user("hi")
        assert await call.ended() == "completed"
        assert [type(body) for body in call.commands] == [cmd.EndReply, cmd.EndCall]
        assert call.commands[-1] == cmd.EndCall(reason="completed")
    assert ear.args("call_end") == [("completed",)]
    assert len(ear.fields("turn_complete")) == 1


async def test_a_brain_that_is_complete_but_was_cut_does_not_end_the_call() -> None:
    brain = Brain()
    brain.is_complete = True  # type: ignore[attr-defined]
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("bye")
        await call.barge_in("b")
        assert [type(body) for body in call.commands] == [cmd.EndReply]


async def test_ten_megabytes_of_reply_are_cut_off_and_the_call_goes_on() -> None:
    ear, closed = Ear(), list[int]()

    class Flood(Plain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            sent = 0
            try:
                for _ in range(10_000):
                    sent += 1
                    yield "x" * 1_000
            finally:
                closed.append(sent)

    async with simulate_call(agent(ear, Flood(), on_adapter_error=None)) as call:
        assert await call.user("hi") == "x" * 20_000
        await settle()
        assert ends(call) == [(1, "failed")]
        assert len(await call.user("again")) == 20_000
    assert [args[0] for args in ear.args("error")] == ["reply_too_long"] * 2
    assert closed == [21, 21]


async def test_one_huge_piece_is_not_sent() -> None:
    ear = Ear()
    async with simulate_call(agent(ear, Plain("x" * 10_000_000), on_adapter_error=None)) as call:
        assert await call.user("hi") == ""
        await settle()
        assert ends(call) == [(1, "failed")]
    assert [args[0] for args in ear.args("error")] == ["reply_too_long"]


async def test_a_brain_that_hangs_is_given_up_and_the_call_goes_on() -> None:
    ear, brain = Ear(), Brain()
    async with simulate_call(agent(ear, brain, on_adapter_error=None)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.advance(29.9)
        assert ends(call) == []
        await call.advance(0.1)
        assert ends(call) == [(1, "failed")]
        assert brain.happened == ["asked hi", "closed hi"]
        await call.user("again", wait=False)
        await brain.finish("yes")
        assert (await call.reply()).text == "yes"
    assert [args[0] for args in ear.args("error")] == ["adapter_timeout"]
    assert ear.args("agent_turn") == [("well",), ("yes",)]


async def test_a_tool_that_takes_longer_than_a_reply_may_is_waited_for() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        for name in ("one", "two", "three"):
            await brain.say(ToolCall(name, call_id=name))
            await call.advance(45)
            await brain.say(ToolResult(name, call_id=name))
        await call.advance(29)
        await brain.finish("done")
        assert (await call.reply()).text == "done"
        await call.user("and now", wait=False)
        await brain.say(ToolCall("four", call_id="four"), ToolResult("four", call_id="four"))
        await call.advance(30)
        assert ends(call) == [(1, "done"), (2, "failed")]


async def test_how_long_a_brain_may_hang_is_a_setting() -> None:
    brain = Brain()
    async with simulate_call(agent(brain=brain), settings=SessionSettings(reply_timeout_s=2)) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.advance(2)
        assert ends(call) == [(1, "failed")]


async def test_a_brain_that_cannot_be_stopped_keeps_nobody_waiting() -> None:
    """A stream that swallows its cancellation says nothing more, whatever it yields."""

    class Stubborn(Brain):
        async def stream(self, text: str) -> AsyncGenerator[object, None]:
            inner = super().stream(text)
            while True:
                try:
                    yield await anext(inner)
                except StopAsyncIteration:
                    return
                except BaseException:  # noqa: BLE001 - the worst that a brain can do
                    yield "I talk on"
                    return

    brain = Stubborn()
    async with simulate_call(agent(brain=brain)) as call:
        await call.user("hi", wait=False)
        await brain.say("well")
        await call.barge_in()
        assert call.line.replies[1].text == "well"
        assert ends(call) == [(1, "interrupted")]


async def test_without_any_text_there_is_no_turn() -> None:
    async with simulate_call(agent(brain=Plain("yes"))) as call:
        await call.advance(1)
        await call.hang_up()
        assert ends(call) == []
        assert (await call.metrics()).turns == 0


@pytest.mark.parametrize("adapter", [object(), "a string", 7, Plain, EchoAdapter])
async def test_what_is_no_brain_is_a_type_error_that_says_what_is_missing(adapter: object) -> None:
    async with simulate_call(agent()) as call:
        assert call.context is not None
        with pytest.raises(TypeError, match=r"dialog_machine: .*(has no stream|is a class)"):
            call.context.session.dialog_machine = adapter  # type: ignore[assignment]  # that is it
        assert call.context.session.dialog_machine is None


async def test_what_half_a_brain_lacks_is_named() -> None:
    class Half:
        async def stream(self, text: str) -> AsyncIterator[str]:
            yield text

    async with simulate_call(agent()) as call:
        assert call.context is not None
        with pytest.raises(TypeError, match="Half has no turn\\(\\) and no assist\\(\\)"):
            call.context.session.dialog_machine = Half()  # type: ignore[assignment]  # that is it


async def test_without_a_brain_it_is_said_once_why_nobody_answers_and_the_call_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear = Ear()
    async with simulate_call(agent(ear)) as call:
        assert await call.user("hi") == ""
        assert await call.user("hello?") == ""
        assert ends(call) == [(1, "unanswered"), (2, "unanswered")]
    assert ear.args("user_turn") == [("hi",), ("hello?",)]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "dialog_machine" in warning


async def test_an_agent_that_answers_in_its_hooks_is_not_told_that_it_has_no_brain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def answer(text: str) -> None:
            await ctx.session.say(f"You said: {text}")

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        assert call.said == ("You said: hi",)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_a_text_with_nothing_in_it_is_not_asked_of_the_brain_and_is_ended_once(text: str) -> None:
    ear, brain = Ear(), Plain("yes")
    async with simulate_call(agent(ear, brain)) as call:
        await call.user(text)
        assert ends(call) == [(1, "unanswered")]
        assert await call.user("hi") == "yes"
        await call.advance(1)
        history = (await call.state()).history
    assert ear.args("user_turn") == [(text,), ("hi",)]
    assert ear.args("agent_turn") == [("yes",)]
    assert [(exchange.user, exchange.agent) for exchange in history] == [(text, ""), ("hi", "yes")]


async def test_a_text_with_nothing_in_it_is_not_asked_of_the_brain_after_a_takeover() -> None:
    async with simulate_call(agent(brain=EchoAdapter()), crash_at=1) as call:
        await call.user(" ")
        assert ends(call) == [(1, "unanswered")]
        assert await call.user("hi") == "You said: hi"
