"""On whose behalf code runs: what a command's id is derived from.

Each handler (the entrypoint, a hook, a task) runs in a scope of its own: what caused it, its name, and how often it has
used each verb. The scope travels with the code in a context variable, so verbs need no extra argument.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from unpod.core.ids import MAIN_HANDLER, command_id, step_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scope:
    """One handler at work on one cause.

    `loose`: nobody waits for what runs in it (a task, or what a hook has left running), so after a crash it is not
    known whether it had come to its end.
    """

    __slots__ = ("_uses", "cause", "handler", "loose")

    def __init__(self, cause: str, handler: str, *, loose: bool = False) -> None:
        self.cause = cause
        self.handler = handler
        self.loose = loose
        self._uses: dict[str, int] = {}

    def command_id(self, session_id: str, verb: str) -> str:
        """Return the id of the next use of `verb` in this scope."""
        return command_id(session_id, self.cause, self.handler, verb, self._next(verb))

    def peek(self, session_id: str, verb: str) -> str:
        """Return the same without using it."""
        return command_id(session_id, self.cause, self.handler, verb, self._uses.get(verb, 0))

    def step_id(self, session_id: str, name: str) -> str:
        """Return the id of the next journaled step of that name in this scope."""
        return step_id(session_id, self.cause, self.handler, name, self._next(f"step:{name}"))

    def task(self, name: str) -> Scope:
        """Return the scope of the next task of that name that is begun in this one."""
        return Scope(self.cause, f"{self.handler}/task:{name}:{self._next(f'task:{name}')}", loose=True)

    def _next(self, use: str) -> int:
        nth = self._uses.get(use, 0)
        self._uses[use] = nth + 1
        return nth


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
