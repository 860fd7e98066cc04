"""Several adapters, of which one answers: the next, where one fails or is silent for too long."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress

from unpod.adapters.adapter import AdapterView, check_adapter
from unpod.adapters.memory import Memory
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece
from unpod.adapters.vendors import may_wait
from unpod.errors import AdapterError, ConfigurationError
from unpod.user_code import is_theirs

logger = logging.getLogger("unpod.adapters")

REST_S = 30.0
"""For how long an adapter that has failed is asked last."""


class FallbackAdapter:
    """Asks the first of `adapters`, and the next where that fails, or says nothing for `first_token_s` seconds.

    The last one that is asked may take its time: there is nobody to wait for.

    Once an adapter has begun, with a word or with a tool, the reply is its own: an error then is the reply's error, and
    nobody hears half of each. An adapter that has failed is asked last for half a minute, or as long as its provider
    has asked for; it is not waited for as long as there is another. All of them know the whole conversation, whoever
    answered. Each may be anything that `session.dialog_machine` takes.

    Raises:
        ConfigurationError: there are none.
        TypeError: one of them is no adapter.
    """

    def __init__(self, adapters: Sequence[object], *, first_token_s: float = 3.0) -> None:
        if not adapters:
            raise ConfigurationError("FallbackAdapter needs at least one adapter")
        self._brains = [_Brain(check_adapter(adapter)) for adapter in adapters]
        self._first_token_s = first_token_s
        self._memory = Memory()
        self._answering = self._brains[0]
        self._notes: list[str] = []
        if all(brain.view.can_continue for brain in self._brains):
            # A method of this very object, which it must not keep alive itself.
            self.continue_reply = FallbackAdapter._continue.__get__(weakref.proxy(self))

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation, with of each reply what the caller heard."""
        return self._memory.messages

    @property
    def state(self) -> dict[str, object]:
        """Who answered last, and where that one's dialog stands, if it says so."""
        stands = zip(("node_id", "from_node"), self._answering.view.nodes, strict=True)
        return {"answering": self._answering.view.name, **{name: node for name, node in stands if node is not None}}

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply of the first adapter that begins one.

        Raises:
            Exception: what the one raised that had begun, or the last, where none has.
        """
        async with aclosing(self._reply(text, context or {}, language, "")) as pieces:
            async for piece in pieces:
                yield piece

    async def _continue(
        self, text: str, said: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield what comes after `said`; as `stream`."""
        async with aclosing(self._reply(text, context or {}, language, said)) as pieces:
            async for piece in pieces:
                yield piece

    async def _reply(
        self, text: str, context: Mapping[str, object], language: str | None, said: str
    ) -> AsyncGenerator[Piece, None]:
        notes, self._notes = self._notes, []
        before = self._memory.messages
        for note in notes:
            self._memory.add("system", note)
        self._memory.add("user", text)
        self._memory.add("assistant", said)
        ranked = sorted(self._brains, key=_Brain.rests)
        for number, brain in enumerate(ranked, start=1):
            is_last = number == len(ranked)
            await brain.catch_up(before, notes)
            async with aclosing(brain.view.open(text, context=context, language=language, said=said)) as pieces:
                try:
                    first = await self._begun(pieces, None if is_last else self._first_token_s)
                except BaseException as error:
                    if not is_theirs(error):
                        raise
                    brain.failed(error)
                    if is_last:
                        raise
                    logger.warning("%s has not begun to answer: %s", brain.view.name, type(error).__name__)
                    continue
                self._answer_with(brain)
                for piece in first:
                    yield self._kept(piece)
                async for piece in pieces:
                    yield self._kept(piece)
                return

    async def _begun(self, pieces: AsyncIterator[Piece], limit_s: float | None) -> list[Piece]:
        """Return the pieces up to the first with which the adapter has begun; none, where it has nothing to say."""
        first: list[Piece] = []
        limit = asyncio.timeout(limit_s)
        waits = may_wait.set(limit_s is None)
        try:
            async with limit:
                async for piece in pieces:
                    first.append(piece)
                    if not isinstance(piece, LLMCall):
                        break
        except TimeoutError:
            if not limit.expired():
                raise
            raise AdapterError(f"it said nothing for {limit_s:g} s", code="timeout") from None
        finally:
            may_wait.reset(waits)
        return first

    def _answer_with(self, brain: _Brain) -> None:
        self._answering = brain
        brain.answers()
        for other in self._brains:
            if other is not brain:
                other.is_behind = True

    def _kept(self, piece: Piece) -> Piece:
        if isinstance(piece, str):
            self._memory.say(piece)
        return piece

    async def turn(self, text: str, context: Mapping[str, object] | None = None) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Give a note to whoever answers next."""
        self._notes.append(text)

    async def mark_interrupted(self, heard: str | None) -> None:
        """Tell the one that answered last, and remember what was heard for the others."""
        if heard is not None:
            self._memory.cut(heard)
        await self._answering.view.tell_cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had."""
        self._memory.restore(history)
        for brain in self._brains:
            brain.is_behind = True

    def is_complete(self) -> bool:
        """Whether the one that answered last has said all that it has to say on this call."""
        return self._answering.view.is_complete()

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Let all of them report their model calls, those that failed as well."""
        for brain in self._brains:
            brain.view.register_llm_callback(fn)


class _Brain:
    """One of several, and how far it knows the conversation."""

    def __init__(self, view: AdapterView) -> None:
        self.view = view
        self.is_behind = False
        self._rests_until = 0.0

    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def failed(self, error: BaseException) -> None:
        asked_for = error.retry_after_s if isinstance(error, AdapterError) else None
        self.is_behind = True
        self._rests_until = time.monotonic() + max(REST_S, asked_for or 0.0)

    def answers(self) -> None:
        self.is_behind = False
        self._rests_until = 0.0

    async def catch_up(self, history: Sequence[ChatMessage], notes: Sequence[str]) -> None:
        """Make the conversation known to an adapter that has not led it; one without `restore` gets it as a note."""
        with suppress(AdapterError):
            if self.is_behind and self.view.has_restore:
                await self.view.restore(history)
            elif self.is_behind and history:
                lines = [f"{message['role']}: {message['content']}" for message in history]
                await self.view.assist("The conversation so far:\n" + "\n".join(lines))
        for note in notes:
            await self.view.assist(note)
