"""What a reply is made of: text to be spoken, and what an adapter reports of its work on the way.

An adapter's stream yields text, and may yield reports between: that it calls a tool, what the tool returned, what a
model call took. Reports are recorded and fire the hooks of the same name; they are never spoken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, NotRequired, TypeAlias, TypedDict, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from unpod.errors import AdapterError

_MAX_BYTES: Final = 256 * 1024  # of one value in a report; a record has 1 MiB, and a tool may return a document
_BODIES = ("prompt_messages", "response_json")
_FIGURES = ("latency_ms", "ttft_ms", "cost")


class ToolCall(Struct, frozen=True):
    """The adapter calls a tool; fires `tool_call(name, arguments, call_id)`."""

    name: str
    arguments: object = None
    call_id: str = ""


class ToolResult(Struct, frozen=True):
    """A tool has returned; fires `tool_result(name, result, call_id)`."""

    name: str
    result: object = None
    call_id: str = ""


class LLMCall(Struct, frozen=True, kw_only=True):
    """A model call is over; fires `llm_call(**fields)`.

    Times in milliseconds, `cost` in US dollars. `tokens_in` includes `cached` (read from the provider's prompt cache)
    and `cache_write`; `estimated` where the provider did not count.
    """

    model: str | None = None
    provider: str | None = None
    call_type: str | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    cache_write: int = 0
    estimated: bool = False
    cost: float | None = None
    node_id: str | None = None
    edge_id: str | None = None
    prompt_messages: object = None
    response_json: object = None


R = TypeVar("R", ToolCall, ToolResult, LLMCall)

Piece: TypeAlias = str | ToolCall | ToolResult | LLMCall
"""What `AdapterView.open` yields."""


class UsedTool(TypedDict):
    """A tool that the adapter has used; without `result` where it had not returned."""

    name: str
    arguments: object
    call_id: str
    result: NotRequired[object]


class ChatMessage(TypedDict):
    """One message of a conversation, as `restore(history)` gets them in order.

    An assistant's message names in `tools` what was used for it; its `content` is "" where nothing was said.
    """

    role: Literal["user", "assistant", "system"]
    content: str
    tools: NotRequired[list[UsedTool]]


def told(message: ChatMessage) -> str:
    """Return a message as a text for an adapter that takes no tools' results back."""
    said = [message["content"]] if message["content"] else []
    for tool in message.get("tools", ()):
        came = _json(tool["result"]) if "result" in tool else "nothing yet"
        said.append(f"[used {tool['name']}({_json(tool['arguments'])}); it returned {came}]")
    return " ".join(said)


def storable(report: ToolCall | ToolResult | LLMCall) -> ToolCall | ToolResult | LLMCall:
    """Return a report that can stand in the log: what JSON does not know in it becomes its `str()`.

    Raises:
        AdapterError: a field has another type than the report's class says.
    """
    match report:
        case ToolCall():
            return _fitting({"arguments": plain(report.arguments), **_labels(report)}, ToolCall)
        case ToolResult():
            return _fitting({"result": plain(report.result), **_labels(report)}, ToolResult)
        case LLMCall():
            return llm_call(asdict(report))


def llm_call(fields: Mapping[str, object]) -> LLMCall:
    """Return the report that an adapter made by name; fields that it left None or that nobody knows are left out.

    Raises:
        AdapterError: a field has another type than `LLMCall` says, or a figure is infinite or no number: JSON has
            neither, and one of them would spoil every sum that it goes into.
    """
    given = {name: fields[name] for name in LLMCall.__struct_fields__ if fields.get(name) is not None}
    report = _fitting(given | {name: plain(given[name]) for name in _BODIES if name in given}, LLMCall)
    for name in _FIGURES:
        figure: float | None = getattr(report, name)
        if figure is not None and not math.isfinite(figure):
            raise AdapterError(f"LLMCall: {name} must be a finite number, got {figure}", code="bad_report")
    return report


def plain(value: object) -> object:
    """Return `value` as JSON would give it back; one that cannot be stored becomes the name of its type."""
    try:
        data = msgspec.json.encode(value, enc_hook=str)
        if len(data) <= _MAX_BYTES:
            return msgspec.json.decode(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return f"<{type(value).__name__}>"
    return f"<{type(value).__name__} of {len(data)} bytes>"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _labels(report: ToolCall | ToolResult) -> dict[str, object]:
    return {"name": report.name, "call_id": report.call_id or ""}


def _fitting(fields: dict[str, object], into: type[R]) -> R:
    try:
        return msgspec.convert(fields, into, strict=False)
    except msgspec.ValidationError as error:
        raise AdapterError(f"{into.__name__}: {error}", code="bad_report") from None
