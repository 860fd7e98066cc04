"""Callers: each asks, waits for the whole answer, and asks again, until told to stop; who is not answered asks anew."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.faults.words import WORDS, Question, words_in

from unpod_orchestrator import (
    CallOverError,
    Connected,
    DeltaCame,
    LineDropped,
    LocalCall,
    LocalOrchestrator,
    ReplyEnded,
)

PATIENCE_S: Final = 20.0
"""How long a test waits for what must come."""
ASK_AGAIN_S: Final = 2.0
"""How long a caller waits for an answer before asking the next question instead, as people do."""

SETTLED_S: Final = 3.0
"""How long a caller who hangs up listens for answers that are late; one that was lost never comes."""

Orders = Callable[["Caller", int], frozenset[str]]
NO_ORDERS: Final[frozenset[str]] = frozenset()


@dataclass(slots=True)
class Turn:
    """One question and its answer; times are the event loop's. Done: its last word was there, and the reply ended."""

    question: Question
    length: int
    asked_at: float
    words: list[int] = field(default_factory=list)
    heard_at: list[float] = field(default_factory=list)
    done_at: float | None = None
    given_up: bool = False

    @property
    def complete(self) -> bool:
        """Whether the last word has come."""
        return not self.length or self.length in self.words


class Caller:
    """One caller on one call."""

    def __init__(self, number: int, call: LocalCall, load: Load) -> None:
        self.number = number
        self.call = call
        self.turns: list[Turn] = []
        self.downs: list[float] = []
        self.ups: list[float] = []
        """When the call's socket was lost, and when it was there again."""
        self.pieces = 0
        self.before = 0
        """How many questions were asked before the fault, where a row notes it."""
        self.poisonous = False
        """Whether one of the questions is to be passed over, since it takes down whoever hears it."""
        self.orphaned = False
        """Whether nobody has to finish the session: its clean-up was given up."""
        self._load = load
        self._news = load.news
        self._stopping = asyncio.Event()
        self._may_ask = asyncio.Event()
        self._may_ask.set()
        self._listening = asyncio.create_task(self._listen())

    @property
    def session(self) -> str:
        """The session's id."""
        return self.call.session_id

    @property
    def answered(self) -> int:
        """How many questions have their whole answer."""
        return sum(turn.done_at is not None for turn in self.turns)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        async for happening in self.call.subscribe():
            now = loop.time()
            match happening:
                case DeltaCame(text):
                    self._heard(text, now)
                case ReplyEnded():
                    self._ended(now)
                case Connected(again=True):
                    self.ups.append(now)
                case LineDropped():
                    self.downs.append(now)
                case _:
                    continue
            self._news.tell()
        self._news.tell()

    def _heard(self, text: str, now: float) -> None:
        for word in words_in(text):
            self.pieces += 1
            if word.call == self.number and 0 < word.turn <= len(self.turns):
                self.turns[word.turn - 1].words.append(word.word)
                self.turns[word.turn - 1].heard_at.append(now)

    def _ended(self, now: float) -> None:
        for turn in self.turns:
            if turn.done_at is None and turn.complete:
                turn.done_at = now
            elif turn.done_at is None and self._load.takes_cuts:
                turn.given_up = True

    # ------------------------------------------------------------------------------------------------------- talking

    async def ask(self, orders: frozenset[str] = NO_ORDERS) -> Turn:
        """Ask the next question, once the line is up."""
        await self.call.connected(PATIENCE_S)
        question = Question(self.number, len(self.turns) + 1, orders)
        lengths = [length for order, length in self._load.lengths.items() if order in orders]
        turn = Turn(question, min(lengths, default=self._load.length), asyncio.get_running_loop().time())
        self.turns.append(turn)
        await self.call.user(question.text)
        return turn

    async def answer(self, turn: Turn, within_s: float = PATIENCE_S) -> None:
        """Return once a question has its whole answer."""
        await self._news.until(
            lambda: turn.done_at is not None or turn.given_up or self.call.over,
            f"the answer to {turn.question.text!r}",
            within_s,
        )

    async def hears(self, turn: Turn, count: int) -> None:
        """Return once so many words of an answer have come."""
        await self._news.until(lambda: len(turn.words) >= count, f"{count} words for {turn.question.text!r}")

    async def talk(self, pause: Callable[[], float]) -> None:
        """Ask until told to stop; `pause` says how many seconds to think before a question."""
        with suppress(CallOverError):
            while not self._stopping.is_set() and not self.call.over:
                await self._may_ask.wait()
                if self._stopping.is_set():
                    return
                turn = await self.ask(self._load.orders(self, len(self.turns) + 1))
                try:
                    await self.answer(turn, ASK_AGAIN_S)
                except TimeoutError:
                    turn.given_up = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause()):
                        await self._stopping.wait()

    async def settled(self, within_s: float) -> None:
        """Return once every question has come to its end, those that were given up as well; or after a while."""
        with suppress(TimeoutError, CallOverError):
            await self.call.observed(lambda call: not call.ends_owed, "all ends", timeout_s=within_s)

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping.set()
        self._may_ask.set()

    def hush(self) -> None:
        """Ask nothing more, for now."""
        self._may_ask.clear()

    async def quiet(self) -> None:
        """Return once no question waits for its answer any more."""
        await self._news.until(
            lambda: all(turn.done_at is not None or turn.given_up for turn in self.turns), "an end of the talk"
        )

    def go_on(self) -> None:
        """Ask again."""
        self._may_ask.set()

    async def close(self) -> None:
        """Listen no more."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)


class News:
    """Wakes whoever waits for something about the calls."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def tell(self) -> None:
        """Something has happened."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, holds: Callable[[], bool], awaited: str, within_s: float = PATIENCE_S) -> None:
        """Return once `holds()`, looked at whenever something has happened; TimeoutError otherwise."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"waited {within_s:g} s for: {awaited}") from None


