"""Servers that speak OpenAI's wire, each with an accent of its own, and each refusing what the real one refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NoReturn

from tests.providers.openai_wire import OpenAIWire, chunk, written
from tests.providers.served import Json, Refused, data

from unpod.adapters import ToolCall

_NINE: Final = re.compile(r"[a-zA-Z0-9]{9}")


class GeminiWire(OpenAIWire):
    """Gemini's OpenAI-compatible endpoint, as models that think speak there (from Gemini 3 on).

    It counts in each chunk, and ends with "stop" after tool calls, too (BerriAI/litellm#12481).
    """

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        usage = {"prompt_tokens": 21, "completion_tokens": nth, "total_tokens": 21 + nth}
        if isinstance(piece, str):
            return [data({**chunk({"role": "assistant", "content": piece}), "usage": usage})]
        # Whole, in a chunk of its own, without an index: openai/openai-python#2806, noho/dayu-agent#82.
        function = {"name": piece.name, "arguments": written(piece)}
        signature = {"google": {"thought_signature": f"signature-{piece.call_id}"}}
        call = {"id": piece.call_id, "type": "function", "function": function, "extra_content": signature}
        return [data({**chunk({"role": "assistant", "tool_calls": [call]}), "usage": usage})]

    def head(self) -> list[bytes]:
        return []

    def end(self, *, tools: bool) -> list[bytes]:
        return [data({**chunk({"role": "assistant"}, "stop"), "usage": self.usage}), b"data: [DONE]\n\n"]

    def message(self, message: Json) -> None:
        super().message(message)
        content = message.get("content")
        # ai.google.dev, Content: a part must have one initialized field; a blank text is none.
        self._hold(content is None or content.strip(), "contents.parts must not be empty")

    def order(self, messages: Sequence[Json]) -> None:
        super().order(messages)
        turns = [message for message in messages if message["role"] != "system"]
        # ikechan8370/chatgpt-plugin#733
        self._hold(turns, "GenerateContentRequest.contents: contents is not specified")
        # google-gemini/gemini-cli#26486; what is the same role's is one turn
        for before, message in pairwise([{"role": "assistant"}, *turns]):
            calls = message.get("tool_calls")
            after_the_model = before["role"] == "assistant" and not before.get("content")
            self._hold(not calls or not after_the_model, "function call turn comes immediately after a user turn")
        # crewAIInc/crewAI#6973
        self._hold(turns[-1]["role"] != "assistant", "Please ensure that the last turn is a user's")
        # ai.google.dev/gemini-api/docs/thought-signatures, "current turn": since the last text of the user
        last = max((n for n, message in enumerate(turns) if message["role"] == "user"), default=0)
        for message in turns[last:]:
            for call in message.get("tool_calls") or ():
                extra = (call.get("extra_content") or {}).get("google") or {}
                signature = extra.get("thought_signature") or ""
                self._hold(
                    signature.startswith("signature-"),
                    "Function call is missing a thought_signature in functionCall parts",
                )

    def refuse(self, reason: str, status: int = 400) -> NoReturn:
        # A list around it: TokenRhythm/opensquilla#225
        raise Refused(status, [{"error": {"code": status, "message": reason, "status": "INVALID_ARGUMENT"}}], reason)


class DeepSeekWire(OpenAIWire):
    """DeepSeek's endpoint in its thinking mode, the default: api-docs.deepseek.com/guides/thinking_mode.

    While it waits it sends comments, to keep the connection alive (api-docs.deepseek.com, rate limit).
    """

    def head(self) -> list[bytes]:
        thoughts = [chunk({"content": None, "reasoning_content": part}) for part in ("They ", "want it.")]
        first = chunk({"role": "assistant", "content": None, "reasoning_content": ""})
        return [b": keep-alive\n\n", data(first), *map(data, thoughts)]

    def message(self, message: Json) -> None:
        super().message(message)
        # "must be fully passed back to the API in all subsequent requests": anomalyco/opencode#24722; also where
        # it is empty: deepseek-ai/deepseek-harness, discussion 739
        thought = message.get("reasoning_content")
        kept = thought == self.thought or not message.get("tool_calls")
        self._hold(kept, "The `reasoning_content` in the thinking mode must be passed back to the API.")

    thought = "They want it."


class ThoughtlessDeepSeekWire(DeepSeekWire):
    """The same where the model has not thought before it calls a tool."""

    thought = ""

    def head(self) -> list[bytes]:
        return [data(chunk({"role": "assistant", "content": "", "reasoning_content": ""}))]


class MistralWire(OpenAIWire):
    """Mistral's endpoint; a model that reasons gives its content in parts (BerriAI/litellm#16272)."""

    _FIELDS: Final = frozenset(
        {"model", "messages", "stream", "tools", "tool_choice", "temperature", "max_tokens", "parallel_tool_calls"}
    )
    _MESSAGE_FIELDS: Final = frozenset({"role", "content", "tool_calls", "tool_call_id", "prefix"})
    # mistralai/mistral-common, the validator of requests; swarmauri/swarmauri-sdk#162, zed-industries/zed#37021
    _AFTER: Final = {
        "system": {"system", "user", "assistant"},
        "user": {"system", "user", "assistant"},
        "assistant": {"user", "assistant", "tool"},
        "tool": {"assistant", "tool"},
    }

    def head(self) -> list[bytes]:
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "They want it."}]}
        return [data(chunk({"role": "assistant", "content": [thought]}))]

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return [data(chunk({"content": piece if nth % 2 else [{"type": "text", "text": piece}]}))]
        function = {"name": piece.name, "arguments": written(piece)}
        call_id = piece.call_id if _NINE.fullmatch(piece.call_id or "") else f"mistral{nth:02}"
        return [data(chunk({"content": "", "tool_calls": [{"index": nth, "id": call_id, "function": function}]}))]

    def end(self, *, tools: bool) -> list[bytes]:
        # docs.mistral.ai, release note of 16 January 2024: the last chunk counts, unasked
        last = {**chunk({"content": ""}, "tool_calls" if tools else "stop"), "usage": self.usage}
        return [data(last), b"data: [DONE]\n\n"]

    def check(self, body: Json) -> None:
        # avante-corp/avante.nvim#2347 (stream_options), mistralai/platform-docs-public#7
        self._forbid("body", body, self._FIELDS)
        super().check(body)

    def message(self, message: Json) -> None:
        # charmbracelet/crush#1590 (reasoning_content), Gage-Technologies/mistral-go#2 (name)
        self._forbid(message.get("role", ""), message, self._MESSAGE_FIELDS)
        super().message(message)
        for call in message.get("tool_calls") or ():
            self._forbid("tool_calls", call, frozenset({"id", "type", "function", "index"}))  # zeroclaw#2693
            # jackmpcollins/magentic#276
            self._hold(_NINE.fullmatch(call["id"]), "Tool call id must be a-z, A-Z, 0-9, with a length of 9.")

    def order(self, messages: Sequence[Json]) -> None:
        super().order(messages)
        for before, message in pairwise(messages):
            kept = message["role"] in self._AFTER[before["role"]]
            self._hold(kept, f"Unexpected role '{message['role']}' after role '{before['role']}'")
        last = messages[-1]["role"]
        # 0xPlaygrounds/rig#1130
        self._hold(last in {"user", "tool"}, f"Expected last role User or Tool for serving but got {last}")

    def _forbid(self, where: str, found: Json, allowed: frozenset[str]) -> None:
        extra = sorted(set(found) - allowed)
        if extra:
            reason = f"Extra inputs are not permitted: {where}.{extra[0]}"
            detail = [{"type": "extra_forbidden", "loc": ["body", where, extra[0]], "msg": reason}]
            raise Refused(422, {"object": "error", "message": {"detail": detail}, "code": None}, reason)

    def refuse(self, reason: str, status: int = 400) -> NoReturn:
        body: Json = {"object": "error", "message": reason, "type": "invalid_request_message_order", "code": "3230"}
        raise Refused(status, body, reason)


