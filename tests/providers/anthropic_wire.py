"""The wire of Anthropic's messages."""

from __future__ import annotations

import json

from anthropic import AsyncAnthropic
from tests.providers.served import Json, Vendor

from unpod.adapters import ToolCall


class AnthropicWire:
    path = "/v1/messages"
    content_type = "text/event-stream"

    def __init__(self, usage: Json | None = None) -> None:
        self.usage = usage or {"input_tokens": 13, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 0}

    def head(self) -> list[bytes]:
        message: Json = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-tiny-2025",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**self.usage, "output_tokens": 1},
        }
        return [event("message_start", message=message), event("ping")]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            start: Json = {"type": "text", "text": ""}
            deltas: list[Json] = [{"type": "text_delta", "text": piece}]
        else:
            arguments = json.dumps(piece.arguments)
            half = len(arguments) // 2
            start = {"type": "tool_use", "id": piece.call_id, "name": piece.name, "input": {}}
            deltas = [
                {"type": "input_json_delta", "partial_json": part} for part in (arguments[:half], arguments[half:])
            ]
        return [
            event("content_block_start", index=nth, content_block=start),
            *(event("content_block_delta", index=nth, delta=delta) for delta in deltas),
            event("content_block_stop", index=nth),
        ]

    def end(self, *, tools: bool) -> list[bytes]:
        delta = {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
        return [event("message_delta", delta=delta, usage={"output_tokens": 5}), event("message_stop")]


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def anthropic_client(vendor: Vendor) -> AsyncAnthropic:
    return AsyncAnthropic(api_key="any", base_url=vendor.url, max_retries=0, timeout=30.0)