class Load:
    """So many callers at once, each on a call of its own."""

    def __init__(self, orchestrator: LocalOrchestrator, rng: random.Random, *, pause_s: float = 0.05) -> None:
        self.callers: list[Caller] = []
        self.news = News()
        self.orders: Orders = lambda _, __: NO_ORDERS
        self.length = WORDS
        """How many words an answer has, but for those to certain orders."""
        self.takes_cuts = False
        """Whether callers ask on at the end of a reply that was cut."""
        self.lengths: dict[str, int] = {}
        self._orchestrator = orchestrator
        self._rng = rng
        self._pause_s = pause_s
        self._talking: list[asyncio.Task[None]] = []

    @property
    def living(self) -> list[Caller]:
        """Those whose call is not over."""
        return [caller for caller in self.callers if not caller.call.over]

    @property
    def pieces(self) -> int:
        """How many words of answers have come, on all calls."""
        return sum(caller.pieces for caller in self.callers)

    # ---------------------------------------------------------------------------------------------------- beginning

    async def dial(self, count: int, **options: object) -> list[Caller]:
        """Place `count` calls at once and return their callers, who say nothing yet."""
        calls = await asyncio.gather(*(self._orchestrator.place_call("agent", **options) for _ in range(count)))  # type: ignore[arg-type]
        fresh = [Caller(len(self.callers) + number, call, self) for number, call in enumerate(calls, 1)]
        self.callers += fresh
        await asyncio.gather(*(caller.call.connected(PATIENCE_S) for caller in fresh))
        return fresh

    async def begin(self) -> None:
        """Let everybody talk who is there, and return once each has an answer."""
        for caller in self.callers:
            self.talk(caller)
        await self.answers(1)

    def talk(self, caller: Caller) -> None:
        """Let a caller talk."""
        self._talking.append(asyncio.create_task(caller.talk(lambda: self._rng.uniform(0.0, self._pause_s))))

    def also(self, doing: Coroutine[object, object, None]) -> None:
        """Do something beside the talk, which is waited for at its end."""
        self._talking.append(asyncio.create_task(doing))

    # ------------------------------------------------------------------------------------------------------ waiting

    async def answers(self, count: int, within_s: float = PATIENCE_S) -> None:
        """Return once every living caller has `count` answers more than now."""
        wanted = {caller.number: caller.answered + count for caller in self.living}
        await self.news.until(
            lambda: all(caller.call.over or caller.answered >= wanted[caller.number] for caller in self.callers),
            f"{count} answers on every call",
            within_s,
        )

    async def words(self, count: int) -> None:
        """Return once so many more words have come: a point that no clock decides, mostly in the middle of replies."""
        wanted = self.pieces + count
        await self.news.until(lambda: self.pieces >= wanted, f"{count} words")

    async def recovered(self, since: float, within_s: float) -> dict[int, float]:
        """Return, for each living call, the seconds from `since` to the end of its first turn asked after that.

        Raises:
            TimeoutError: which calls have none within the time.
        """

        def times() -> dict[int, float]:
            found: dict[int, float] = {}
            for caller in self.living:
                done = [turn.done_at for turn in caller.turns if turn.asked_at >= since and turn.done_at is not None]
                if done:
                    found[caller.number] = min(done) - since
            return found

        try:
            await self.news.until(lambda: len(times()) >= len(self.living), "a working turn on every call", within_s)
        except TimeoutError as error:
            silent = sorted({caller.number for caller in self.living} - set(times()))
            raise TimeoutError(f"{error}; none on {silent}") from None
        return times()

    # --------------------------------------------------------------------------------------------------------- ending

    async def finish(self, settled_s: float = SETTLED_S) -> None:
        """Let everybody finish what they are at and hang up; return once every call is over."""
        for caller in self.callers:
            caller.stop()
        await asyncio.gather(*self._talking)
        self._talking.clear()
        await asyncio.gather(*(caller.settled(settled_s) for caller in self.living))
        await asyncio.gather(*(caller.call.hang_up() for caller in self.living))
        await asyncio.gather(*(caller.call.ended(PATIENCE_S) for caller in self.callers))

    async def close(self) -> None:
        """Cancel what is left."""
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)
        for caller in self.callers:
            await caller.close()


@asynccontextmanager
async def load(orchestrator: LocalOrchestrator, rng: random.Random, *, pause_s: float = 0.05) -> AsyncIterator[Load]:
    """Callers for as long as the block lasts, who think for up to `pause_s` before they ask."""
    made = Load(orchestrator, rng, pause_s=pause_s)
    try:
        yield made
    finally:
        await made.close()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile, 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
