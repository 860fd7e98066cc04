"""What a reply is made of: text to be spoken, and what a brain reports of its work on the way.

An adapter's stream yields text, and may yield reports between: that it calls a tool, what the tool returned, what a
model call took. Reports are recorded and fire the hooks of the same name; they are never spoken.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

import msgspec
from msgspec import Struct
from msgspec.structs import replace


class ToolCall(Struct, frozen=True):
    """The brain calls a tool; fires `tool_call(name, arguments, call_id)`."""

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


Piece: TypeAlias = str | ToolCall | ToolResult | LLMCall
"""What `AdapterView.open` yields."""


class ChatMessage(TypedDict):
    """One message of a conversation, as `restore(history)` gets them in order."""

    role: Literal["user", "assistant", "system"]
    content: str


def storable(piece: ToolCall | ToolResult | LLMCall) -> ToolCall | ToolResult | LLMCall:
    """Return a report whose values can stand in the log: what JSON does not know becomes its `str()`."""
    match piece:
        case ToolCall():
            return replace(piece, arguments=plain(piece.arguments))
        case ToolResult():
            return replace(piece, result=plain(piece.result))
        case LLMCall():
            if piece.prompt_messages is None and piece.response_json is None:
                return piece
            return replace(
                piece, prompt_messages=plain(piece.prompt_messages), response_json=plain(piece.response_json)
            )


def plain(value: object) -> object:
    """Return `value` as JSON would give it back; a value that cannot be written at all becomes the name of its type."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return f"<{type(value).__name__}>"
