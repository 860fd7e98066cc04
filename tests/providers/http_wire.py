"""HTTP services with an answer of their own: server-sent events, and text in chunks."""

from __future__ import annotations

import json

from tests.providers.served import data

from unpod.adapters import ToolCall


class EventsWire:
    path = "/brain"
    content_type = "text/event-stream"

    def head(self) -> list[bytes]:
        return [b": hello\n\n"]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, ToolCall):
            fields = {"name": piece.name, "arguments": piece.arguments, "call_id": piece.call_id}
            return [b"event: tool_call\n" + data(fields)]
        return [data({"text": piece})] if nth % 2 or not _is_whole(piece) else [f"data: {piece}\n\n".encode()]

    def end(self, *, tools: bool) -> list[bytes]:
        call = {"model": "tiny", "tokens_in": 3, "tokens_out": 2, "latency_ms": 7}
        return [b"event: llm_call\n" + data(call), b"data: [DONE]\n\n"]


class ChunksWire:
    path = "/brain"
    content_type = "text/plain; charset=utf-8"

    def head(self) -> list[bytes]:
        return []

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        return [piece.encode() if isinstance(piece, str) else b""]

    def end(self, *, tools: bool) -> list[bytes]:
        return []


class JsonWire(ChunksWire):
    content_type = "application/json"

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        return [json.dumps({"text": piece}).encode()]


def _is_whole(text: str) -> bool:
    """Whether it can be sent as it is: half a character only JSON can say."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
