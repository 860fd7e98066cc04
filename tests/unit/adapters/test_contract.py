"""Every adapter of ours keeps what every adapter promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import pytest
from httpx2 import AsyncClient
from langgraph.graph import START, MessagesState, StateGraph
from tests.providers import mcp_server
from tests.providers.anthropic_wire import AnthropicWire, anthropic_client
from tests.providers.chat_model import PlayedChatModel
from tests.providers.http_wire import ChunksWire, EventsWire
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import Wire, serve

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
from unpod.testing import ADAPTER_PROMISES, Answer, FakeModel, adapter_contract


@asynccontextmanager
async def openai(model: FakeModel) -> AsyncIterator[OpenAIAdapter]:
    async with serve(model, OpenAIWire()) as vendor, openai_client(vendor) as client:
        yield OpenAIAdapter("tiny", client=client)


@asynccontextmanager
async def anthropic(model: FakeModel) -> AsyncIterator[AnthropicAdapter]:
    async with serve(model, AnthropicWire()) as vendor, anthropic_client(vendor) as client:
        yield AnthropicAdapter("tiny", client=client)


@asynccontextmanager
async def http(model: FakeModel, wire: Wire | None = None) -> AsyncIterator[HTTPAdapter]:
    async with serve(model, wire or EventsWire()) as vendor, AsyncClient(timeout=30.0) as client:
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
    "openai": openai,
    "anthropic": anthropic,
}


@pytest.mark.parametrize("promise", ADAPTER_PROMISES)
@pytest.mark.parametrize("name", MODELS)
async def test_a_brain_with_a_model(name: str, promise: str) -> None:
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
