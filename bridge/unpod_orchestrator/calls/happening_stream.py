"""A live view of one call: what happens, as it happens, for any number of watchers."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from unpod_orchestrator.worker.happenings import AnyHappening, Ended

_MAX_QUEUED: Final = 10_000


class HappeningStream:
    """An async iterator that ends after `Ended`; a watcher that is too slow loses the oldest happenings."""

    def __init__(self, on_close: "Callable[[HappeningStream], None]") -> None:
        self._queue: deque[AnyHappening] = deque(maxlen=_MAX_QUEUED)
        self._on_close = on_close
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.lost = 0

    def put(self, happening: AnyHappening) -> None:
        """One more happening."""
        self.lost += len(self._queue) == _MAX_QUEUED
        self._queue.append(happening)
        self._wake()

    def close(self) -> None:
        """Nothing comes any more, and what is queued is forgotten."""
        self._closed = True
        self._queue.clear()
        self._on_close(self)
        self._wake()

    def __aiter__(self) -> "HappeningStream":
        return self

    async def __anext__(self) -> AnyHappening:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        happening = self._queue.popleft()
        if isinstance(happening, Ended):
            self.close()
        return happening

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
