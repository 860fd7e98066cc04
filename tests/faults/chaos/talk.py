"""Callers who talk all the time: they dial, ask, interrupt, ask on in the middle of an answer, hang up, and dial again.

What each does follows from the seed and its number; when it does it also from how fast it is answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.faults.load import SETTLED_S, Caller, Load, Turn

from unpod import AsyncClient, ControlRefused
from unpod.errors import SessionClosed, SessionUnknown, UnpodError
from unpod_orchestrator import CallOverError, CallRefused

WORDS: Final = 40
PIECE_S: Final = 0.03
ENDS: Final = {"hang up": 6, "agent": 2, "operator": 2}
"""How a call ends, and how often."""
ORDERS: Final = {"say": 0.3, "count": 0.2, "step": 0.2, "brief": 0.5, "transfer": 0.05}
ASK_AGAIN_S: Final = 8.0
LIMIT_S: Final = 60.0
"""How long a caller waits for what must happen at some time: more than any fault and its recovery take."""


@dataclass(slots=True)
class Told:
    """One thing that was said from outside, and what became of it as far as its sender was told."""

    caller: Caller
    text: str
    at: float
    outcome: str = "unanswered"


@dataclass(slots=True)
class Talk:
    """All that was said, and what could not be."""

    load: Load
    client: AsyncClient
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[Told] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)
    ways: dict[int, str] = field(default_factory=dict)
    """How each caller has meant to end its call."""
    interrupted: set[str] = field(default_factory=set)
    """The turns that callers have cut short, by name."""
    wrong: list[str] = field(default_factory=list)


class Person:
    """One of those who talk, on one call after the other."""

    def __init__(self, talk: Talk, seed: int, number: int) -> None:
        self._talk = talk
        self._rng = random.Random(f"caller:{seed}:{number}")  # noqa: S311 - a conversation that can be held again
        self._number = number

    async def live(self) -> None:
        """Call, again and again, until told to stop; then finish what is begun."""
        while not self._talk.stopping.is_set():
            await self._pause(0.0, 1.0)
            try:
                (caller,) = await self._talk.load.dial(1)
            except CallRefused as refusal:
                self._talk.refused.append((asyncio.get_running_loop().time(), refusal.reason))
                continue
            except CallOverError as error:
                self._talk.wrong.append(f"a call was over before it began: {error}")
                continue
            except TimeoutError as error:
                self._talk.wrong.append(f"a call that was taken was not connected: {error}")
                continue
            try:
                await self._call(caller)
            except CallOverError:
                pass  # whether it may be over, its log tells
            except TimeoutError as error:
                self._talk.wrong.append(f"call {caller.number} ({caller.session[-8:]}): {error}")

    async def _call(self, caller: Caller) -> None:
        way = self._rng.choices(list(ENDS), list(ENDS.values()))[0]
        turns = self._rng.randint(3, 12)
        for _ in range(turns):
            if self._talk.stopping.is_set():
                break
            await self._turn(caller)
        await self._is_answered(caller)
        self._talk.ways[caller.number] = way
        match way:
            case "agent":
                await self._is_ended_by_the_agent(caller)
            case "operator":
                await self._end(caller)
            case _:
                await caller.settled(SETTLED_S)
                await caller.call.hang_up()

    async def _is_answered(self, caller: Caller) -> None:
        """Ask once more, and again where that is lost, until there is a whole answer: nobody is deaf or mute by now."""
        async with asyncio.timeout(LIMIT_S):
            while not caller.call.over:
                turn = await caller.ask()
                with suppress(TimeoutError):
                    await caller.answer(turn, ASK_AGAIN_S)
                    return

    async def _is_ended_by_the_agent(self, caller: Caller) -> None:
        """Ask for the end, and again where that is lost."""
        async with asyncio.timeout(LIMIT_S):
            while not caller.call.over:
                await caller.ask(frozenset({"end"}))
                with suppress(TimeoutError):
                    await caller.call.ended(ASK_AGAIN_S)

    async def _turn(self, caller: Caller) -> None:
        rng = self._rng
        orders = frozenset(order for order, share in ORDERS.items() if rng.random() < share)
        manner, point, patience_s = rng.random(), rng.randint(0, WORDS // 2), rng.uniform(2.0, 6.0)
        outside = rng.random() < 0.1
        turn = await caller.ask(orders)
        if outside:
            self._tell(caller)
        if manner < 0.12:
            await self._hears(caller, turn, point, patience_s)
            if caller.call.live:
                self._talk.interrupted.add(turn.question.name)
                turn.given_up = True
                # What is cut short is what is spoken right now: it may be the answer to a question before this one.
                self._talk.interrupted.update(each.question.name for each in caller.turns if each.done_at is None)
                await caller.call.barge_in()
        elif manner < 0.24:
            await self._hears(caller, turn, point, patience_s)
        else:
            with suppress(TimeoutError):
                await caller.answer(turn, patience_s)
            await self._pause(0.0, 0.5)

    async def _hears(self, caller: Caller, turn: Turn, words: int, within_s: float) -> None:
        def enough() -> bool:
            return len(turn.words) >= min(words, turn.length) or caller.call.over

        with suppress(TimeoutError):
            await self._talk.load.news.until(enough, "some words", within_s)

    def _tell(self, caller: Caller) -> None:
        """Say something from outside, up to three times at once under one id; what becomes of it is noted."""
        talk = self._talk
        number = len(talk.told)
        told = Told(caller, f"told call {caller.number} thing {number}", asyncio.get_running_loop().time())
        talk.told.append(told)
        name = f"tell-{caller.session}-{number}"

        async def tell() -> str:
            return await _outcome(lambda: talk.client.sessions.say(caller.session, told.text, command_id=name))

        async def tell_all(times: int) -> None:
            outcomes = await asyncio.gather(*(tell() for _ in range(times)))
            order = ("applied", "refused", "failed", "unanswered")
            told.outcome = min(outcomes, key=order.index)

        talk.load.also(tell_all(self._rng.randint(1, 3)))

    async def _end(self, caller: Caller) -> None:
        """End the call from outside, as often as it takes."""
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        while not caller.call.over:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError("an operator cannot end the call")
            outcome = await _outcome(lambda: self._talk.client.sessions.end(caller.session))
            if outcome == "applied":
                await caller.call.ended(LIMIT_S)

    async def _pause(self, least_s: float, most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._rng.uniform(least_s, most_s)):
                await self._talk.stopping.wait()


async def _outcome(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except ControlRefused as refusal:
        return refusal.outcome
    except (SessionUnknown, SessionClosed):
        return "refused"
    except UnpodError:
        return "unanswered"
    return "applied"
