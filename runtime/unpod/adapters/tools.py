"""Tools: plain Python functions that a model may call.

A function's signature is the tool's schema, its docstring the description that the model reads. Two parameters are not
the model's: `context` gets the call's context, `idempotency_key` a string that is the same when the tool runs again
because its process died inside it. Whatever goes wrong in a tool is told to the model; the call goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, TypeAlias

import msgspec

from unpod.adapters.call_scope import call_scope
from unpod.adapters.pieces import ToolCall, ToolResult, plain
from unpod.errors import ConfigurationError, LogError, StepFailed
from unpod.user_code import DaemonThreads, TimedOut, bounded, is_theirs

TIMEOUT_S: Final = 15.0
THREADS: Final = 256
"""How many sync tools of a process run at once; those that hang count."""
_GIVEN: Final = ("context", "idempotency_key")
_SHOWN_CHARS: Final = 200
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Schema: TypeAlias = dict[str, Any]

_threads: Final = DaemonThreads(THREADS, "unpod-tool")


class AnyTool(Protocol):
    """What an adapter can offer to its model."""

    @property
    def name(self) -> str:
        """What the model calls it by."""
        ...

    @property
    def description(self) -> str:
        """When and what for to use it, for the model."""
        ...

    @property
    def parameters(self) -> Schema:
        """JSON schema of its arguments, an object."""
        ...

    @property
    def timeout_s(self) -> float:
        """How long the model waits for it."""
        ...

    async def run(self, arguments: object, *, context: Mapping[str, object], idempotency_key: str) -> object:
        """Do it, and return what the model shall read (anything that JSON can hold).

        Raises:
            Exception: the model is told its type and text.
        """
        ...


class Tool:
    """A plain function, sync or async, as a tool; a sync one runs in a thread, so that it holds up no call.

    Raises:
        ConfigurationError: its signature says not enough for a schema; the text names the parameter.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._function = function
        self.name: str = name or str(getattr(function, "__name__", type(function).__name__))
        self.description = description if description is not None else inspect.getdoc(function) or ""
        self.timeout_s = timeout_s
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"{self.name!r} is no name that a model can call: give it Tool(..., name=...)")
        signature = inspect.signature(function)
        self._given = [given for given in _GIVEN if given in signature.parameters]
        self._arguments = _arguments(self.name, function, signature)
        self.parameters = _schema(self.name, self._arguments)

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    async def run(self, arguments: object, *, context: Mapping[str, object], idempotency_key: str) -> object:
        """Call the function with the model's arguments, checked against its signature.

        Raises:
            ValueError: they do not fit.
            Exception: whatever the function raises.
        """
        fitting = msgspec.convert(arguments, self._arguments, strict=False)
        named = {name: getattr(fitting, name) for name in fitting.__struct_fields__}
        given = {"context": dict(context), "idempotency_key": idempotency_key}
        named.update((name, given[name]) for name in self._given)
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**named)
        call = functools.partial(contextvars.copy_context().run, self._function, **named)
        result = await asyncio.get_running_loop().run_in_executor(_threads, call)
        return await result if inspect.isawaitable(result) else result


class ToolSet:
    """The tools of one adapter, by name."""

    def __init__(self, tools: Iterable[Callable[..., object] | AnyTool] = ()) -> None:
        self._tools: dict[str, AnyTool] = {}
        self._sources: dict[Source, list[str]] = {}
        for given in tools:
            self.add(given if _is_tool(given) else Tool(typing.cast("Callable[..., object]", given)))

    def __bool__(self) -> bool:
        return bool(self._tools)

    def __iter__(self) -> typing.Iterator[AnyTool]:
        return iter(self._tools.values())

    def add(self, tool: object) -> None:
        """Offer one more.

        Raises:
            ConfigurationError: there is one of that name.
        """
        if not _is_tool(tool):
            raise ConfigurationError(f"{tool!r} is no tool: it has no name, description, parameters and run()")
        if tool.name in self._tools:
            raise ConfigurationError(f"two tools are named {tool.name!r}: give one of them Tool(..., name=...)")
        self._tools[tool.name] = tool

    def follow(self, source: Source) -> None:
        """Offer what `source` returns, too; it is asked before each request, and returns None where nothing is new."""
        self._sources[source] = []

    async def refresh(self) -> None:
        """Ask where tools may have changed.

        Raises:
            AdapterError: a server's are not known.
            ConfigurationError: two have one name.
        """
        for source, names in self._sources.items():
            found = await source()
            if found is not None:
                for name in names:
                    del self._tools[name]
                names.clear()
                for tool in found:
                    self.add(tool)
                    names.append(tool.name)

    async def call(self, call: ToolCall) -> ToolResult:
        """Run what the model asks for, once in all processes, and return what it shall read; never raises.

        Raises:
            LogError: the session cannot store what came of it, as when another process has taken the call over.
        """
        tool = self._tools.get(call.name)
        if tool is None:
            return _error(call, f"there is no tool {call.name!r}; there are: {', '.join(self._tools) or 'none'}")
        arguments = {} if call.arguments is None else call.arguments
        if not isinstance(arguments, Mapping):
            return _error(call, f"nothing was done: the arguments must be one JSON object, not {_shown(arguments)}")
        try:
            return ToolResult(call.name, await _journaled(tool, arguments), call.call_id)
        except LogError:
            raise
        except StepFailed as failed:
            return _error(call, f"{failed.error_type}: {failed.error}")
        except BaseException as error:  # a tool may raise anything; the model is told
            if not is_theirs(error):
                raise
            return _error(call, f"{type(error).__name__}: {error}")


