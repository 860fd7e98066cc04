"""A model behind an adapter, played by a test: what it answers, how it fails, and what it was shown."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Literal

from msgspec import Struct

from unpod.adapters.pieces import ToolCall
from unpod.adapters.tools import text_of
from unpod.errors import UnpodError


class Answer(Struct, frozen=True):
    """One answer of a model: its pieces, and what comes after them.

    `hang`: nothing, until somebody closes the stream. `fail`: the provider fails; with no pieces, it refuses at once.
    """

    pieces: tuple[str | ToolCall, ...] = ("Hello", " there")
    then: Literal["end", "hang", "fail"] = "end"


class ModelFailed(UnpodError):  # noqa: N818 - a fact
    """The played model fails here: a test's server turns it into its vendor's error, or hangs up."""


class FakeModel:
    """Gives `answers` one after the other, and after them always the same.

    Whoever stands in for the vendor (a server that speaks its wire, a client class of its package) calls `answer` for
    each request and passes on what it yields; when its own caller goes away, it closes that.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.prompts: list[str] = []
        """What the model was shown, request by request, as text (JSON, where it was no text)."""
        self.hanging = asyncio.Event()
        """Set while an answer hangs."""
        self.stopped = asyncio.Event()
        """Set once an answer was closed before its end."""

    async def answer(self, prompt: object) -> AsyncGenerator[str | ToolCall, None]:
        """Yield the pieces of the next answer.

        Raises:
            ModelFailed: it is to fail.
        """
        self.prompts.append(text_of(prompt))
        given = self.answers.popleft() if self.answers else Answer()
        over = False
        try:
            for piece in given.pieces:
                yield piece
            if given.then == "hang":
                self.hanging.set()
                await asyncio.Event().wait()
            over = True
            if given.then == "fail":
                raise ModelFailed("the model fails")
        finally:
            if not over:
                self.stopped.set()
