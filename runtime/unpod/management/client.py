"""The management clients: act on live sessions from a backend or an operator's tool."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from unpod.management.blocking import BlockingSessions
from unpod.management.sessions import Sessions
from unpod.management.settings import resolve
from unpod.management.transport import HttpTransport

T = TypeVar("T")

_TIMEOUT_S = 10.0


class AsyncClient:
    """The management API, for code in an event loop; `async with` closes its connections.

    What is not passed comes from the environment: `UNPOD_API_KEY` (but `UNPOD_PLATFORM_TOKEN` wins over any key),
    `UNPOD_SERVICE_BASE_URL` or `UNPOD_BASE_URL`, `UNPOD_ORCHESTRATOR_BASE_URL`.

    Raises:
        ConfigurationError: there is no credential, or a base URL cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        orchestrator_base_url: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        settings = resolve(api_key, base_url, orchestrator_base_url, os.environ)
        self._transport = HttpTransport(settings.headers, timeout_s)
        self.sessions = Sessions(self._transport, settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()


class Client:
    """The management API, for code without an event loop; `with` closes its connections.

    Arguments and errors are `AsyncClient`'s. May be used from several threads; requests go one at a time.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        orchestrator_base_url: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._client = AsyncClient(api_key, base_url, orchestrator_base_url, timeout_s=timeout_s)
        # A loop of its own, which is not made the thread's: what else runs in the process must not notice.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._lock = threading.Lock()
        self._used = False
        self._closed = False
        self.sessions = BlockingSessions(self._client.sessions, self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        if self._used and not self._closed:
            self._run(self._client.close())
            self._runner.close()
        self._closed = True

    def _run(self, request: Coroutine[Any, Any, T]) -> T:
        problem = "unpod.Client is closed" if self._closed else _problem_here()
        if problem is not None:
            request.close()
            raise RuntimeError(problem)
        with self._lock:
            self._used = True
            return self._runner.run(request)


def _problem_here() -> str | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return "unpod.Client blocks, so it cannot be used inside a running event loop; use unpod.AsyncClient and `await`"
