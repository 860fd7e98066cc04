"""The smallest adapter: it says what it heard. For trying things out."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

_WORDS = re.compile(r"\s*\S+\s*")


def words(text: str) -> list[str]:
    """Cut a text into pieces of one word each; joined, they are the text."""
    return _WORDS.findall(text) or ([text] if text else [])


def rest_of(reply: str, said: str) -> str:
    """Return what of a reply comes after `said`: nothing, where it does not begin with it."""
    return reply[len(said) :] if reply.startswith(said) else ""


class EchoAdapter:
    """Answers each text with `prefix` and the text itself, word by word."""

    def __init__(self, prefix: str = "You said: ") -> None:
        self._prefix = prefix

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        """Yield the echo."""
        for word in words(self._prefix + text):
            yield word

    async def continue_reply(self, text: str, said: str) -> AsyncGenerator[str, None]:
        """Yield the rest of the echo after `said`."""
        for word in words(rest_of(self._prefix + text, said)):
            yield word

    async def turn(self, text: str) -> str:
        """Return the echo."""
        return self._prefix + text

    def assist(self, text: str) -> None:
        """Take no notice: an echo has no mind to change."""
