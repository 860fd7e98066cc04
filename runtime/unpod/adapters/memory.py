"""What was said so far, as far as the caller heard it: the memory that adapters in this package share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unpod.adapters.pieces import ChatMessage


class Memory:
    """A conversation as chat messages. What the brain said but nobody heard does not stay in it."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []

    def add(self, role: Literal["user", "assistant", "system"], content: str) -> None:
        """Append one message; an empty one is left out."""
        if content:
            self.messages.append({"role": role, "content": content})

    def cut(self, heard: str) -> None:
        """Let the last reply be what the caller heard of it: nothing, where `heard` is empty."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        self.add("assistant", heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Begin anew with what was said in another process."""
        self.messages = [{"role": message["role"], "content": message["content"]} for message in history]