async def _journaled(tool: AnyTool, arguments: object) -> object:
    scope = call_scope()
    context: Mapping[str, object] = {} if scope is None else scope.context

    async def attempt(idempotency_key: str = "") -> object:
        work = tool.run(arguments, context=context, idempotency_key=idempotency_key)
        try:
            return plain(await bounded(work, tool.timeout_s, f"the tool {tool.name}"))
        except TimedOut:
            raise TimeoutError(f"it took longer than {tool.timeout_s:g} s; whether it was done is not known") from None

    if scope is None:
        return await attempt()
    return await scope.step(f"tool:{tool.name}", attempt)


def _shown(arguments: object) -> str:
    text = text_of(arguments)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _error(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call.name, {"error": text[:500]}, call.call_id)


def _is_tool(found: object) -> typing.TypeGuard[AnyTool]:
    return all(hasattr(found, name) for name in ("name", "description", "parameters", "run", "timeout_s"))


def _arguments(name: str, function: Callable[..., object], signature: inspect.Signature) -> type[msgspec.Struct]:
    """Return a Struct with the function's parameters, as the model is to fill them in."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"tool {name}: its type hints cannot be read: {error}") from None
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in signature.parameters.values():
        if parameter.name in _GIVEN:
            continue
        if parameter.kind not in _NAMED:
            raise ConfigurationError(f"tool {name}: {parameter} has no name that a model could fill in")
        if parameter.name not in hints:
            raise ConfigurationError(f"tool {name}: its parameter {parameter.name!r} needs a type hint")
        kind = _described(hints[parameter.name])
        required = parameter.default is parameter.empty
        fields.append((parameter.name, kind) if required else (parameter.name, kind, _default(parameter.default)))
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)


def _default(value: object) -> Any:  # noqa: ANN401 - what defstruct takes
    """Return a default; a plain one stands in the schema, too."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return msgspec.field(default_factory=lambda: value)


def _described(hint: Any) -> Any:  # noqa: ANN401 - a type hint may be anything
    """Let `Annotated[str, "what it is for"]` be what msgspec understands."""
    if typing.get_origin(hint) is not Annotated:
        return hint
    kind, *extras = typing.get_args(hint)
    made = [msgspec.Meta(description=extra) if isinstance(extra, str) else extra for extra in extras]
    return Annotated[(kind, *made)]


def _schema(name: str, arguments: type[msgspec.Struct]) -> Schema:
    try:
        whole = msgspec.json.schema(arguments)
    except TypeError as error:
        raise ConfigurationError(f"tool {name}: {error}") from None
    others: dict[str, Any] = dict(whole.get("$defs", {}))
    schema: Schema = dict(others.pop(arguments.__name__))
    schema.pop("title", None)
    return {**schema, "$defs": others} if others else schema


def called(name: str, arguments: str, call_id: str) -> ToolCall:
    """Return a model's call whose arguments came as JSON text; no text and null mean none.

    What is no JSON stays text, so that nothing runs and the model is told.
    """
    try:
        found: object = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found = arguments
    return ToolCall(name, {} if found is None else found, call_id)


def text_of(result: object) -> str:
    """Return a tool's result as the model reads it."""
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()


Source: TypeAlias = Callable[[], Awaitable[Sequence[AnyTool] | None]]

Tools: TypeAlias = Sequence[Callable[..., object] | AnyTool]
