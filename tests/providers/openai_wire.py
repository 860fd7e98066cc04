"""The wire of OpenAI's chat completions."""

from __future__ import annotations

import json

from openai import AsyncOpenAI
from tests.providers.served import Json, Vendor, data

from unpod.adapters import ToolCall


class OpenAIWire:
    path = "/v1/chat/completions"
    content_type = "text/event-stream"

    def __init__(self, usage: Json | None = None) -> None:
        self.usage = usage or {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}

    def head(self) -> list[bytes]:
        return [data(chunk({"role": "assistant", "content": ""}))]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return [data(chunk({"content": piece}))]
        arguments = json.dumps(piece.arguments)
        half = len(arguments) // 2
        function = {"name": piece.name, "arguments": arguments[:half]}
        first = {"index": nth, "id": piece.call_id, "type": "function", "function": function}
        rest = {"index": nth, "function": {"arguments": arguments[half:]}}
        return [data(chunk({"tool_calls": [first]})), data(chunk({"tool_calls": [rest]}))]

    def end(self, *, tools: bool) -> list[bytes]:
        last = chunk({}, "tool_calls" if tools else "stop")
        return [data(last), data({**chunk({}), "choices": [], "usage": self.usage}), b"data: [DONE]\n\n"]


def chunk(delta: Json, finish_reason: str | None = None) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny-2025",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def openai_client(vendor: Vendor) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="any", base_url=f"{vendor.url}/v1", max_retries=0, timeout=30.0)
