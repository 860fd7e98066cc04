"""The forms in which those who know the Unpod SDK write its adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from tests.providers.anthropic_wire import AnthropicWire, anthropic_client
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import serve

from unpod.adapters import AnthropicAdapter, HTTPAdapter, LangChainAdapter, OpenAIAdapter, check_adapter
from unpod.testing import FakeModel


async def test_openai_with_a_client_of_ones_own() -> None:
    async with serve(FakeModel(), OpenAIWire()) as vendor, openai_client(vendor) as client:
        adapter = OpenAIAdapter(client, model="tiny", system_prompt="Be brief")
        assert await adapter.turn("hello") == "Hello there"
        assert vendor.requests[0]["model"] == "tiny"
        assert vendor.requests[0]["messages"][0] == {"role": "system", "content": "Be brief"}
        assert OpenAIAdapter(client).model == "gpt-4o-mini"


async def test_anthropic_with_a_client_of_ones_own() -> None:
    async with serve(FakeModel(), AnthropicWire()) as vendor, anthropic_client(vendor) as client:
        adapter = AnthropicAdapter(client, model="claude-tiny", system_prompt="Be brief", max_tokens=9)
        assert await adapter.turn("hello") == "Hello there"
        assert vendor.requests[0]["model"] == "claude-tiny"
        assert vendor.requests[0]["system"] == [{"type": "text", "text": "Be brief"}]
        assert AnthropicAdapter(client).model == "claude-haiku-4-5-20251001"


async def test_a_chain_under_a_key() -> None:
    seen: list[Any] = []

    def model(prompt: Any) -> str:  # noqa: ANN401 - LangChain's
        seen.append(prompt.to_messages())
        return "Hello there"

    template = ChatPromptTemplate.from_messages([("system", "Be brief"), ("placeholder", "{conversation}")])
    chain: Any = template | RunnableLambda(model)
    adapter = LangChainAdapter(chain, input_key="conversation")
    assert await adapter.turn("hello") == "Hello there"
    assert [message.content for message in seen[0]] == ["Be brief", "hello"]


class Streams:
    """Streams, and is of nobody's class."""

    async def astream(self, asked: object, config: object = None, **_: object) -> AsyncIterator[object]:
        for word in ("Hello ", "there"):
            yield SimpleNamespace(content=word)


@pytest.mark.parametrize("make", [Streams, lambda: GenericFakeChatModel(messages=iter(["Hello there"]))])
async def test_whatever_has_an_astream_can_be_assigned(make: Callable[[], object]) -> None:
    pieces = check_adapter(make()).open("hello", context={}, language=None)
    assert "".join([piece async for piece in pieces if isinstance(piece, str)]) == "Hello there"


def test_an_http_brain_with_headers_by_place() -> None:
    adapter = HTTPAdapter("https://brain.example/turn", {"Authorization": "Bearer sk"}, client=SimpleNamespace())  # type: ignore[arg-type]
    assert adapter._headers == {"Authorization": "Bearer sk"}


class Metered:
    """A brain of the SDK's kind: it reports an object, and awaits."""

    def __init__(self) -> None:
        self.callback: Callable[[object], Awaitable[object]] | None = None

    def register_llm_callback(self, fn: Callable[[object], Awaitable[object]]) -> None:
        self.callback = fn

    async def stream(
        self, text: str, context: dict[str, Any] | None = None, language: str | None = None
    ) -> AsyncIterator[str]:
        yield text
        assert self.callback is not None
        figures = SimpleNamespace(model="tiny", call_type="graph", node_id="ask", latency_ms=7.0, tokens_in=3)
        await self.callback(figures)

    async def turn(self, text: str, context: dict[str, Any] | None = None) -> str:
        return text

    def assist(self, text: str) -> None:
        pass


async def test_a_brain_that_reports_an_object_and_awaits() -> None:
    reported: list[dict[str, Any]] = []
    view = check_adapter(Metered())
    view.register_llm_callback(lambda **fields: reported.append(fields))
    assert [piece async for piece in view.open("hello", context={}, language=None)] == ["hello"]
    (call,) = reported
    assert (call["model"], call["node_id"], call["latency_ms"], call["tokens_in"]) == ("tiny", "ask", 7.0, 3)
