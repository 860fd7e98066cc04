"""Another runner takes a call over: at every point of scripted calls, by every policy, with changed code, and twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

import pytest

from unpod import CallContext, ChatMessage, EchoAdapter, Session, ToolCall
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.ids import record_id
from unpod.errors import StepFailed
from unpod.testing import ScriptedAdapter, SessionSettings, SimulatedCall, simulate_call
from unpod.testing.clock import settle
from unpod.testing.survive import assert_survives_crashes

RULES = [("hi", "hello there my friend"), ("pay", "thank you very much"), ("bye", "see you")]


def data_of(call: SimulatedCall) -> dict[str, object]:
    """What the code of the call's last runner has made of it."""
    assert call.context is not None
    return dict(call.context.session.data)


def facts(records: list[Record], kind: type[object]) -> list[object]:
    return [record.body for record in records if isinstance(record.body, kind)]


# --- every point of a call --------------------------------------------------------------------------------------------


@dataclass
class Bank:
    """Where money goes."""

    keys: list[str] = field(default_factory=list)

    async def charge(self, amount: int, idempotency_key: str) -> dict[str, int]:
        self.keys.append(idempotency_key)
        await asyncio.sleep(0)
        return {"charged": amount}

    def refuse(self, amount: int) -> None:
        raise ValueError(f"not {amount}")


async def shop(ctx: CallContext, bank: Bank) -> None:
    session = ctx.session
    session.dialog_machine = ScriptedAdapter(RULES)
    session.data |= {"heard": [], "cuts": 0, "reason": None, "refused": 0}

    @session.on("user_turn")
    async def note(text: str) -> None:
        session.data["heard"] = [*session.data["heard"], text]
        if "pay" in text:
            await session.say("One moment")
            session.data["paid"] = await session.step("charge", bank.charge, 5)
            await session.say("Charged")

    @session.on("user_turn")
    async def and_another(text: str) -> None:
        if "pay" in text:
            try:
                await session.step("refuse", bank.refuse, 7)
            except StepFailed as failed:
                session.data["refused"] += 1
                assert failed.error_type == "ValueError"  # noqa: PT017 - inside a hook of the agent under test
                await session.say("Refused")
        if "bye" in text:
            await session.end("done with it")

    @session.on("interruption")
    def cut() -> None:
        session.data["cuts"] += 1

    await session.say("Hello!")
    session.data["reason"] = await session.run()
    session.data["cleaned"] = await session.step("clean", lambda: "clean")


async def buy(call: SimulatedCall) -> None:
    await call.user("hi there")
    await call.barge_in("hello there")
    await call.frame("turn.metrics", turn_id=1, asr_ms=10.0)
    await call.user("pay please")
    await call.frame("turn.metrics", turn_id=2, asr_ms=20.0)
    await call.partial("by")
    await call.user("bye")
    await call.ended()


@pytest.mark.parametrize("policy", ["continue", "apologise", "repeat"])
async def test_a_call_comes_out_the_same_wherever_its_runner_dies(policy: str) -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    settings = SessionSettings(on_resume=policy)  # type: ignore[arg-type]
    points = await assert_survives_crashes(handle, buy, prepare=bank.keys.clear, settings=settings)
    assert points > 30


async def test_a_step_runs_again_only_under_its_own_key() -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    async with simulate_call(handle) as call:
        await buy(call)
        points = len(call.points)
    for crash_at in range(1, points + 1):
        bank.keys.clear()
        async with simulate_call(handle, crash_at=crash_at) as call:
            await buy(call)
            stored = facts(await call.records(), ev.StepCompleted)
        assert len(set(bank.keys)) == 1
        assert Counter(step.name for step in stored) == {"charge": 1, "refuse": 1, "clean": 1}  # type: ignore[attr-defined]


