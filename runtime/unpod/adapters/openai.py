"""Answers with a model of OpenAI, or of any endpoint that has its chat completions."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from unpod.adapters.chat import ChatAdapter, Prompt
from unpod.adapters.chat_stream import CallParts, Carried, field_of, tokens
from unpod.adapters.memory import HEARD_UNKNOWN, Said, Used
from unpod.adapters.metering import Meter, MeteredUsage, Price
from unpod.adapters.openai_clients import adapter_error, shared_client
from unpod.adapters.pieces import ToolCall
from unpod.adapters.tools import Tools, ToolSet, text_of
from unpod.adapters.vendors import MAX_WAIT_S, disconnected, filtered, named, transport_error, undisturbed, unfinished
from unpod.errors import AdapterError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionChunk

with suppress(ImportError):  # the constructor says so, to those who use it
    import_module("openai")  # most of a second: at start-up, rather than in a call while others wait

_MODEL: Final = "gpt-4o-mini"

__all__ = ["HEARD_UNKNOWN", "OpenAIAdapter"]


class OpenAIAdapter(ChatAdapter):
    """Streams a chat model's replies; one adapter is one conversation.

    `brain` is the model's name, or a client of your own (then `model=` names it, else it is "gpt-4o-mini").
    `instructions` (or `system_prompt`) is the system prompt (default: the call's own, `context["instructions"]`);
    `tools` are plain functions that the model may call. `base_url` is an endpoint other than OpenAI's, `provider`
    its name in metrics; `options` go into each request (`{"temperature": 0.3}`; None leaves a field out, as
    `{"stream_options": None}` for Mistral). `timeout_s` bounds the wait for the first piece and between two,
    `max_wait_s` that for a provider which says when it may be asked again. `client` brings a client of your own; it is
    used without its retries and redirects.

    Raises:
        ConfigurationError: the `openai` package or the key is missing.
    """

    def __init__(
        self,
        brain: str | openai.AsyncOpenAI | None = None,
        /,
        model: str | None = None,
        system_prompt: str | None = None,
        *,
        instructions: str | None = None,
        tools: Tools = (),
        api_key: str | None = None,
        base_url: str | None = None,
        provider: str = "openai",
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 20.0,
        max_wait_s: float = MAX_WAIT_S,
        price: Price | None = None,
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        model, client = named("OpenAIAdapter", brain, model or _MODEL, client)
        instructions = instructions if instructions is not None else system_prompt
        super().__init__(model, provider=provider, instructions=instructions, tools=tools, price=price)
        self.max_wait_s = max_wait_s
        self._options = dict(options or {})
        self._given = client
        self._client = client or shared_client(self, api_key, base_url, timeout_s)

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall | Carried, None]:
        import openai  # noqa: PLC0415 - comes with an extra; the constructor has seen to it

        reader = _Reader(meter, frozenset(tool.name for tool in self.tools))
        try:
            given = self._given
            client = self._client if given is None else undisturbed(given, lambda given: given.chat.completions)
            stream = await client.chat.completions.create(**self._request(prompt))
            async with stream:
                async for chunk in stream:
                    piece = reader.see(chunk)
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
        if meter.answered:
            reader.check(self._provider)
        for call in reader.calls:
            yield call
        yield reader.carried

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        fixed = {"model": self.model, "messages": _messages(prompt), "stream": True}
        offered = _offered(self.tools, prompt) if self.tools else {}
        given = {"stream_options": {"include_usage": True}} | self._options
        return {name: value for name, value in given.items() if value is not None} | offered | fixed


class _Reader:
    """One reply's chunks; `tools` are the names of the tools there are."""

    def __init__(self, meter: Meter, tools: frozenset[str]) -> None:
        self.calls = CallParts(tools)
        self._meter = meter
        self._finished = ""
        self._spoke = False
        self._thought: str | None = None

    @property
    def carried(self) -> Carried:
        """What goes back with the tool calls: DeepSeek's reasoning, Gemini's signatures."""
        return Carried(self._thought, self.calls.carried)

    def see(self, chunk: ChatCompletionChunk) -> str:
        """Take note of a chunk, and return the text in it."""
        self._meter.model = field_of(chunk, "model") or self._meter.model
        self._meter.usage = _usage(field_of(chunk, "usage")) or self._meter.usage
        choices = field_of(chunk, "choices")
        choice = choices[0] if choices else None
        self._finished = field_of(choice, "finish_reason") or self._finished
        delta = field_of(choice, "delta")
        for part in field_of(delta, "tool_calls") or ():
            function = field_of(part, "function")
            name, arguments = field_of(function, "name"), field_of(function, "arguments")
            self.calls.add(
                field_of(part, "index"), field_of(part, "id"), name, arguments, field_of(part, "extra_content")
            )
            self._meter.see(name or str(arguments or ""))
        if isinstance(thought := field_of(delta, "reasoning_content"), str):  # an empty one must be sent back, too
            self._thought = (self._thought or "") + thought
        piece = _text(field_of(delta, "content")) or field_of(delta, "refusal") or ""
        self._meter.see(piece)
        self._spoke = self._spoke or bool(piece)
        return piece

    def check(self, provider: str) -> None:
        """Raise what has kept the reply from being whole.

        Raises:
            AdapterError: it was filtered, it broke off, or it was stopped before anything was said.
        """
        if self._finished == "content_filter":
            raise filtered(provider)
        if not self._finished:
            raise disconnected(provider)
        if self._finished == "length" and not self._spoke and not list(self.calls):
            raise unfinished(provider, self._finished)


def _text(content: object) -> str:
    """Return the text of a delta's content, which some models give in parts; thinking is none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (field_of(part, "text") for part in parts if field_of(part, "type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _usage(counted: object) -> MeteredUsage | None:
    if counted is None:
        return None
    cost = field_of(counted, "cost")  # some gateways say it
    return MeteredUsage(
        tokens_in=tokens(counted, "prompt_tokens"),
        tokens_out=tokens(counted, "completion_tokens"),
        cached=tokens(field_of(counted, "prompt_tokens_details"), "cached_tokens") or 0,
        cost=float(cost) if isinstance(cost, int | float) and math.isfinite(cost) else None,
    )


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
    """Return the messages: one of the system at most, and what was said before tools were asked for in one with that.

    Many local servers take no system message after the first, and no turn out of order.
    """
    system, conversation = prompt.split()
    messages: list[dict[str, Any]] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    for before, entry in zip([None, *conversation], conversation, strict=False):
        if isinstance(entry, Said):
            messages.append({"role": entry.role, "content": entry.content})
            continue
        if not isinstance(before, Said) or before.role != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1] |= {"tool_calls": _asked_for(entry)}
        if entry.carried is not None and entry.carried.message is not None:
            messages[-1] |= {"reasoning_content": entry.carried.message}
        messages += _returned(entry)
    return messages


def _asked_for(used: Used) -> list[dict[str, Any]]:
    carried = () if used.carried is None else used.carried.calls
    return [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": text_of(call.arguments)},
            **({"extra_content": extra} if extra else {}),
        }
        for call, extra in zip_longest(used.calls, carried)
    ]


def _returned(used: Used) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": call.call_id, "content": text_of(used.result_of(call))} for call in used.calls
    ]
