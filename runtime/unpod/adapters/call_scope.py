"""What an adapter's code may use of the call that it answers on: set by the session around each reply.

Outside a session (a test, a text channel) there is none, and tools run just so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from unpod.adapters.pieces import Piece, ToolCall

Attempt = Callable[[str], Awaitable[object]]
"""Does something once; the argument is an idempotency key."""


class CallScope(Protocol):
    """The call that a reply is made for."""

    @property
    def context(self) -> Mapping[str, object]:
        """The call's context, as `stream` gets it."""
        ...

    @property
    def earlier(self) -> Sequence[ToolCall]:
        """The tools that another process has begun to use for this very reply, in order."""
        ...

    def is_reported(self, call: ToolCall) -> bool:
        """Whether the result of one of the earlier calls is recorded."""
        ...

    async def step(self, name: str, attempt: Attempt) -> object:
        """Do something once in all processes that ever own the call, and return its result.

        Raises:
            StepFailed: it raised, now or in another process.
        """
        ...

    @property
    def saved(self) -> object:
        """What the adapter last saved on an earlier turn in the process that had the call before; None if nothing."""
        ...

    def save(self, state: object) -> None:
        """Store what the adapter needs in another process beside the conversation; JSON must be able to hold it."""
        ...

    def report(self, piece: Piece) -> None:
        """Report what comes about after the reply has been cut."""
        ...

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what is to be finished though the caller cuts in, until the session closes."""
        ...


_scope: ContextVar[CallScope | None] = ContextVar("unpod_call_scope", default=None)


def call_scope() -> CallScope | None:
    """Return the call that the running code answers on, or None."""
    return _scope.get()


@contextmanager
def in_call(scope: CallScope) -> Iterator[None]:
    """Run the body on behalf of a call."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
