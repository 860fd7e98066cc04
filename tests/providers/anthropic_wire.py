"""The wire of Anthropic's messages, and what its server refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from json import dumps
from typing import Any, Final, NoReturn

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from tests.providers.openai_wire import NAME, written
from tests.providers.served import Json, Refused, Vendor

from unpod.adapters import ToolCall

_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")


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
            arguments = written(piece)
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

    def check(self, body: Json) -> None:
        """Refuse what Anthropic refuses: its API reference, and the reports that are named."""
        self._hold(isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0, "max_tokens: Field required")
        for part in body.get("system") or ():
            self._hold(part["text"].strip(), "system: text content blocks must be non-empty")
        for tool in body.get("tools") or ():
            self._hold(NAME.fullmatch(tool["name"]), "tools.0.name: String should match the pattern")
        messages = body.get("messages") or []
        self._hold(messages, "messages: at least one message is required")
        for message in messages:
            self._hold(message["role"] in {"user", "assistant"}, f"messages: Unexpected role {message['role']!r}")
        # API reference: messages of one role after the other are one turn
        turns = [
            (role, [block for message in group for block in _blocks(message)])
            for role, group in groupby(messages, key=lambda message: str(message["role"]))
        ]
        self._hold(turns[0][0] == "user", "messages: first message must use the user role")
        for _, blocks in turns:
            self._blocks(blocks)
        self._pairs(turns)
        role, blocks = turns[-1]
        if role == "assistant" and blocks[-1]["type"] == "text":  # anthropics/claude-code#23142
            text = blocks[-1]["text"]
            self._hold(text == text.rstrip(), "final assistant content cannot end with trailing whitespace")
        if body.get("thinking", {}).get("type") == "enabled":
            self._thinks(turns)

    def _blocks(self, blocks: Sequence[Json]) -> None:
        for block in blocks:
            if block["type"] == "text":  # home-assistant/core#175637, aliasrobotics/cai#182
                self._hold(block["text"], "messages: text content blocks must be non-empty")
                self._hold(block["text"].strip(), "messages: text content blocks must contain non-whitespace text")
            elif block["type"] == "tool_use":
                self._hold(NAME.fullmatch(block["name"]), "tool_use.name: String should match the pattern")
                self._hold(_ID.fullmatch(block["id"]), "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
                self._hold(isinstance(block["input"], dict), "tool_use.input: Input should be a valid dictionary")
            elif block["type"] == "thinking":
                self._hold(
                    block["signature"] == "signed", "thinking.signature: Invalid `signature` in `thinking` block"
                )

    def _pairs(self, turns: Sequence[tuple[str, list[Json]]]) -> None:
        """Check that what was used is answered at the very start of the next turn: anthropics/claude-code#8210."""
        owed: set[str] = set()
        seen: set[str] = set()
        for _, blocks in turns:
            leading = blocks[: len(owed)]
            answered = {block.get("tool_use_id", "") for block in leading if block["type"] == "tool_result"}
            self._hold(owed == answered, f"`tool_use` ids were found without `tool_result` blocks after: {owed}")
            others = [block for block in blocks[len(owed) :] if block["type"] == "tool_result"]
            self._hold(not others, "unexpected `tool_use_id` found in `tool_result` blocks")
            used = [block["id"] for block in blocks if block["type"] == "tool_use"]
            self._hold(len({*used}) == len(used) and not seen & {*used}, "`tool_use` ids must be unique")
            owed = {*used}
            seen |= owed
        self._hold(not owed, f"`tool_use` ids were found without `tool_result` blocks immediately after: {owed}")

    def _thinks(self, turns: Sequence[tuple[str, list[Json]]]) -> None:
        """Check that the last turn of the model begins with its thinking, if it used a tool: haystack-core#2146."""
        last = next((blocks for role, blocks in reversed(turns) if role == "assistant"), [])
        uses = any(block["type"] == "tool_use" for block in last)
        begins = bool(last) and last[0]["type"] in {"thinking", "redacted_thinking"}
        self._hold(begins or not uses, "Expected `thinking` or `redacted_thinking`, but found `tool_use`")

    def _hold(self, kept: object, reason: str) -> None:
        if not kept:
            self.refuse(reason)

    def refuse(self, reason: str) -> NoReturn:
        """Answer as Anthropic does.

        Raises:
            Refused: always.
        """
        error = {"type": "invalid_request_error", "message": reason}
        raise Refused(400, {"type": "error", "error": error}, reason)


class ThinkingWire(AnthropicWire):
    """The same with extended thinking: it thinks before all that it says, signed."""

    def head(self) -> list[bytes]:
        start = event(
            "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
        )
        deltas: list[Json] = [
            {"type": "thinking_delta", "thinking": "They want it."},
            {"type": "signature_delta", "signature": "signed"},
        ]
        thinks = [event("content_block_delta", index=0, delta=delta) for delta in deltas]
        return [*super().head(), start, *thinks, event("content_block_stop", index=0)]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        return super().piece(piece, nth + 1)


def _blocks(message: Json) -> list[Any]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {dumps({'type': kind, **fields})}\n\n".encode()


def anthropic_client(vendor: Vendor) -> AsyncAnthropic:
    http = DefaultAsyncHttpxClient(verify=False)  # see openai_wire
    return AsyncAnthropic(api_key="any", base_url=vendor.url, max_retries=0, timeout=30.0, http_client=http)
