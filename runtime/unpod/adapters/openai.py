"""A brain at OpenAI, or at any endpoint that speaks its chat completions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from unpod.adapters.chat import GO_ON, HEARD_UNKNOWN, ChatAdapter, Prompt
from unpod.adapters.memory import Entry, Said, Used
from unpod.adapters.metering import Meter, Price, Usage
from unpod.adapters.openai_clients import adapter_error, shared_client
from unpod.adapters.pieces import ToolCall
from unpod.adapters.tools import Tools, ToolSet, called, text_of
from unpod.adapters.vendors import transport_error
from unpod.errors import AdapterError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionChunk

with suppress(ImportError):  # the constructor says so, to those who use it
    import_module("openai")  # most of a second: at start-up, rather than in a call while others wait

__all__ = ["GO_ON", "HEARD_UNKNOWN", "OpenAIAdapter"]


class OpenAIAdapter(ChatAdapter):
    """Streams a chat model's replies; one adapter is one conversation.

    `instructions` is the system prompt (default: the call's own, `context["instructions"]`); `tools` are plain
    functions that the model may call. `base_url` is an endpoint other than OpenAI's, `provider` its name in metrics;
    `options` go into each request (`{"temperature": 0.3}`). `timeout_s` bounds the wait for the first piece and between
    two. `client` brings a client of your own.

    Raises:
        ConfigurationError: the `openai` package or the key is missing.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        *,
        instructions: str | None = None,
        tools: Tools = (),
        api_key: str | None = None,
        base_url: str | None = None,
        provider: str = "openai",
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 20.0,
        price: Price | None = None,
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        super().__init__(model, provider=provider, instructions=instructions, tools=tools, price=price)
        self._options = dict(options or {})
        self._client = client or shared_client(api_key, base_url, timeout_s)

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall, None]:
        import openai  # noqa: PLC0415 - comes with an extra; the constructor has seen to it

        calls = _Calls()
        try:
            stream = await self._client.chat.completions.create(**self._request(prompt))
            async with stream:
                async for chunk in stream:
                    piece = _seen(chunk, meter, calls)
                    if piece:
                        yield piece
        except openai.OpenAIError as error:
            raise adapter_error(error, self._provider) from None
        except json.JSONDecodeError:
            raise AdapterError(f"{self._provider} sent an event that is not JSON", code="provider_error") from None
        except Exception as error:
            if (lost := transport_error(error, self._provider)) is None:
                raise
            raise lost from None
        for call in calls:
            yield call

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        fixed = {"model": self.model, "messages": _messages(prompt), "stream": True}
        offered = _offered(self.tools, prompt) if self.tools else {}
        return {"stream_options": {"include_usage": True}} | self._options | offered | fixed


class _Calls:
    """The tool calls of a reply, which come in pieces."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}

    def add(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        part = self._parts.setdefault(index, ["", "", ""])
        part[0] = call_id or part[0]
        part[1] += name or ""
        part[2] += arguments or ""

    def __iter__(self) -> Iterator[ToolCall]:
        for index, (call_id, name, arguments) in sorted(self._parts.items()):
            yield called(name, arguments, call_id or f"call_{index}_{uuid4().hex[:8]}")  # some servers give none


def _seen(chunk: ChatCompletionChunk, meter: Meter, calls: _Calls) -> str:
    """Take note of a chunk, and return the text in it."""
    meter.model = chunk.model or meter.model
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        cost = getattr(chunk.usage, "cost", None)  # some gateways say it
        meter.usage = Usage(
            tokens_in=chunk.usage.prompt_tokens or 0,
            tokens_out=chunk.usage.completion_tokens or 0,
            cached=(details.cached_tokens or 0) if details is not None else 0,
            cost=float(cost) if isinstance(cost, int | float) else None,
        )
    delta = chunk.choices[0].delta if chunk.choices else None
    for part in (delta.tool_calls or ()) if delta is not None else ():
        function = part.function
        name, arguments = (function.name, function.arguments) if function is not None else (None, None)
        calls.add(part.index, part.id, name, arguments)
        meter.see(name or arguments or "")
    piece = (delta.content or delta.refusal or "") if delta is not None else ""
    meter.see(piece)
    return piece


def _offered(tools: ToolSet, prompt: Prompt) -> dict[str, Any]:
    described = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]
    return {"tools": described} if prompt.use_tools else {"tools": described, "tool_choice": "none"}


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    head = [{"role": "system", "content": text} for text in prompt.system]
    tail = [{"role": "system", "content": GO_ON}] if prompt.go_on else []
    return [*head, *_turns(prompt.conversation), *tail]


def _turns(conversation: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the conversation's messages; what was said before tools were asked for stands in one with that."""
    messages: list[dict[str, Any]] = []
    for before, entry in zip([None, *conversation], conversation, strict=False):
        if isinstance(entry, Said):
            messages.append({"role": entry.role, "content": entry.content})
            continue
        if isinstance(before, Said) and before.role == "assistant":
            messages[-1] |= {"tool_calls": _asked_for(entry)}
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": _asked_for(entry)})
        messages += _returned(entry)
    return messages


def _asked_for(used: Used) -> list[dict[str, Any]]:
    return [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": text_of(call.arguments)},
        }
        for call in used.calls
    ]


def _returned(used: Used) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": call.call_id, "content": text_of(used.result_of(call))} for call in used.calls
    ]
