"""Every adapter of ours keeps what every adapter promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import pytest
from httpx2 import AsyncClient
from langgraph.graph import START, MessagesState, StateGraph
from tests.providers import mcp_server
from tests.providers.anthropic_wire import AnthropicWire, ThinkingWire, anthropic_client
from tests.providers.chat_model import PlayedChatModel
from tests.providers.http_wire import ChunksWire, EventsWire
from tests.providers.imitations import (
    DeepSeekWire,
    GeminiWire,
    MistralWire,
    NamelessWire,
    OllamaWire,
    ThoughtlessDeepSeekWire,
    VLLMWire,
)
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import Json, Wire, serve

from unpod.adapters import (
    AnthropicAdapter,
    ChatMessage,
    EchoAdapter,
    FallbackAdapter,
    HTTPAdapter,
    MCPAdapter,
    OpenAIAdapter,
    ScriptedAdapter,
    close_clients,
)
from unpod.adapters.tools import Tools
from unpod.testing import ADAPTER_PROMISES, TOOL_PROMISES, Answer, FakeModel, adapter_contract


@asynccontextmanager
async def openai(
    model: FakeModel, tools: Tools = (), wire: OpenAIWire | None = None, options: Json | None = None, refused: int = 0
) -> AsyncIterator[OpenAIAdapter]:
    async with serve(model, wire or OpenAIWire()) as vendor, openai_client(vendor) as client:
        yield OpenAIAdapter("tiny", client=client, tools=tools, options=options)
        assert len(vendor.refused) == refused, vendor.refused


@asynccontextmanager
async def anthropic(
    model: FakeModel, tools: Tools = (), wire: AnthropicWire | None = None, options: Json | None = None
) -> AsyncIterator[AnthropicAdapter]:
    async with serve(model, wire or AnthropicWire()) as vendor, anthropic_client(vendor) as client:
        yield AnthropicAdapter("tiny", client=client, tools=tools, options=options)
        assert vendor.refused == []


def imitation(wire: Callable[[], OpenAIWire], *, refused: int = 0, **options: object) -> Callable[..., object]:
    def make(model: FakeModel, tools: Tools = ()) -> AbstractAsyncContextManager[OpenAIAdapter]:
        return openai(model, tools, wire(), options, refused)

    return make


def thinking(model: FakeModel, tools: Tools = ()) -> AbstractAsyncContextManager[AnthropicAdapter]:
    return anthropic(model, tools, ThinkingWire(), {"thinking": {"type": "enabled", "budget_tokens": 1024}})


@asynccontextmanager
async def http(model: FakeModel, wire: Wire | None = None) -> AsyncIterator[HTTPAdapter]:
    async with serve(model, wire or EventsWire()) as vendor, AsyncClient(timeout=30.0, verify=False) as client:
        yield HTTPAdapter(f"{vendor.url}/brain", history=True, attempts=1, client=client)


def http_chunks(model: FakeModel) -> AbstractAsyncContextManager[HTTPAdapter]:
    return http(model, ChunksWire())


def generator(model: FakeModel) -> object:
    async def brain(text: str, *, language: str | None, history: list[ChatMessage]) -> AsyncGenerator[str, None]:
        prompt = [*history, {"role": "user", "content": text}, {"language": language}]
        async with aclosing(model.answer(prompt)) as pieces:
            async for piece in pieces:
                yield str(piece)

    return brain


@asynccontextmanager
async def fallback(model: FakeModel) -> AsyncIterator[FallbackAdapter]:
    async with openai(model) as brain, openai(FakeModel(*[Answer((), "fail")] * 9)) as broken:
        yield FallbackAdapter([broken, brain], first_token_s=30.0)


def langchain(model: FakeModel) -> PlayedChatModel:
    return PlayedChatModel(played=model)


def langgraph(model: FakeModel) -> object:
    async def talk(state: MessagesState) -> dict[str, object]:
        return {"messages": [await PlayedChatModel(played=model).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("talk", talk)
    graph.add_edge(START, "talk")
    return graph.compile()


MODELS: dict[str, Callable[[FakeModel], object]] = {
    "fallback": fallback,
    "http": http,
    "http in chunks": http_chunks,
    "generator": generator,
    "langchain": langchain,
    "langgraph": langgraph,
}


VENDORS: dict[str, Callable[..., object]] = {
    "openai": openai,
    "anthropic": anthropic,
    "anthropic that thinks": thinking,
    "gemini": imitation(GeminiWire),
    "deepseek": imitation(DeepSeekWire),
    "deepseek without a thought": imitation(ThoughtlessDeepSeekWire),
    "mistral": imitation(MistralWire, stream_options=None),
    "vllm": imitation(VLLMWire),
    "ollama": imitation(OllamaWire),
    "without ids": imitation(NamelessWire),
}
"""Each refuses what the real one refuses."""

ASKED_TWICE = {
    ("deepseek", "tools of before"): imitation(DeepSeekWire, refused=1),
    ("deepseek without a thought", "tools of before"): imitation(ThoughtlessDeepSeekWire, refused=1),
}
"""What DeepSeek has thought died with the former process: it refuses once, and is told of the tools in words."""


@pytest.mark.parametrize("promise", [*ADAPTER_PROMISES, *TOOL_PROMISES])
@pytest.mark.parametrize("name", VENDORS)
async def test_a_brain_at_a_strict_vendor(name: str, promise: str) -> None:
    make = ASKED_TWICE.get((name, promise), VENDORS[name])
    assert await adapter_contract(make, promises=[promise]) == [promise]


@pytest.mark.parametrize("promise", ADAPTER_PROMISES)
@pytest.mark.parametrize("name", MODELS)
async def test_a_brain_with_a_model(name: str, promise: str) -> None:
    if (name, promise) == ("http in chunks", "whole characters"):
        pytest.skip("plain text cannot hold half a character")
    assert await adapter_contract(MODELS[name], promises=[promise]) == [promise]


@pytest.mark.parametrize("promise", ADAPTER_PROMISES)
async def test_a_brain_with_the_tools_of_a_server(promise: str) -> None:
    async with mcp_server.served() as url:

        @asynccontextmanager
        async def make(model: FakeModel) -> AsyncIterator[MCPAdapter]:
            async with openai(model) as brain:
                yield MCPAdapter(brain, url)

        try:
            assert await adapter_contract(make, promises=[promise]) == [promise]
        finally:
            await close_clients()  # all that share the server's connection are done


async def test_a_brain_without_a_model() -> None:
    for brain in (EchoAdapter, lambda: ScriptedAdapter([("hello", "Good evening")])):
        assert len(await adapter_contract(brain)) == 2
