"""A brain at OpenAI, or at any endpoint that speaks its chat completions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from unpod.adapters.memory import Memory
from unpod.adapters.openai_clients import adapter_error, shared_client
from unpod.adapters.pieces import ChatMessage
from unpod.errors import AdapterError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionChunk

with suppress(ImportError):  # the constructor says so, to those who use it
    import_module("openai")  # most of a second: at start-up, rather than in a call while others wait

HEARD_UNKNOWN = "The caller cut in on your last reply; it is not known how much of it they heard."
GO_ON = "Your last message was cut off. Go on right where it ends; repeat nothing of it."
_CHARS_PER_TOKEN = 4  # a rule of thumb for English, for replies that ended before the provider had counted


class OpenAIAdapter:
    """Streams a chat model's replies; one adapter is one conversation.

    `instructions` is the system prompt (default: the call's own, `context["instructions"]`); `base_url` an endpoint
    other than OpenAI's, `provider` its name in metrics; `options` go into each request (`{"temperature": 0.3}`).
    `timeout_s` bounds the wait for the first piece and between two. `client` brings a client of your own.

    Raises:
        ConfigurationError: the `openai` package or the key is missing.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        *,
        instructions: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        provider: str = "openai",
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 20.0,
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        self.model = model
        self._instructions = instructions
        self._provider = provider
        self._options = dict(options or {})
        self._client = client or shared_client(api_key, base_url, timeout_s)
        self._memory = Memory()
        self._notes: list[str] = []
        self._report: Callable[..., object] | None = None

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation without the instructions, with of each reply what the caller heard."""
        return list(self._memory.messages)

    @property
    def state(self) -> dict[str, object]:
        """Where the conversation stands."""
        return {"model": self.model, "messages": len(self._memory.messages)}

    async def stream(self, text: str, *, context: Mapping[str, object] | None = None) -> AsyncGenerator[str, None]:
        """Yield the reply as the model makes it; closing the iterator closes the stream at the provider.

        Raises:
            AdapterError: with `code` rate_limited, auth, timeout, connection or provider_error.
        """
        async with aclosing(self._reply(text, context or {}, "")) as pieces:
            async for piece in pieces:
                yield piece

    async def continue_reply(self, text: str, said: str) -> AsyncGenerator[str, None]:
        """Ask the model to go on with a reply that was cut off after `said`; as `stream`."""
        async with aclosing(self._reply(text, {}, said)) as pieces:
            async for piece in pieces:
                yield piece

    async def _reply(self, text: str, context: Mapping[str, object], said: str) -> AsyncGenerator[str, None]:
        import openai  # noqa: PLC0415 - comes with an extra; the constructor has seen to it

        for note in self._notes:
            self._memory.add("system", note)
        self._notes.clear()
        self._memory.add("user", text)
        self._memory.add("assistant", said)
        messages = self._prompt(context)
        if said:
            messages.append({"role": "system", "content": GO_ON})
        meter = _Meter(self.model, self._provider, messages)
        try:
            stream = await self._client.chat.completions.create(**self._request(messages))
            async with stream:
                async for chunk in stream:
                    piece = meter.see(chunk)
                    if piece:
                        yield piece
            if not meter.answered:
                raise AdapterError(f"{self._provider} sent no events; is the base URL right?", code="provider_error")
        except openai.OpenAIError as error:
            raise adapter_error(error, self._provider) from None
        except json.JSONDecodeError:
            raise AdapterError(f"{self._provider} sent an event that is not JSON", code="provider_error") from None
        finally:
            self._memory.cut(said + meter.text) if said else self._memory.add("assistant", meter.text)
            if self._report is not None and meter.answered:
                self._report(**meter.fields())

    async def turn(self, text: str, *, context: Mapping[str, object] | None = None) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context)])

    def assist(self, text: str) -> None:
        """Put a system message before the caller's next text."""
        self._notes.append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Cut the last reply in memory to what the caller heard; where nobody knows, say so to the model."""
        if heard is None:
            self._notes.append(HEARD_UNKNOWN)
        else:
            self._memory.cut(heard)

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had."""
        self._memory.restore(history)

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the figures of each model call (fields as in `LLMCall`) when it is over."""
        self._report = fn

    def _prompt(self, context: Mapping[str, object]) -> list[ChatMessage]:
        given = context.get("instructions") if self._instructions is None else self._instructions
        head: list[ChatMessage] = [{"role": "system", "content": given}] if isinstance(given, str) and given else []
        return head + self._memory.messages

    def _request(self, messages: list[ChatMessage]) -> dict[str, Any]:
        fixed = {"model": self.model, "messages": messages, "stream": True}
        return {"stream_options": {"include_usage": True}} | self._options | fixed


class _Meter:
    """What one model call took. Counts the provider's tokens, or estimates where it did not get to count."""

    def __init__(self, model: str, provider: str, messages: Sequence[ChatMessage]) -> None:
        self._model = model
        self._provider = provider
        self._prompt_chars = sum(len(message["content"]) for message in messages)
        self._started = time.perf_counter()
        self._first: float | None = None
        self._usage: dict[str, int] | None = None
        self._pieces: list[str] = []
        self.answered = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def see(self, chunk: ChatCompletionChunk) -> str:
        """Take note of a chunk and return its text."""
        self.answered = True
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            self._usage = {
                "tokens_in": chunk.usage.prompt_tokens or 0,
                "tokens_out": chunk.usage.completion_tokens or 0,
                "cached": (details.cached_tokens or 0) if details is not None else 0,
            }
        delta = chunk.choices[0].delta if chunk.choices else None
        piece = (delta.content or delta.refusal or "") if delta is not None else ""
        if piece:
            self._first = self._first or time.perf_counter()
            self._pieces.append(piece)
        return piece

    def fields(self) -> dict[str, object]:
        """Return the figures, times up to now."""
        counted = self._usage or {
            "tokens_in": math.ceil(self._prompt_chars / _CHARS_PER_TOKEN),
            "tokens_out": math.ceil(len(self.text) / _CHARS_PER_TOKEN),
            "cached": 0,
        }
        return {
            "provider": self._provider,
            "model": self._model,
            "call_type": "chat",
            "latency_ms": _ms(time.perf_counter() - self._started),
            "ttft_ms": None if self._first is None else _ms(self._first - self._started),
            "estimated": self._usage is None,
            **counted,
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