class Tools:
    """Calls a tool before each word, and goes on in the middle of a reply."""

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        async for piece in self.continue_reply(text, ""):
            yield piece

    async def continue_reply(self, text: str, said: str) -> AsyncGenerator[object, None]:
        for word in ("I ", "see."):
            if not said:
                yield ToolCall("look", {}, f"{text}-{word.strip()}")
                yield word
                await asyncio.sleep(0)
            said = said.removeprefix(word)

    async def turn(self, text: str) -> str:
        raise NotImplementedError

    def assist(self, note: str) -> None:
        return

    def restore(self, history: list[ChatMessage]) -> None:
        return


async def talkative(ctx: CallContext) -> None:
    """Says something on everything that happens, and keeps what it hears."""
    session = ctx.session
    session.dialog_machine = Tools()
    session.data |= {"silences": 0, "tools": [], "turns": [], "spoken": []}
    rang = asyncio.Event()

    async def waiter(word: str) -> None:
        await rang.wait()
        await session.say(f"{word} rang")

    for word in ("first", "second"):
        _ = session.spawn("waiter", waiter(word))

    @session.on("silence")
    async def silent(seconds: float) -> None:
        session.data["silences"] += 1
        await session.say("Are you there?")

    @session.on("tool_call", replay=True)
    async def tool(name: str, arguments: object, call_id: str) -> None:
        session.data["tools"] = [*session.data["tools"], call_id]
        await session.say(f"Looking up {call_id}")

    @session.on("turn_complete", replay=True)
    async def complete(**fields: object) -> None:
        session.data["turns"] = [*session.data["turns"], (fields["turn_id"], fields["agent_text"], fields["asr_ms"])]
        await session.say(f"That was {fields['turn_id']}")

    @session.on("agent_turn", replay=True)
    async def agent(text: str) -> None:
        session.data["spoken"] = [*session.data["spoken"], text]

    @session.on("user_partial")
    async def ring(text: str) -> None:
        rang.set()

    await session.say("Hello!")
    await session.run()


SAID = ["Hello!", "Looking up a-I", "Looking up a-see.", "Looking up b-I", "Looking up b-see.", "That was 1"]
SAID += ["That was 2", "Are you there?", "Are you there?", "first rang", "second rang"]


async def look_around(call: SimulatedCall) -> None:
    await call.user("a")
    await call.frame("turn.metrics", turn_id=1, asr_ms=10.0)
    await call.advance(25)
    await call.partial("b")
    await call.user("b")
    await call.frame("turn.metrics", turn_id=2, asr_ms=20.0)
    await call.advance(1)
    await call.hang_up()


async def test_hooks_on_what_the_session_did_speak_each_time_and_once_wherever_it_dies() -> None:
    crash_at, points = 0, 1
    while crash_at <= points:
        async with simulate_call(talkative, crash_at=crash_at) as call:
            await look_around(call)
            points = points if crash_at else len(call.points)
            died_in = call.points[crash_at - 1] if crash_at else ""
            said, data = Counter(call.said), data_of(call)
        if died_in == "run.tool.call":  # the brain was asked again, and its tool called again
            assert (said - Counter(SAID)).total() == 1
            tools = data["tools"]
            assert isinstance(tools, list)
            tools.remove(next(iter(said - Counter(SAID))).removeprefix("Looking up "))
            said &= Counter(SAID)
        assert said == Counter(SAID), died_in
        assert data == {
            "silences": 2,
            "tools": ["a-I", "a-see.", "b-I", "b-see."],
            "turns": [(1, "I see.", 10.0), (2, "I see.", 20.0)],
            "spoken": ["I see.", "I see."],
        }, died_in
        crash_at += 1


async def test_two_crashes_are_as_good_as_one() -> None:
    bank = Bank()

    async def handle(ctx: CallContext) -> None:
        await shop(ctx, bank)

    async with simulate_call(handle) as call:
        await buy(call)
        points, expected = len(call.points), (call.said, data_of(call), [type(what) for what in call.commands])
    for first in range(1, points, 3):
        for second in (1, 2, 3, 5, 8, 13):
            async with simulate_call(handle, crash_at=(first, first + second)) as call:
                await buy(call)
                assert (call.said, data_of(call), [type(what) for what in call.commands]) == expected, (first, second)
                assert facts(await call.records(), ev.Diverged) == []


