"""A call that is over is freed at once, without the garbage collector: its full collections are rare (ADR 9)."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest
from tests.unit.runner.stage import stage
from tests.unit.session.rig import Plain

from unpod import CallContext
from unpod.adapters import FallbackAdapter, GeneratorAdapter, ToolCall
from unpod.adapters.chat import ChatAdapter, Prompt
from unpod.adapters.memory import Said
from unpod.adapters.metering import Meter
from unpod.adapters.wrapping import DialogMachine
from unpod.runner.call import Entrypoint
from unpod.testing import simulate_call
from unpod.testing.clock import settle


class Big:
    """What a user keeps with a call."""


class Brain(Plain):
    """Has all the optional parts, and tools that know the call."""

    def __init__(self, ctx: CallContext) -> None:
        super().__init__("one ", "two")
        self.tool = lambda: ctx.session
        self.callback: object = None

    def register_llm_callback(self, callback: object) -> None:
        self.callback = callback

    def mark_interrupted(self, heard: str | None) -> None: ...


class Failing(Brain):
    """Raises in mid-reply."""

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        yield "well"
        raise ValueError(text)


@pytest.fixture
def no_collector() -> Iterator[None]:
    logging.disable()  # what is logged with its traceback is kept for the test's report
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


class Kept:
    """What of the calls lives."""

    def __init__(self) -> None:
        self.made: dict[str, list[weakref.ref[object]]] = {}

    def note(self, **things: object) -> None:
        for name, thing in things.items():
            self.made.setdefault(name, []).append(weakref.ref(thing))

    @property
    def alive(self) -> dict[str, int]:
        counts = {name: sum(ref() is not None for ref in refs) for name, refs in self.made.items()}
        return {name: count for name, count in counts.items() if count}


class Model(ChatAdapter):
    """A chat model with a tool that knows the call."""

    def __init__(self, ctx: CallContext, *, fails: bool = False) -> None:
        async def look() -> str:
            """Look."""
            if fails:
                raise ValueError(ctx)
            return ctx.session_id

        super().__init__("m", provider="p", tools=[look])

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall, None]:
        meter.see("x")
        if isinstance(prompt.conversation[-1], Said) and prompt.conversation[-1].role == "user":
            yield ToolCall("look", {}, "c1")
        else:
            yield "found"


def generator(ctx: CallContext) -> DialogMachine:
    async def answer(text: str) -> AsyncGenerator[str, None]:
        yield f"{ctx.session_id}: {text}"

    return GeneratorAdapter(answer)


Make = Callable[[CallContext], DialogMachine]
MAKERS: dict[str, Make] = {
    "plain": Brain,
    "failing": Failing,
    "model": Model,
    "model whose tool fails": lambda ctx: Model(ctx, fails=True),
    "generator": generator,
    "fallback": lambda ctx: FallbackAdapter([Failing(ctx), Model(ctx), Model(ctx)]),
}


def entrypoint(kept: Kept, make: Make, *, fails: bool) -> Entrypoint:
    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        big = Big()
        session.data["big"] = big
        session.dialog_machine = make(ctx)
        kept.note(session=session, ctx=ctx, big=big, brain=session.dialog_machine, driver=session._driver)

        @session.on("user_turn")
        async def heard(text: str) -> None:
            session.data["last"] = text

        @session.on("call_end")
        def over(reason: str) -> None:
            session.data["reason"] = reason, big

        _ = session.spawn("watch", asyncio.Event().wait())
        await session.step("note", lambda: ctx.session_id)
        await session.run()
        if fails:
            raise LookupError

    return handle


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("end", ["over", "raised", "moved", "away"])
async def test_a_runner_keeps_nothing_of_a_call_that_is_no_longer_its_own(make: Make, end: str) -> None:
    kept = Kept()
    async with stage(entrypoint(kept, make, fails=end == "raised")) as on:
        line = await on.bridge.call("job-1")
        for text in ("hi", "again"):
            await line.record({"event": "user.text", "text": text, "is_final": True}, "user.text")
            await settle(100)
            await line.record({"event": "user.interrupted", "heard_prefix": "o"}, "user.interrupted")
            await settle(100)
        if end == "moved":
            await on.bridge.move("job-1", line)
            await settle(100)
            assert len(kept.made["session"]) == 2
        if end == "away":
            on.stop.abort()
            await on.clock.advance(2)
        else:
            await line.end("hangup")
        await settle(300)
        assert on.service.stats().in_flight == 0
        assert kept.alive == {}


async def test_what_an_entrypoints_owner_keeps_of_a_call_can_still_be_read() -> None:
    found: list[CallContext] = []

    async def handle(ctx: CallContext) -> None:
        found.append(ctx)
        ctx.session.data["name"] = "Ada"
        ctx.session.dialog_machine = Brain(ctx)
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi")
    (ctx,) = found
    assert ctx.session.data == {"name": "Ada"}
    assert ctx.session.metrics.live().turn_count == 1
    await ctx.session.say("too late")
    await ctx.session.end()
