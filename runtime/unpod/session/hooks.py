"""Hooks: what a developer wants to be told of.

The hooks of one event run one after the other, in order of registration. One that raises is logged by its name and
reported, and harms nothing; the next one runs.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from unpod.errors import UnknownEvent
from unpod.session.scope import Scope, entered
from unpod.user_code import is_theirs

logger = logging.getLogger("unpod.session")

HookFunction = Callable[..., Awaitable[object] | object]
F = TypeVar("F", bound=HookFunction)
Runs = Callable[[bool | None], bool]
"""Tells of a hook, by the `replay` of its registration, whether it runs."""

EVENTS: dict[str, str] = {
    "call_start": "()",
    "user_turn": "(text)",
    "user_partial": "(text)",
    "agent_turn": "(text)",
    "tool_call": "(name, arguments, call_id)",
    "tool_result": "(name, result, call_id)",
    "silence": "(seconds)",
    "interruption": "()",
    "metric": "(event)",
    "state": "(event)",
    "error": "(code, message, severity, source)",
    "llm_call": "(**fields)",
    "turn_complete": "(**fields)",
    "call_end": "(reason)",
}
"""Each event of a session with the arguments that its hooks are given."""


class Report(Protocol):
    """Told of a hook that raised."""

    def __call__(self, event: str, function: str, error: BaseException) -> None:
        """Record it."""


def every(_: bool | None) -> bool:  # noqa: FBT001 - what a hook was registered with
    """Run every hook (`Runs`)."""
    return True


def name_of(function: HookFunction) -> str:
    """Return a function's name for people: its qualified name without `<locals>`."""
    inner = inspect.unwrap(function)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return str(name).replace(".<locals>", "")


class Hooks:
    """The hooks of one session."""

    def __init__(self, events: Mapping[str, str] = EVENTS) -> None:
        self._events = events
        self._functions: dict[str, list[tuple[HookFunction, bool | None]]] = {}
        self.running: dict[str, str] = {}
        """The name of the function that runs, or ran last, for each event."""

    def on(self, event: str, *, replay: bool | None = None) -> Callable[[F], F]:
        """Return a decorator that registers a function, sync or async, for `event`.

        `replay` says whether it runs again when another runner takes the call over; None is the event's own rule.

        Raises:
            UnknownEvent: there is no such event; the text lists those there are.
        """
        if event not in self._events:
            known = ", ".join(f"{name}{arguments}" for name, arguments in self._events.items())
            msg = f"no event {event!r}; the events are: {known}"
            raise UnknownEvent(msg)

        def register(function: F) -> F:
            self._functions.setdefault(event, []).append((function, replay))
            return function

        return register

    def clear(self) -> None:
        """Let go of all functions."""
        self._functions.clear()

    def has(self, event: str, runs: Runs = every) -> bool:
        """Whether anybody wants to be told of `event`."""
        functions = self._functions.get(event)
        return functions is not None and any(runs(replay) for _, replay in functions)

    async def fire(
        self,
        event: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        *,
        cause: str,
        report: Report,
        runs: Runs = every,
        begun: Callable[[Scope], None] = lambda _: None,
    ) -> None:
        """Run the hooks of `event`, each in a scope of its own, which `begun` is told of."""
        seen: dict[str, int] = {}
        for function, replay in tuple(self._functions.get(event, ())):
            name = name_of(function)
            nth = seen[name] = seen.get(name, -1) + 1
            if not runs(replay):
                continue
            self.running[event] = name
            with entered(Scope(cause, f"{event}:{name}:{nth}")) as scope:
                begun(scope)
                try:
                    result = function(*args, **kwargs)
                    if inspect.isawaitable(result):
                        await result
                except BaseException as error:
                    if not is_theirs(error):
                        raise
                    report(event, name, error)
                finally:
                    scope.loose = True
