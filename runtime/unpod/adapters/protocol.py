"""What an adapter must be able to do, and the check that says what is missing.

Required: `stream`, `turn`, `assist`. Optional, looked for by name:

- `mark_interrupted(heard)`: the caller cut in and heard `heard` of the last reply (None: nobody knows); the adapter
  cuts its memory to that.
- `register_llm_callback(fn)`: call `fn(**fields)` after each model call, fields as in `pieces.LLMCall`.
- `is_complete`, attribute, property or method: true once the conversation is over; the call then ends with `completed`.
- `state`: a mapping that shows where the dialog stands. `node_id` in it is the `to_node` of a turn that ends; its
  `from_node`, or the `node_id` when the turn began, is where that came from. A session reads nothing else of it.
- `continue_reply(text, said)`: as `stream` (`context` and `language` included), but another process had begun the
  reply, and the caller has heard `said` of it: yield only what comes after.
- `restore(history)`: take up a conversation that another process had; a list of `pieces.ChatMessage`.

All of these, and `assist`, may be `async` or not (`is_complete` must not).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any, Protocol, TypedDict, runtime_checkable

_REQUIRED = {
    "stream": "`async def stream(self, text)` yields the reply piece by piece",
    "turn": "`async def turn(self, text) -> str` returns the reply as a whole",
    "assist": "`def assist(self, text)` takes a note for the next turn",
}
_OPTIONAL = ("mark_interrupted", "register_llm_callback", "continue_reply", "restore")
_OFFERED = ("context", "language")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ReplyContext(TypedDict):
    """What an adapter is told with each text: fields of the `CallContext`, and the number of the turn."""

    call_id: str
    session_id: str
    direction: str
    user_number: str
    instructions: str | None
    data: dict[str, object]
    turn_number: int


@runtime_checkable
class DialogAdapter(Protocol):
    """An adapter: what `session.dialog_machine` takes."""

    def stream(self, text: str, /, *args: Any, **kwargs: Any) -> AsyncIterable[Any] | Awaitable[AsyncIterable[Any]]:  # noqa: ANN401
        """Answer what the caller said, in pieces that are spoken as they come: `str`, or a report (`pieces.Piece`).

        An async generator, or a coroutine that returns an async iterator. The call's `context` (a `ReplyContext`)
        and the turn's `language` (a tag, or None) are passed by name where the method takes them. When the caller
        cuts in, the iterator is closed: a generator sees `GeneratorExit` or `asyncio.CancelledError`, and its
        `finally` must stop the provider.
        """
        ...

    def turn(self, text: str, /, *args: Any, **kwargs: Any) -> Awaitable[str]:  # noqa: ANN401
        """Answer as a whole; for tests and text channels, never called on a call."""
        ...

    def assist(self, text: str, /) -> object:
        """Take a note of the system's (never spoken) into account from the next turn on."""
        ...


def problem_with(adapter: object) -> str | None:
    """Return what keeps an object from being a dialog adapter, as a sentence that says how to mend it, or None."""
    if inspect.isclass(adapter):
        return f"{adapter.__name__} is a class; assign an instance of it, such as {adapter.__name__}()"
    name = type(adapter).__name__
    missing = [method for method in _REQUIRED if not callable(getattr(adapter, method, None))]
    if missing:
        lacks = " and no ".join(f"{method}()" for method in missing)
        return f"{name} has no {lacks}; " + "; ".join(_REQUIRED[method] for method in missing)
    for method in _OPTIONAL:
        found = getattr(adapter, method, None)
        if found is not None and not callable(found):
            return f"{name}.{method} is not a method; leave it out or make it one"
    if inspect.iscoroutinefunction(inspect.getattr_static(adapter, "is_complete", None)):
        return f"{name}.is_complete must not be async; make it a property or a plain method"
    return _problem_with_call(name, adapter)


def accepted_options(stream: Callable[..., object]) -> frozenset[str]:
    """Return which of `context` and `language` a `stream` takes by name; all where it takes `**kwargs`."""
    signature = _signature(stream)
    if signature is None:
        return frozenset()
    parameters = signature.parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset(_OFFERED)
    return frozenset(p.name for p in parameters if p.kind in _NAMED) & frozenset(_OFFERED)


def _problem_with_call(name: str, adapter: object) -> str | None:
    stream: Callable[..., object] = getattr(adapter, "stream")  # noqa: B009 - an `object` has no such attribute for mypy
    signature = _signature(stream)
    if signature is None:
        return None
    try:
        signature.bind("", **dict.fromkeys(accepted_options(stream)))
    except TypeError as error:
        offered = " and ".join(f"`{option}`" for option in _OFFERED)
        return f"{name}.stream() cannot be called: {error}; it gets the text, and {offered} if it names them"
    return None


def _signature(stream: Callable[..., object]) -> inspect.Signature | None:
    """Return the signature of a `stream`; of a method it is found out once, rather than for each call's adapter."""
    function = stream.__func__ if isinstance(stream, MethodType) else None
    # One with a closure, of a class within an entrypoint, would be kept together with what it closes over: a call.
    if isinstance(function, FunctionType) and function.__closure__ is None:
        return _of_function(function)
    return _found_out(stream)


@lru_cache(maxsize=256)
def _of_function(function: Callable[..., object]) -> inspect.Signature | None:
    return _found_out(MethodType(function, object()))


def _found_out(stream: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(stream)
    except (TypeError, ValueError):  # builtins and extension types may have none
        return None
