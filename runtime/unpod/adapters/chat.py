"""What all adapters for chat models have in common: memory, notes, tools and metering around single model calls.

A subclass makes one model call (`_ask`); it is asked again with what the tools have returned, until it has no more
tools to use. A tool that runs when the caller cuts in is finished rather than cancelled: half an order helps nobody.
What comes of it is recorded, and the model knows of it at the next turn.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from unpod.adapters.call_scope import call_scope
from unpod.adapters.chat_stream import Carried, SpokenText, distinct
from unpod.adapters.memory import HEARD_UNKNOWN, Entry, Memory, Said, Used, taking_turns
from unpod.adapters.metering import Meter, Price
from unpod.adapters.pieces import ChatMessage, Piece, ToolCall, ToolResult
from unpod.adapters.tools import Tools, ToolSet, text_of
from unpod.adapters.vendors import MAX_WAIT_S, may_wait, unfinished
from unpod.errors import AdapterError

logger = logging.getLogger("unpod.adapters")

BEGUN: Final = "Before the caller said anything, you said to them: {said}"
CUT_OFF: Final = (
    "You had begun to answer the caller's last message, and were cut off after: {said}\n"
    "Go on right there; repeat nothing of it."
)
NOT_UNDERSTOOD: Final = "(The caller said something that could not be understood.)"
LANGUAGE: Final = "The caller speaks {language} now; answer in it."
MAX_ROUNDS: Final = 8
_SHORTEST_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is shown: `system` instructions, and the conversation; `split` gives both as vendors take them.

    With `go_on`, the last entry is a reply that was cut off, to be gone on with. Without `use_tools`, the model must
    answer in words.
    """

    system: tuple[str, ...]
    conversation: Sequence[Entry]
    go_on: bool = False
    use_tools: bool = True

    def split(self) -> tuple[list[str], list[Entry]]:
        """Return the system's texts, and the turns: they begin with the caller, and end with them or with tools.

        Strict vendors take neither a system message between the turns nor a turn out of order, and none is made up:
        notes, what the adapter said first, and a reply that is to be gone on with are told by the system.
        """
        system, entries = list(self.system), list(self.conversation)
        while entries and isinstance(first := entries[0], Said) and first.role == "assistant":
            system.append(BEGUN.format(said=first.content))
            del entries[0]
        last = entries.pop() if self.go_on and entries and isinstance(entries[-1], Said) else None
        system += [entry.content for entry in entries if isinstance(entry, Said) and entry.role == "system"]
        if isinstance(last, Said):
            system.append(CUT_OFF.format(said=last.content))
        return system, taking_turns([e for e in entries if isinstance(e, Used) or e.role != "system"])

    @property
    def chars(self) -> int:
        """How long it is, roughly."""
        return sum(map(len, self.system)) + sum(_length(entry) for entry in self.conversation)


