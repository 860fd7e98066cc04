"""A plain async generator function as an adapter."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from unpod.adapters.memory import Memory
from unpod.adapters.pieces import ChatMessage

_OFFERED = ("context", "language", "history")


class GeneratorAdapter:
    """Answers with what `function(text)` yields.

    It is given `context`, `language` and `history` by name where it has such parameters. `history` is the conversation
    before `text`, with of each reply what the caller heard, and notes of the system: a list of `ChatMessage`.

    Raises:
        TypeError: it is no async generator function (`async def` with `yield`).
    """

    def __init__(self, function: Callable[..., AsyncGenerator[Any, None]]) -> None:
        if not inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is no async generator function: write it as `async def` with `yield`")
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        self._options = [n for n in _OFFERED if takes_all or n in inspect.signature(function).parameters]
        self._memory = Memory()
        self._notes: list[str] = []

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation, with of each reply what the caller heard."""
        return self._memory.messages

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield what the function yields."""
        for note in self._notes:
            self._memory.add("system", note)
        self._notes.clear()
        given: dict[str, object] = {}
        if self._options:
            offered = {"context": dict(context or {}), "language": language, "history": self._memory.messages}
            given = {name: offered[name] for name in self._options}
        self._memory.add("user", text)
        async with aclosing(self._function(text, **given)) as pieces:
            async for piece in pieces:
                said = piece if isinstance(piece, str) else getattr(piece, "text", None)
                if isinstance(said, str):
                    self._memory.say(said)
                yield piece

    async def turn(self, text: str) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Put a system message into the history."""
        self._notes.append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Cut the last reply in the history to what the caller heard; where nobody knows, keep it."""
        if heard is not None:
            self._memory.cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had."""
        self._memory.restore(history, tools_as_text=True)
