"""The adapter that everything measured answers with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

DELTAS: Final = 20
PIECES: Final = tuple(f"word {number} " for number in range(DELTAS))
REPLY: Final = "".join(PIECES)
DELTA_S: Final = 0.02

STREAM: Final = "stream"
"""A text: the reply's pieces come one after the other, other calls have their turn between them."""
BURST: Final = "burst"
"""A text: all pieces are there at once, as when a provider's packet holds many."""
SPOKEN: Final = "spoken"
"""A text: a piece each 20 ms, as a model writes them."""
BORN: Final = "born"
"""A text: the reply is when the entrypoint began, on the machine's monotonic clock."""


class Brain:
    """Answers with `DELTAS` pieces, in the manner that the text asks for."""

    def __init__(self) -> None:
        self._born = time.perf_counter()

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        """Yield the reply."""
        if text == BORN:
            yield repr(self._born)
            return
        for piece in PIECES:
            if text == STREAM:
                await asyncio.sleep(0)
            elif text == SPOKEN:
                await asyncio.sleep(DELTA_S)
            yield piece

    async def turn(self, _: str) -> str:
        """Return the reply."""
        return REPLY

    def assist(self, _: str) -> None:
        """Take no notice."""
