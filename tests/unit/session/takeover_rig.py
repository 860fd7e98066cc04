"""What the tests of takeovers share: a shop that charges, gates that hold hooks, and a brain that can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from unpod import CallContext, ChatMessage
from unpod.core.codec import Record
from unpod.errors import StepFailed
from unpod.testing import ScriptedAdapter, SessionSettings, SimulatedCall

RULES = [("hi", "hello there my friend"), ("pay", "thank you very much"), ("bye", "see you")]


def data_of(call: SimulatedCall) -> dict[str, object]:
    """What the code of the call's last runner has made of it."""
    assert call.context is not None
    return dict(call.context.session.data)


def facts(records: list[Record], kind: type[object]) -> list[object]:
    return [record.body for record in records if isinstance(record.body, kind)]


@dataclass
class Bank:
    """Where money goes."""

    keys: list[str] = field(default_factory=list)

    async def charge(self, amount: int, *, idempotency_key: str = "") -> dict[str, int]:
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
                await session.say(f"Refused: {failed.error_type}")
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
