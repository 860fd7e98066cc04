"""Answers with LangChain: any Runnable, a LangGraph graph included."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from unpod.adapters.chat import LANGUAGE
from unpod.adapters.chat_stream import SpokenText
from unpod.adapters.memory import HEARD_UNKNOWN, Memory
from unpod.adapters.metering import Price
from unpod.adapters.pieces import ChatMessage, Piece
from unpod.adapters.vendors import missing
from unpod.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

_BEFORE: Final = frozenset({"history", "chat_history"})


class MakeInput(Protocol):
    """Makes what a Runnable takes."""

    def __call__(self, messages: list[Any], *, text: str, context: Mapping[str, object]) -> Any:  # noqa: ANN401
        """Return the input; `messages` are LangChain's, with instructions and the caller's `text` as the last."""
        ...


class LangChainAdapter:
    """Streams what a Runnable says; one adapter is one conversation.

    A chat model, and whatever begins with one, gets the messages; a graph `{"messages": ...}`; what begins with a
    prompt template its variables: `messages`, `history` (without the last text), `language`, `context`, and any
    other gets the text. `input_key` gives it the messages under that name, and `make_input` does it your way.
    `instructions` is the system prompt (default: the call's own); `config` goes into each run. Models and tools
    inside are metered and reported by LangChain's callbacks; tools run as LangChain runs them, so use
    `session.step` in those that must not run twice.

    Raises:
        ConfigurationError: `langchain-core` is missing, or the graph keeps the conversation itself (a checkpointer),
            and would have each message twice; with `make_input` that is yours to mind.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        input_key: str | None = None,
        *,
        instructions: str | None = None,
        make_input: MakeInput | None = None,
        config: Mapping[str, Any] | None = None,
        price: Price | None = None,
    ) -> None:
        try:
            import langchain_core  # noqa: F401, PLC0415 - comes with an extra
        except ImportError:
            raise missing("LangChainAdapter", "langchain-core", "langchain") from None
        self._runnable = runnable
        self._is_graph = hasattr(runnable, "stream_mode")
        if make_input is None and getattr(runnable, "checkpointer", None):
            raise ConfigurationError(
                "LangChainAdapter: compile the graph without a checkpointer: the log keeps the call"
            )
        self._instructions = instructions
        self._input_key = input_key
        self._make_input = make_input or (self._usual_input if input_key is None else self._under_its_key)
        self._config = dict(config or {})
        self._price = price
        self._memory = Memory()
        self._notes: list[str] = []
        self._language: str | None = None
        self._report: Callable[..., object] | None = None

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation without the instructions, with of each reply what the caller heard."""
        return self._memory.messages

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply as it is made; closing the iterator closes the model's stream.

        Raises:
            Exception: whatever the Runnable raises.
        """
        from unpod.adapters.langchain_reports import Reports  # noqa: PLC0415 - it imports langchain_core

        for note in self._notes:
            self._memory.add("system", note)
        self._notes.clear()
        self._memory.add("user", text)
        self._language = language
        made = self._make_input(self._messages(context or {}), text=text, context=context or {})
        reports = Reports(self._price)
        config: Any = {**self._config, "callbacks": [*self._config.get("callbacks", ()), reports]}
        chunks = self._runnable.astream(made, config, **({"stream_mode": "messages"} if self._is_graph else {}))
        try:
            async with aclosing(_texts(chunks)) as texts:
                async for said in texts:
                    for report in reports.take():
                        yield report
                    if said:
                        self._memory.say(said)
                        yield said
            for report in reports.take():
                yield report
        finally:
            for call in reports.calls():
                if self._report is not None:
                    self._report(**call)

    async def turn(self, text: str, context: Mapping[str, object] | None = None) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context) if isinstance(piece, str)])

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
        """Take up a conversation that another process had."""
        self._memory.restore(history, tools_as_text=True)

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the figures of each model call inside (fields as in `LLMCall`)."""
        self._report = fn

    def _messages(self, context: Mapping[str, object]) -> list[Any]:
        from langchain_core.messages import AIMessage, HumanMessage, SystemMessage  # noqa: PLC0415 - as above

        given = context.get("instructions") if self._instructions is None else self._instructions
        head = [SystemMessage(given)] if isinstance(given, str) and given else []
        if self._language:
            head.append(SystemMessage(LANGUAGE.format(language=self._language)))
        kinds = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}
        return [*head, *(kinds[message["role"]](message["content"]) for message in self._memory.messages)]

    def _under_its_key(self, messages: list[Any], *, text: str, context: Mapping[str, object]) -> Any:  # noqa: ANN401, ARG002
        return {self._input_key: messages}

    def _usual_input(self, messages: list[Any], *, text: str, context: Mapping[str, object]) -> Any:  # noqa: ANN401
        from langchain_core.prompts import BasePromptTemplate  # noqa: PLC0415 - as above

        if self._is_graph:
            return {"messages": messages}
        first = getattr(self._runnable, "first", self._runnable)
        if not isinstance(first, BasePromptTemplate):
            return messages
        known = {"messages": messages, "language": self._language or "", "context": dict(context)}
        known |= dict.fromkeys(_BEFORE, messages[:-1])
        return {name: known.get(name, text) for name in {*first.input_variables, *first.optional_variables}}


async def _texts(chunks: AsyncIterator[Any]) -> AsyncGenerator[str, None]:
    """Yield what is to be said of each chunk, without thinking; "" for one that has nothing."""
    spoken = SpokenText()
    try:
        async for chunk in chunks:
            yield spoken.take(_text(chunk[0] if isinstance(chunk, tuple) else chunk))
        yield spoken.end()
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _text(chunk: Any) -> str:  # noqa: ANN401 - whatever a Runnable yields
    if isinstance(chunk, str):
        return chunk
    if getattr(chunk, "type", "ai") not in ("ai", "AIMessageChunk") or not hasattr(chunk, "content"):
        return ""
    content = chunk.content
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") if isinstance(block, dict) else str(block) for block in content)
