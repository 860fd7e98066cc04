"""Answers with a model of Anthropic: the messages API, by Anthropic's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from unpod.adapters.chat import ChatAdapter, Prompt
from unpod.adapters.chat_stream import Carried, tokens
from unpod.adapters.memory import Entry, Said, Used
from unpod.adapters.metering import Meter, MeteredUsage, Price
from unpod.adapters.pieces import ToolCall
from unpod.adapters.shared import shared
from unpod.adapters.tools import Tools, called, text_of
from unpod.adapters.vendors import (
    MAX_WAIT_S,
    broken_off,
    disconnected,
    filtered,
    http_error,
    missing,
    named,
    timed_out,
    transport_error,
    undisturbed,
    unfinished,
)
from unpod.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    import anthropic
    from anthropic.types import RawMessageStreamEvent

with suppress(ImportError):  # the constructor says so, to those who use it
    import_module("anthropic")  # most of a second: at start-up, rather than in a call while others wait

_CONNECT_S: Final = 5.0
_MODEL: Final = "claude-haiku-4-5-20251001"


class AnthropicAdapter(ChatAdapter):
    """Streams a model's replies; one adapter is one conversation.

    `brain` is the model's name, or a client of your own (then `model=` names it). `instructions` (or
    `system_prompt`) is the system prompt (default: the call's own, `context["instructions"]`); notes and the
    caller's language go there, too, so that no turn of the conversation is made up. `tools` are plain functions
    that the model may call; `options` go into each request (`{"service_tier": "auto"}`); `timeout_s` bounds the
    wait for the first piece and between two, `max_wait_s` that for a provider which says when it may be asked again.
    `client` brings a client of your own; it is used without its retries and redirects.

    Raises:
        ConfigurationError: the `anthropic` package or the key is missing.
    """

    def __init__(
        self,
        brain: str | anthropic.AsyncAnthropic | None = None,
        /,
        model: str | None = None,
        system_prompt: str | None = None,
        *,
        instructions: str | None = None,
        tools: Tools = (),
        api_key: str | None = None,
        base_url: str | None = None,
        provider: str = "anthropic",
        max_tokens: int = 1024,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 20.0,
        max_wait_s: float = MAX_WAIT_S,
        price: Price | None = None,
        client: anthropic.AsyncAnthropic | None = None,
    ) -> None:
        model, client = named("AnthropicAdapter", brain, model or _MODEL, client)
        instructions = instructions if instructions is not None else system_prompt
        super().__init__(model, provider=provider, instructions=instructions, tools=tools, price=price)
        self.max_wait_s = max_wait_s
        self._options = {"max_tokens": max_tokens, **(options or {})}
        self._given = client
        self._client = client or shared_client(self, api_key, base_url, timeout_s)

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall | Carried, None]:
        import anthropic  # noqa: PLC0415 - comes with an extra; the constructor has seen to it

        reader = _Reader(meter)
        try:
            client = self._client if self._given is None else undisturbed(self._given, lambda given: given.messages)
            stream = await client.messages.create(**self._request(prompt))
            async with stream:
                async for event in stream:
                    piece = reader.see(event)
                    if piece:
                        yield piece
        except anthropic.AnthropicError as error:
            raise adapter_error(error, self._provider) from None
        except json.JSONDecodeError:
            raise AdapterError(f"{self._provider} sent an event that is not JSON", code="provider_error") from None
        except Exception as error:
            if (lost := transport_error(error, self._provider)) is None:
                raise
            raise lost from None
        if meter.answered:
            reader.check(self._provider)
        yield Carried(reader.thoughts)

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        system, messages = _messages(prompt)
        fixed: dict[str, Any] = {"model": self.model, "messages": messages, "stream": True}
        if system:
            fixed["system"] = [{"type": "text", "text": text} for text in system]
        if self.tools:
            fixed["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
                for tool in self.tools
            ]
        if self.tools and not prompt.use_tools:
            fixed["tool_choice"] = {"type": "none"}
        return self._options | fixed


class _Reader:
    """One reply's events; `thoughts` are the blocks that the provider wants back before what the tools returned."""

    def __init__(self, meter: Meter) -> None:
        self.thoughts: list[dict[str, Any]] = []
        self._meter = meter
        self._is_over = False
        self._stopped = ""
        self._spoke = False
        self._tool: tuple[str, str, object] | None = None
        self._arguments = ""

    def see(self, event: RawMessageStreamEvent) -> str | ToolCall:
        """Take note of an event, and return what of the reply it completes: text, or a tool call, or ""."""
        self._meter.see("")
        match event.type:
            case "message_start":
                self._meter.model = event.message.model or self._meter.model
                self._meter.usage = _usage(event.message.usage, MeteredUsage(tokens_in=None), is_final=False)
            case "content_block_start":
                self._block(event.content_block)
            case "content_block_delta":
                return self._delta(event.delta)
            case "content_block_stop" if self._tool is not None:
                (name, call_id, given), self._tool = self._tool, None
                self._spoke = True
                return called(name, self._arguments, call_id) if self._arguments else ToolCall(name, given, call_id)
            case "message_delta":
                self._meter.usage = _usage(
                    event.usage, self._meter.usage or MeteredUsage(tokens_in=None), is_final=True
                )
                self._stopped = event.delta.stop_reason or self._stopped
            case "message_stop":
                self._is_over = True
            case _:
                pass  # citations, and what is yet to come
        return ""

    def check(self, provider: str) -> None:
        """Raise what has kept the reply from being whole.

        Raises:
            AdapterError: it was refused, it broke off, or it was stopped before anything was said.
        """
        if self._stopped == "refusal":
            raise filtered(provider)
        if not self._is_over:
            raise disconnected(provider)
        if self._stopped == "max_tokens" and not self._spoke:
            raise unfinished(provider, self._stopped)

    def _block(self, block: Any) -> None:  # noqa: ANN401 - a union that grows with each version
        if block.type == "tool_use":
            self._tool, self._arguments = (block.name, block.id, block.input or {}), ""
        elif block.type == "thinking":
            self.thoughts.append({"type": block.type, "thinking": block.thinking, "signature": block.signature})
        elif block.type == "redacted_thinking":
            self.thoughts.append({"type": block.type, "data": block.data})

    def _delta(self, delta: Any) -> str:  # noqa: ANN401 - likewise
        match delta.type:
            case "input_json_delta":
                self._arguments += delta.partial_json
                self._meter.see(delta.partial_json)
            case "thinking_delta" if self.thoughts:
                self.thoughts[-1]["thinking"] += delta.thinking
            case "signature_delta" if self.thoughts:
                self.thoughts[-1]["signature"] = delta.signature
            case "text_delta":
                text: str = delta.text
                self._meter.see(text)
                self._spoke = self._spoke or bool(text)
                return text
            case _:
                pass
        return ""


def _usage(counted: object, was: MeteredUsage, *, is_final: bool) -> MeteredUsage:
    """Return the tokens so far: the last count holds, and what it leaves out stands as it was.

    The count at a message's start says what went in; what came out is counted at its end alone.
    """
    cached = tokens(counted, "cache_read_input_tokens")
    written = tokens(counted, "cache_creation_input_tokens")
    cached = was.cached if cached is None else cached
    written = was.cache_write if written is None else written
    fresh = tokens(counted, "input_tokens")
    if fresh is None and was.tokens_in is not None:
        fresh = was.tokens_in - was.cached - was.cache_write
    return MeteredUsage(
        tokens_in=None if fresh is None else fresh + cached + written,
        tokens_out=tokens(counted, "output_tokens") if is_final else None,
        cached=cached,
        cache_write=written,
    )


# --- the prompt -------------------------------------------------------------------------------------------------------


def _messages(prompt: Prompt) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the system's texts and the messages."""
    system, entries = prompt.split()
    messages: list[dict[str, Any]] = []
    for entry in entries:
        thoughts = entry.carried.message if isinstance(entry, Used) and entry.carried is not None else None
        if isinstance(thoughts, list) and thoughts:  # they stand before all that was said and done after them
            said = [messages.pop()] if messages and messages[-1]["role"] == "assistant" else []
            texts = [{"type": "text", "text": message["content"]} for message in said]
            used, returned = _turns(entry)
            messages += [{**used, "content": [*thoughts, *texts, *used["content"]]}, returned]
        else:
            messages += _turns(entry)
    return system, messages


def _turns(entry: Entry) -> Sequence[dict[str, Any]]:
    if isinstance(entry, Said):
        return [{"role": entry.role, "content": entry.content}]
    uses = [
        {"type": "tool_use", "id": call.call_id, "name": call.name, "input": call.arguments} for call in entry.calls
    ]
    results = [
        {"type": "tool_result", "tool_use_id": call.call_id, "content": text_of(entry.result_of(call))}
        for call in entry.calls
    ]
    return [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]


# --- connections ------------------------------------------------------------------------------------------------------


def shared_client(
    user: object, api_key: str | None, base_url: str | None, timeout_s: float
) -> anthropic.AsyncAnthropic:
    """Return the running event loop's client for these settings, made when it is first asked for.

    Raises:
        ConfigurationError: the package or the key is missing.
    """
    try:
        import anthropic  # noqa: PLC0415 - comes with an extra
    except ImportError:
        raise missing("AnthropicAdapter", "anthropic", "anthropic") from None

    def make() -> anthropic.AsyncAnthropic:
        timeout = anthropic.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        # No retries: a caller waits, and a provider may ask for a minute. The call goes on after an error.
        client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            # What the caller says goes to no other host than the one that was named.
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout),
        )
        if client.api_key is None and client.auth_token is None:
            raise ConfigurationError("AnthropicAdapter has no API key: set ANTHROPIC_API_KEY, or pass api_key=")
        return client

    return shared(user, anthropic.AsyncAnthropic, (api_key, base_url, timeout_s), make)


def adapter_error(error: anthropic.AnthropicError, provider: str) -> AdapterError:
    """Return what a provider's error means; `code`: rate_limited, overloaded, auth, timeout, … (`vendors`)."""
    import anthropic  # noqa: PLC0415 - see above

    if isinstance(error, anthropic.APITimeoutError):
        return timed_out(provider)
    if isinstance(error, anthropic.APIConnectionError):
        return disconnected(provider)
    if isinstance(error, anthropic.APIStatusError):
        if error.response.is_success:  # an `error` event in a stream that had begun
            return broken_off(provider, error.type)
        return http_error(provider, error.status_code, error.type, error.response.headers)
    return AdapterError(f"{provider}: {type(error).__name__}", code="provider_error")