class VLLMWire(OpenAIWire):
    """vLLM with a chat template that is strict, as those of Qwen, Gemma and Mistral are.

    It gives a call's id once, and the name again with each part, as vLLM's parsers and those that imitate them do
    (NousResearch/hermes-agent#8259); it counts only where it is asked to.
    """

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return super().piece(piece, nth)
        arguments = written(piece)
        cut = len(arguments) // 3
        parts: list[Json] = [
            {"index": nth, "function": {"name": piece.name, "arguments": part}}
            for part in ("", arguments[:cut], arguments[cut:])
        ]
        parts[0] |= {"id": piece.call_id, "type": "function"}
        return [data(chunk({"tool_calls": [part]})) for part in parts]

    def message(self, message: Json) -> None:
        super().message(message)
        for call in message.get("tool_calls") or ():
            self._hold(_is_object(call["function"]["arguments"]), "Expecting a JSON object")  # vllm#43995, vllm#43851

    def order(self, messages: Sequence[Json]) -> None:
        super().order(messages)
        roles = [message["role"] for message in messages]
        self._hold("system" not in roles[1:], "System message must be at the beginning.")  # vllm-project/vllm#41114
        spoken = [m["role"] for m in messages if m["role"] == "user" or (m["role"] == "assistant" and _speaks(m))]
        # vllm-project/vllm#6862, suitenumerique/conversations#197: those between a tool's call and its answer aside
        alternate = all(role == ("assistant" if n % 2 else "user") for n, role in enumerate(spoken))
        self._hold(alternate, "Conversation roles must alternate user/assistant/user/assistant/...")

    def refuse(self, reason: str, status: int = 400) -> NoReturn:
        raise Refused(
            status, {"error": {"message": reason, "type": "BadRequestError", "param": None, "code": status}}, reason
        )


class OllamaWire(OpenAIWire):
    """Ollama's compatible endpoint: parallel calls have one index, and end with "stop" (BerriAI/litellm#37792)."""

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return [data(chunk({"role": "assistant", "content": piece}))]
        function = {"name": piece.name, "arguments": written(piece)}
        call = {"index": 0, "id": f"call_{nth}", "type": "function", "function": function}
        return [data(chunk({"role": "assistant", "content": "", "tool_calls": [call]}))]

    def end(self, *, tools: bool) -> list[bytes]:
        return super().end(tools=False)

    def message(self, message: Json) -> None:
        super().message(message)
        for call in message.get("tool_calls") or ():  # ollama/ollama, openai/openai.go: "invalid tool call arguments"
            self._hold(_is_object(call["function"]["arguments"]), "invalid tool call arguments")


class NamelessWire(OllamaWire):
    """A local server that gives its calls neither index nor id: NousResearch/hermes-agent#62937."""

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return super().piece(piece, nth)
        function = {"name": piece.name, "arguments": written(piece)}
        return [data(chunk({"tool_calls": [{"type": "function", "function": function}]}))]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _speaks(message: Json) -> bool:
    return not message.get("tool_calls")
