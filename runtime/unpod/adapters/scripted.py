"""An adapter that follows a script: the demo's, and anybody's tests'. It streams, remembers, and needs no network."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

from msgspec import Struct

from unpod.adapters.echo import words
from unpod.adapters.memory import Memory
from unpod.adapters.pieces import ChatMessage, Piece


class Pause(Struct, frozen=True):
    """The adapter thinks, or waits for a tool, for so long."""

    seconds: float


Part: TypeAlias = Piece | Pause
Lines: TypeAlias = str | Sequence[Part]
"""A text, which is streamed word by word, or parts in order, whose texts are."""

Reply: TypeAlias = Lines | Callable[[str], Lines]
"""What is said, or a function that makes it from the caller's text."""

When: TypeAlias = str | re.Pattern[str] | Callable[[str], bool]
"""A regular expression to be found in the caller's text (a string ignores case), or a predicate."""


class Rule(Struct, frozen=True):
    """Say `reply` when the caller's text is as `when` says; after a `closing` one the conversation is over."""

    when: When
    reply: Reply
    closing: bool = False

    def matches(self, text: str) -> bool:
        """Return whether this rule answers `text`."""
        match self.when:
            case str():
                return re.search(self.when, text, re.IGNORECASE) is not None
            case re.Pattern():
                return self.when.search(text) is not None
            case _:
                return self.when(text)


class ScriptedAdapter:
    """Answers by the first rule that matches, else with `fallback`.

    `piece_delay_s` passes between two pieces, never before the first; `sleep` is how time passes (tests bring theirs).
    """

    def __init__(
        self,
        rules: Sequence[Rule | tuple[When, Reply]],
        *,
        fallback: Reply = "Sorry, I did not get that. Could you say it again?",
        piece_delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rules = [rule if isinstance(rule, Rule) else Rule(*rule) for rule in rules]
        self._fallback = Rule("", fallback)
        self._piece_delay_s = piece_delay_s
        self._sleep = sleep
        self._memory = Memory()
        self.is_complete = False
        self.notes: list[str] = []

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation, with of each reply what the caller heard."""
        return list(self._memory.messages)

    @property
    def state(self) -> dict[str, object]:
        """Where the conversation stands."""
        return {"turns": sum(m["role"] == "user" for m in self._memory.messages), "is_complete": self.is_complete}

    async def stream(self, text: str) -> AsyncGenerator[Piece, None]:
        """Yield the reply that the script has for `text`."""
        async with aclosing(self.continue_reply(text, "")) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(self, text: str, said: str) -> AsyncGenerator[Piece, None]:
        """Yield what of the reply to `text` comes after `said`."""
        rule = self._rule_for(text)
        self._memory.add("user", text)
        pieces = [said] if said else []
        try:
            for part in _after(_parts(rule.reply, text), len(said)):
                if isinstance(part, Pause):
                    await self._sleep(part.seconds)
                    continue
                if isinstance(part, str):
                    if pieces and self._piece_delay_s:
                        await self._sleep(self._piece_delay_s)
                    pieces.append(part)
                yield part
        finally:
            self._memory.add("assistant", "".join(pieces))
        self.is_complete = self.is_complete or rule.closing

    async def turn(self, text: str) -> str:
        """Return the reply that the script has for `text`."""
        return "".join([piece async for piece in self.stream(text) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Keep a note; it changes nothing in a script."""
        self.notes.append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Forget what the caller did not hear of the last reply; where nobody knows, keep it."""
        if heard is not None:
            self._memory.cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation."""
        self._memory.restore(history)

    def _rule_for(self, text: str) -> Rule:
        return next((rule for rule in self._rules if rule.matches(text)), self._fallback)


def _parts(reply: Reply, text: str) -> list[Part]:
    """Return what a reply to `text` is made of, its texts cut into words."""
    lines = reply(text) if callable(reply) else reply
    parts: list[Part] = []
    for part in [lines] if isinstance(lines, str) else lines:
        parts += words(part) if isinstance(part, str) else [part]
    return parts


def _after(parts: list[Part], chars: int) -> list[Part]:
    """Return the parts after the first `chars` characters of text; reports and pauses before them are left out."""
    rest: list[Part] = []
    for part in parts:
        if isinstance(part, str) and chars:
            part, chars = part[chars:], max(0, chars - len(part))  # noqa: PLW2901 - what is left of it
        if not chars and part:
            rest.append(part)
    return rest