# --- inside of hooks --------------------------------------------------------------------------------------------------


class Gates:
    """Holds a hook where it waits the first time that it comes there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.passed = 0

    async def wait(self) -> None:
        self.passed += 1
        if self.passed == 1:
            self.reached.set()
            await asyncio.Event().wait()


Register = Callable[[Session, Callable[[], Awaitable[None]]], object]


def on_text(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("user_turn")
    async def hook(text: str) -> None:
        await body()


def on_silence(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("silence")
    async def hook(seconds: float) -> None:
        await body()


def on_reply(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("agent_turn")
    async def hook(text: str) -> None:
        await body()


def on_completion(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("turn_complete")
    async def hook(**fields: object) -> None:
        await body()


def on_cut(session: Session, body: Callable[[], Awaitable[None]]) -> None:
    @session.on("interruption", replay=False)
    async def hook() -> None:
        await body()


async def cut_in(call: SimulatedCall) -> None:
    await call.user("hi")
    await call.barge_in("hel")


async def say_hi_and_wait(call: SimulatedCall) -> None:
    await call.user("hi", wait=False)
    await settle()
    await call.advance(2)


async def wait_long(call: SimulatedCall) -> None:
    await call.advance(10)


@pytest.mark.parametrize(
    ("register", "script"),
    [
        (on_text, say_hi_and_wait),
        (on_silence, wait_long),
        (on_reply, say_hi_and_wait),
        (on_completion, say_hi_and_wait),
        (on_cut, cut_in),
    ],
)
async def test_a_hook_that_a_crash_cuts_off_does_the_rest_of_it_once(
    register: Register, script: Callable[[SimulatedCall], Awaitable[None]]
) -> None:
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        async def body() -> None:
            await session.say("one")
            await gates.wait()
            await session.say("two")

        register(session, body)
        await session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_timeout_s=600)) as call:
        playing = asyncio.ensure_future(script(call))
        await gates.reached.wait()
        await settle()
        await call.crash()
        await playing
        await call.advance(1)
        assert gates.passed == 2
        await call.crash()
        await settle()
        await call.hang_up()
        assert call.said == ("one", "two")
        assert facts(await call.records(), ev.Diverged) == []


@pytest.mark.parametrize(("event", "again"), [("user_turn", True), ("turn_complete", False), ("agent_turn", False)])
@pytest.mark.parametrize("replay", [True, False, None])
async def test_a_hook_that_had_returned_runs_again_as_its_rule_says(
    event: str,
    again: bool,  # noqa: FBT001 - parametrized
    replay: bool | None,  # noqa: FBT001 - parametrized
) -> None:
    ran = 0

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on(event, replay=replay)
        async def hook(*_: object, **__: object) -> None:
            nonlocal ran
            ran += 1
            assert session.replaying == (call.crashes > 0)
            await session.say("ran")

        await session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        await call.advance(2)
        assert ran == 1
        await call.crash()
        assert ran == (2 if replay or (replay is None and again) else 1)
        assert call.said == ("ran",)


async def test_a_hook_that_raised_is_recorded_once() -> None:
    async def handle(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def hook(text: str) -> None:
            raise RuntimeError("no")

        @ctx.session.on("user_turn")
        async def slow(text: str) -> None:
            await asyncio.Event().wait()

        await ctx.session.run()

    async with simulate_call(handle, settings=SessionSettings(hook_timeout_s=0.01, hook_grace_s=0.01)) as call:
        await call.user("hi")
        await call.crash()
        await call.user("you")
        await call.crash()
        failed = facts(await call.records(), ev.HookFailed)
    assert [fact.timed_out for fact in failed] == [False, True, False, True]  # type: ignore[attr-defined]


# --- changed code -----------------------------------------------------------------------------------------------------


async def twenty_turns(call: SimulatedCall) -> None:
    for number in range(20):
        await call.user(f"text {number}")


async def test_new_code_says_nothing_anew_and_what_it_does_otherwise_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = 1

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if version == 1:
                await session.say(f"noted: {text}")
            else:
                await session.set_filler("hm")

        await session.say(f"Hello from {version}")
        if version == 2:
            await session.say("I am new here")
        await session.run()

    async with simulate_call(handle) as call:
        await twenty_turns(call)
        before = call.said
        version = 2
        await call.crash()
        assert call.said == before
        assert not any(isinstance(command, cmd.SetFiller) for command in call.commands)
        assert await call.user("and now?") == "You said: and now?"
        assert any(isinstance(command, cmd.SetFiller) for command in call.commands)
        diverged = [(what.expected, what.found) for what in facts(await call.records(), ev.Diverged)]  # type: ignore[attr-defined]
    assert diverged[0] == ("", "say by main")
    hook = f"user_turn:{test_new_code_says_nothing_anew_and_what_it_does_otherwise_is_recorded.__name__}.handle.hook:0"
    assert set(diverged[1:]) == {(f"say by {hook}", f"filler.set by {hook}"), (f"say by {hook}", "")}
    assert "the code has changed" in caplog.text
    assert "text 1" not in caplog.text


async def test_a_step_that_is_new_in_old_places_runs_and_is_recorded_as_new() -> None:
    version, ran = 1, 0

    def step() -> int:
        nonlocal ran
        ran += 1
        return ran

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if version == 2:
                session.data["got"] = await session.step("new", step)

        await session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
        version = 2
        await call.crash()
        await call.crash()
        assert ran == 1
        assert data_of(call) == {"got": 1}
        found = [what.found for what in facts(await call.records(), ev.Diverged)]  # type: ignore[attr-defined]
    assert len(found) == 1
    assert found[0].startswith("step new by user_turn:")


async def test_replaying_and_now_tell_of_the_past() -> None:
    told: list[tuple[bool, float]] = []

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            told.append((session.replaying, session.now()))

        told.append((session.replaying, session.now()))
        await session.run()

    async with simulate_call(handle, settings=SessionSettings(silence_timeout_s=None)) as call:
        await call.advance(100)
        await call.user("hi")
        await call.advance(100)
        await call.crash()
        await call.user("you")
    start = told[0][1]
    assert told == [(False, start), (False, start + 100), (True, start), (True, start + 100), (False, start + 200)]


# --- the reply that was cut -------------------------------------------------------------------------------------------


class Slow:
    """Says two words, and waits for the test between them."""

    def __init__(self, *, goes_on: bool = True) -> None:
        self.gate = asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.memory: list[ChatMessage] = []
        self.marks: list[str | None] = []
        if goes_on:
            self.continue_reply = self._continue_reply

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        async for piece in self._continue_reply(text, ""):
            yield piece

    async def _continue_reply(self, text: str, said: str) -> AsyncGenerator[str, None]:
        self.asked.append((text, said))
        if not said:
            yield "one "
            await self.gate.wait()
        yield "two"

    async def turn(self, text: str) -> str:
        raise NotImplementedError

    def assist(self, note: str) -> None:
        return

    def mark_interrupted(self, heard: str | None) -> None:
        self.marks.append(heard)

    def restore(self, history: list[ChatMessage]) -> None:
        self.memory = history


def slowly(brains: list[Slow], *, goes_on: bool = True) -> Callable[[CallContext], Awaitable[None]]:
    async def handle(ctx: CallContext) -> None:
        brains.append(Slow(goes_on=goes_on))
        if len(brains) > 1:
            brains[-1].gate.set()
        ctx.session.dialog_machine = brains[-1]

        @ctx.session.on("agent_turn")
        def hook(text: str) -> None:
            ctx.session.data["spoken"] = text

        await ctx.session.run()

    return handle


APOLOGY = SessionSettings().resume_apology


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
    goes_on: bool,  # noqa: FBT001 - parametrized
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

    monkeypatch.setattr("unpod.session.rehearsal.RESTORE_S", 0.01)
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


# --- several texts, timers, ends --------------------------------------------------------------------------------------


async def test_texts_that_wait_are_answered_in_order_and_their_hooks_run_in_their_turn() -> None:
    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            await asyncio.sleep(0)
            await session.say(f"about {text}")

        await session.run()

    async def script(call: SimulatedCall) -> None:
        for text in ("a", "b", "c"):
            await call.user(text, wait=False)
        await call.reply(3)

    points = await assert_survives_crashes(handle, script)
    async with simulate_call(handle) as call:
        await script(call)
        expected = call.said
    for first in range(1, points):
        for second in range(1, 8):
            async with simulate_call(handle, crash_at=(first, first + second)) as call:
                await script(call)
                assert call.said == expected == ("about a", "about b", "about c"), (first, second)


async def test_timers_that_are_overdue_start_afresh() -> None:
    silences: list[float] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.max_duration_s = 60

        @ctx.session.on("silence", replay=False)
        def silent(seconds: float) -> None:
            silences.append(seconds)

        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.advance(11)
        assert silences == [10]
        call.line.log.broker.watch = lambda _: None
        call._runner.kill()
        await call.advance(89)  # nobody is there
        await call.crash()
        assert call.commands == ()
        await call.advance(9)
        assert silences == [10]
        await call.advance(2)
        assert silences == [10, 10]
        await call.advance(48)
        assert call.commands == ()
        await call.advance(2)
        assert await call.ended() == "max_duration"


@pytest.mark.parametrize("mode", ["cold", "warm"])
async def test_a_transfer_happens_once_and_its_end_is_told_once(mode: str) -> None:
    ends: list[str] = []

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("user_turn")
        async def hook(text: str) -> None:
            if text == "human":
                await session.say("One moment")
                await session.transfer("+15550100", mode=mode)  # type: ignore[arg-type]

        @session.on("call_end")
        async def end(reason: str) -> None:
            ends.append(await session.step("told", str, reason))  # type: ignore[arg-type]

        session.data["reason"] = await session.run()
        await session.step("clean", lambda: 1)

    async def script(call: SimulatedCall) -> None:
        await call.user("hi")
        await call.user("human")
        await call.hang_up("transferred")

    assert await assert_survives_crashes(handle, script, prepare=ends.clear) > 10
    assert set(ends) == {"transferred"}


async def test_a_call_that_is_over_replays_to_its_end_and_cleans_up() -> None:
    ran: Counter[str] = Counter()
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = EchoAdapter()

        @session.on("call_end")
        async def end(reason: str) -> None:
            ran[f"call_end {reason}"] += 1

        @session.on("turn_complete")
        async def complete(**fields: object) -> None:
            ran["turn_complete"] += 1

        session.data["reason"] = await session.run()
        await session.step("first", lambda: ran.update(["first"]))
        await gates.wait()
        await session.step("second", lambda: ran.update(["second"]))

    async with simulate_call(handle) as call:
        await call.user("hi")
        ending = asyncio.ensure_future(call.hang_up())
        await gates.reached.wait()
        await call.crash()
        await ending
        assert (call.reason, data_of(call)) == ("hangup", {"reason": "hangup"})
        assert ran == {"call_end hangup": 1, "turn_complete": 1, "first": 1, "second": 1}
        assert len(facts(await call.records(), ev.CallCompleted)) == 1
        assert len(facts(await call.records(), ev.TurnCompleted)) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_an_entrypoint_that_raises_or_never_runs_the_call_ends_it_once(times: int) -> None:
    async def raises(ctx: CallContext) -> None:
        await ctx.session.say("Hello!")
        if times == 2:
            await ctx.session.run()
        raise RuntimeError("no")

    async def returns(ctx: CallContext) -> None:
        await ctx.session.say("Sorry, we are closed")

    async def script(call: SimulatedCall) -> None:
        if times == 2:
            await call.user("hi")
            await call.hang_up()
        await call.ended()

    assert await assert_survives_crashes(raises, script) > 3
    assert await assert_survives_crashes(returns, script) > 3
    async with simulate_call(raises, crash_at=4) as call:
        await script(call)
        assert len(facts(await call.records(), ev.EntrypointFailed)) == 1


async def test_a_crash_before_run_begins_the_call_anew() -> None:
    gates = Gates()

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        await session.say("one")
        await gates.wait()
        await session.say("two")
        await session.run()

    async with simulate_call(handle) as call:
        await gates.reached.wait()
        await call.user("hi", wait=False)
        await call.crash()
        await call.reply(1)
        assert call.said == ("one", "two")


@pytest.mark.parametrize("point", ["evt.error", "cmd.reply.end"])
async def test_an_end_that_was_due_comes_though_its_runner_died_before_it(point: str) -> None:
    class Closing(EchoAdapter):
        is_complete = True

    async def handle(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Closing() if point == "cmd.reply.end" else EchoAdapter()
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        await call.user("hi", wait=False)
        await settle()
        if point == "evt.error":
            await call.frame("error", severity="fatal", code="gone", message="", source="stt")
        await call.ended()

    async with simulate_call(handle) as call:
        await script(call)
        crash_at = call.points.index(point) + 1
    async with simulate_call(handle, crash_at=crash_at) as call:
        await script(call)
        assert call.reason == ("error" if point == "evt.error" else "completed")
        assert [type(c) for c in call.commands if not isinstance(c, cmd.EndReply)] == [cmd.EndCall]
    assert await assert_survives_crashes(handle, script) > 4


# --- not recorded -----------------------------------------------------------------------------------------------------


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


# --- what kills -------------------------------------------------------------------------------------------------------


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

        def poisoned(**_: object) -> Coroutine[object, object, int]:
            return takeover(skip=record_id(line.session_id, "bridge", 4))

        line.takeover = poisoned  # type: ignore[method-assign]
        await call.user("deadly", wait=False)
        await call.settled()
        line.takeover = takeover  # type: ignore[method-assign]
        reply = await call.reply(1)
        assert (reply.text, reply.reason) == ("", "failed")
        assert await call.user("well?") == "You said: well?"
        await call.advance(2)
        assert (ran, errors) == (["well?"], ["poisoned_input"])
        assert facts(await call.records(), ev.HookPoisoned) == [
            ev.HookPoisoned(input=record_id(line.session_id, "bridge", 4))
        ]
        await call.crash()
        assert (ran, errors) == (["well?", "well?"], ["poisoned_input"])


# --- who owns the call ------------------------------------------------------------------------------------------------


async def test_a_runner_that_starts_too_late_leaves_the_call_alone() -> None:
    begun = 0

    async def handle(ctx: CallContext) -> None:
        nonlocal begun
        begun += 1
        await ctx.session.say("Hello!")
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await settle()
        late = call._runners.start(call, await call.line.takeover())
        call._kill()
        result = await late.task
        assert (result.reason, result.started) == ("moved", False)
        assert begun == 2
        assert call.said == ("Hello!",)


async def test_a_step_of_a_runner_that_has_lost_the_call_is_not_run() -> None:
    ran: list[str] = []
    gate = asyncio.Event()

    async def handle(ctx: CallContext) -> None:
        async def later() -> None:
            await gate.wait()
            await ctx.session.step("late", lambda: ran.append(call.line.session_id))

        _ = ctx.session.spawn("later", later())
        await ctx.session.run()

    async with simulate_call(handle) as call:
        former = call._runner
        await call.line.takeover()
        await settle()
        gate.set()
        assert (await former.task).reason == "moved"
        assert ran == []
        call._kill()
        await call.hang_up()
        assert ran == [call.line.session_id]
