"""The wire of OpenAI's chat completions, and what its server refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from openai import AsyncOpenAI, DefaultAsyncHttpx2Client
from tests.providers.served import Json, Refused, Vendor, data

from unpod.adapters import ToolCall

NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
LONGEST_ID: Final = 40


class OpenAIWire:
    """OpenAI itself; the imitations of it are subclasses (`imitations`)."""

    path = "/v1/chat/completions"
    content_type = "text/event-stream"

    def __init__(self, usage: Json | None = None) -> None:
        self.usage = usage or {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}
        self.counts = True

    # --- what it sends ------------------------------------------------------------------------------------------------

    def head(self) -> list[bytes]:
        return [data(chunk({"role": "assistant", "content": ""}))]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return [data(chunk({"content": piece}))]
        arguments = written(piece)
        half = len(arguments) // 2
        function = {"name": piece.name, "arguments": arguments[:half]}
        first = {"index": nth, "id": piece.call_id, "type": "function", "function": function}
        rest = {"index": nth, "function": {"arguments": arguments[half:]}}
        return [data(chunk({"tool_calls": [first]})), data(chunk({"tool_calls": [rest]}))]

    def end(self, *, tools: bool) -> list[bytes]:
        counted = [data({**chunk({}), "choices": [], "usage": self.usage})] if self.counts else []
        return [data(chunk({}, "tool_calls" if tools else "stop")), *counted, b"data: [DONE]\n\n"]

    # --- what it refuses ----------------------------------------------------------------------------------------------

    def check(self, body: Json) -> None:
        """Refuse what OpenAI refuses: its API reference, and the reports that are named."""
        self.counts = bool((body.get("stream_options") or {}).get("include_usage"))  # API reference: only where asked
        # MoonshotAI/kimi-cli#2320, Aider-AI/aider#3693: half a character is no UTF-8, hence the body no JSON.
        self._hold(not _has_halves(body), "could not parse the JSON body of your request")
        messages = body.get("messages")
        self._hold(isinstance(messages, list) and messages, "[] is too short - 'messages'")
        assert isinstance(messages, list)
        self._offers(body)
        for message in messages:
            self.message(message)
        self.order(messages)

    def message(self, message: Json) -> None:
        """Check one message by itself."""
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        self._hold(role in {"system", "developer", "user", "assistant", "tool"}, f"invalid role {role!r}")
        # API reference: an assistant's content is optional with tool_calls; all other content is required.
        self._hold(isinstance(content, str) or calls, "invalid value for 'content': expected a string, got null")
        self._hold(calls is None or (role == "assistant" and calls), "[] is too short - 'tool_calls'")
        for call in calls or ():
            function = call.get("function") or {}
            self._hold(call.get("type") == "function", "missing 'type' of a tool call")
            # Portkey-AI/gateway#1062
            self._hold(0 < len(call.get("id") or "") <= LONGEST_ID, "'tool_calls[0].id': empty, or string too long")
            # API reference; vercel/ai#17769
            self._hold(NAME.fullmatch(function.get("name") or ""), "'function.name' does not match the pattern")
            self._hold(isinstance(function.get("arguments"), str), "'function.arguments' is not of type 'string'")

    def order(self, messages: Sequence[Json]) -> None:
        """Check that each call of a tool is answered at once, and nothing else is: langgenius/dify#32222."""
        owed: list[str] = []
        for message in messages:
            if message["role"] == "tool":
                self._hold(message.get("tool_call_id") in owed, "a message of role 'tool' must answer 'tool_calls'")
                owed.remove(message["tool_call_id"])
            else:
                self._hold(not owed, f"'tool_calls' must be followed by tool messages for each id: {owed}")
                owed = [call["id"] for call in message.get("tool_calls") or ()]
                self._hold(len(set(owed)) == len(owed), "duplicate ids in 'tool_calls'")
        self._hold(not owed, f"'tool_calls' must be followed by tool messages for each id: {owed}")

    def _offers(self, body: Json) -> None:
        tools = body.get("tools")
        self._hold(tools is None or tools, "[] is too short - 'tools'")
        self._hold(tools or "tool_choice" not in body, "'tool_choice' is only allowed when 'tools' are specified")
        for tool in tools or ():
            self._hold(NAME.fullmatch(tool["function"]["name"]), "'tools[0].function.name' does not match the pattern")

    def _hold(self, kept: object, reason: str) -> None:
        if not kept:
            self.refuse(reason)

    def refuse(self, reason: str, status: int = 400) -> NoReturn:
        """Answer as this vendor does.

        Raises:
            Refused: always.
        """
        error: Json = {"message": reason, "type": "invalid_request_error", "param": "messages", "code": None}
        raise Refused(status, {"error": error}, reason)


def chunk(delta: Json, finish_reason: str | None = None) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny-2025",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def written(call: ToolCall) -> str:
    """Return the arguments as a model has written them: text is what it wrote, well or badly."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def _has_halves(body: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(body, str):
        return any("\ud800" <= character <= "\udfff" for character in body)
    if isinstance(body, dict):
        return any(map(_has_halves, body.values()))
    return isinstance(body, list) and any(map(_has_halves, body))


def openai_client(vendor: Vendor) -> AsyncOpenAI:
    http = DefaultAsyncHttpx2Client(verify=False)  # reading certificates takes a tenth of a second, and none is shown
    return AsyncOpenAI(api_key="any", base_url=f"{vendor.url}/v1", max_retries=0, timeout=30.0, http_client=http)
