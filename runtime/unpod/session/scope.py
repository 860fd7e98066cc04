"""On whose behalf code runs: what a command's id is derived from.

Each handler (the entrypoint, a hook, a task) runs in a scope of its own: what caused it, its name, and how often it has
used each verb. The scope travels with the code in a context variable, so verbs need no extra argument.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from unpod.core.ids import MAIN_HANDLER, command_id, step_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scope:
    """One handler at work on one cause."""

    __slots__ = ("_uses", "cause", "handler")

    def __init__(self, cause: str, handler: str) -> None:
        self.cause = cause
        self.handler = handler
        self._uses: Counter[str] = Counter()

    def command_id(self, session_id: str, verb: str) -> str:
        """Return the id of the next use of `verb` in this scope."""
        identifier = self.peek(session_id, verb)
        self._uses[verb] += 1
        return identifier

    def peek(self, session_id: str, verb: str) -> str:
        """Return the same without using it."""
        return command_id(session_id, self.cause, self.handler, verb, self._uses[verb])

    def step_id(self, session_id: str, name: str) -> str:
        """Return the id of the next journaled step of that name in this scope."""
        use = f"step:{name}"
        nth = self._uses[use]
        self._uses[use] += 1
        return step_id(session_id, self.cause, self.handler, name, nth)


_current: ContextVar[Scope | None] = ContextVar("unpod_scope", default=None)


def current(main: Scope) -> Scope:
    """Return the scope of the running code, `main` outside any handler."""
    return _current.get() or main


def main_scope() -> Scope:
    """Return the scope of a session's entrypoint."""
    return Scope("", MAIN_HANDLER)


@contextmanager
def entered(scope: Scope) -> Iterator[Scope]:
    """Run the body in `scope`."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)