class ChatAdapter(ABC):
    """A conversation with a chat model; one adapter is one conversation.

    `instructions` is the system prompt (default: the call's own, `context["instructions"]`); `tools` are plain
    functions, or anything with the face of `Tool`.
    """

    def __init__(
        self,
        model: str,
        *,
        provider: str,
        instructions: str | None = None,
        tools: Tools = (),
        price: Price | None = None,
    ) -> None:
        self.model = model
        self.tools = ToolSet(tools)
        self._provider = provider
        self._instructions = instructions
        self._price = price
        self._memory = Memory()
        self._notes: list[str] = []
        self._call_ids: set[str] = set()
        self._report: Callable[..., object] | None = None
        self.max_wait_s = MAX_WAIT_S
        self._running: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall | Carried, None]:
        """Make one model call: yield its text as it comes, and its tool calls, each when it is complete.

        What the provider wants back with the tool calls is yielded once, beside them.

        Raises:
            AdapterError: the provider failed.
        """

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation without the instructions and the tools, with of each reply what the caller heard."""
        return self._memory.messages

    @property
    def state(self) -> dict[str, object]:
        """Where the conversation stands."""
        return {"model": self.model, "messages": len(self._memory.messages)}

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply as the model makes it; closing the iterator closes the stream at the provider.

        Raises:
            AdapterError: with `code` rate_limited, overloaded, auth, timeout, connection, content_filter or
                provider_error; an answer without a word and without a tool is one, too.
        """
        async with aclosing(self._reply(text, self._system(context or {}, language), "")) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(
        self, text: str, said: str, *, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Ask the model to go on with a reply that was cut off after `said`; as `stream`."""
        async with aclosing(self._reply(text, self._system(context or {}, language), said)) as pieces:
            async for piece in pieces:
                yield piece

    async def turn(self, text: str, context: Mapping[str, object] | None = None, language: str | None = None) -> str:
        """Return the reply as a whole."""
        pieces = self.stream(text, context=context, language=language)
        return "".join([piece async for piece in pieces if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Put a system message before the caller's next text."""
        self._notes.append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Cut the last reply in memory to what the caller heard; where nobody knows, say so to the model."""
        if heard is None:
            self._notes.append(HEARD_UNKNOWN)
        else:
            self._memory.cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had, with what its tools have returned."""
        self._memory.restore(history)
        self._call_ids.update(tool["call_id"] for message in history for tool in message.get("tools", ()))

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the figures of each model call (fields as in `LLMCall`) when it is over."""
        self._report = fn

    # --- one reply ----------------------------------------------------------------------------------------------------

    async def _reply(self, text: str, system: tuple[str, ...], said: str) -> AsyncGenerator[Piece, None]:
        self._hear(text)
        async for result in self._again():
            yield result
        answered = bool(said) or isinstance(self._memory.entries[-1], Used)  # by words, or by tools
        self._memory.add("assistant", said)
        waited = _Waited(self.max_wait_s)
        for left in range(MAX_ROUNDS, -1, -1):
            await self.tools.refresh()
            prompt = Prompt(system, self._memory.valid, go_on=bool(said) and left == MAX_ROUNDS, use_tools=left > 0)
            calls: list[ToolCall] = []
            carried: Carried | None = None
            async with aclosing(self._patiently(prompt, waited)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, ToolCall):
                        calls.append(piece)
                    elif isinstance(piece, Carried):
                        carried = piece
                    else:
                        answered = answered or bool(piece.strip())
                        self._memory.say(piece)
                        yield piece
            if not calls or not prompt.use_tools:
                if not answered:
                    raise unfinished(self._provider, "empty")
                return
            answered = True
            calls = distinct(calls, self._call_ids)
            for call in calls:
                yield call
            async for result in self._use(calls, carried):
                yield result

    def _hear(self, text: str) -> None:
        for note in self._notes:
            self._memory.add("system", note)
        self._notes.clear()
        self._memory.add("user", text if text.strip() else NOT_UNDERSTOOD)

    async def _patiently(self, prompt: Prompt, waited: _Waited) -> AsyncGenerator[str | ToolCall | Carried, None]:
        """Make one model call, and if nothing of it has come another, where that helps.

        That is after the time that a provider asks for; and where it refuses a request with tools that were used in
        another process, of which it may want back what nobody has: it is told of them in words.
        """
        if not prompt.use_tools:
            logger.warning("%s has used tools %d times in one reply: it must answer now", self.model, MAX_ROUNDS)
        while True:
            begun = False
            try:
                async with aclosing(self._spoken(prompt)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
            except AdapterError as error:
                if not begun and error.code == "provider_error" and self._memory.tell_in_words():
                    prompt = replace(prompt, conversation=self._memory.valid)
                elif begun or not waited.allows(error.retry_after_s):
                    raise
                else:
                    await asyncio.sleep(waited.last_s)
            else:
                return

    async def _spoken(self, prompt: Prompt) -> AsyncGenerator[str | ToolCall | Carried, None]:
        """Make one model call; its text is whole characters without the model's thinking."""
        spoken = SpokenText()
        async with aclosing(self._metered(prompt)) as pieces:
            async for piece in pieces:
                said = spoken.take(piece) if isinstance(piece, str) else piece
                if said:
                    yield said
        if rest := spoken.end():
            yield rest

    async def _metered(self, prompt: Prompt) -> AsyncGenerator[str | ToolCall | Carried, None]:
        meter = Meter(model=self.model, provider=self._provider, prompt_chars=prompt.chars, price=self._price)
        try:
            async with aclosing(self._ask(prompt, meter)) as pieces:
                async for piece in pieces:
                    yield piece
            if not meter.answered:
                raise AdapterError(f"{self._provider} sent no events; is the base URL right?", code="provider_error")
        finally:
            if self._report is not None and meter.answered:
                self._report(**meter.fields())

    async def _again(self) -> AsyncGenerator[ToolResult, None]:
        """Go again through the tools that another process has used for this reply: what they returned is recorded.

        The model could ask for the same thing in other words, and it would be done twice.
        """
        scope = call_scope()
        if scope is not None and scope.earlier:
            recorded = {call.call_id for call in scope.earlier if scope.is_reported(call)}
            self._call_ids.update(call.call_id for call in scope.earlier)
            async for result in self._use(scope.earlier, elsewhere=True):
                if result.call_id not in recorded:
                    yield result

    async def _use(
        self, calls: Sequence[ToolCall], carried: Carried | None = None, *, elsewhere: bool = False
    ) -> AsyncGenerator[ToolResult, None]:
        """Run tools side by side, and yield what they return, each when it does."""
        used = self._memory.use(calls, carried, elsewhere=elsewhere)
        results: asyncio.Queue[ToolResult | Exception] = asyncio.Queue()
        listens = True

        async def run(call: ToolCall) -> None:
            try:
                result = await self.tools.call(call)
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                results.put_nowait(error)
                return
            used.results[call.call_id] = result
            scope = call_scope()
            if listens:
                results.put_nowait(result)
            elif scope is not None:
                scope.report(result)

        for call in calls:
            self._begin(run(call))
        try:
            for _ in calls:
                result = await results.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            listens = False

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        scope = call_scope()
        if scope is not None:
            scope.begin(work)
            return
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _system(self, context: Mapping[str, object], language: str | None) -> tuple[str, ...]:
        given = context.get("instructions") if self._instructions is None else self._instructions
        texts = [given] if isinstance(given, str) and given else []
        return (*texts, LANGUAGE.format(language=language)) if language else tuple(texts)


class _Waited:
    """How much of a reply's time has gone into waiting for a provider."""

    def __init__(self, left_s: float) -> None:
        self.last_s = 0.0
        self._left_s = left_s

    def allows(self, seconds: float | None) -> bool:
        """Whether so much more can be waited; it is counted."""
        if seconds is None or not may_wait.get():
            return False
        self.last_s = max(seconds, _SHORTEST_S)
        self._left_s -= self.last_s
        return self._left_s >= 0


def _length(entry: Entry) -> int:
    if isinstance(entry, Said):
        return len(entry.content)
    return sum(
        len(call.name) + len(text_of(call.arguments)) + len(text_of(entry.result_of(call))) for call in entry.calls
    )
