"""LangChain: models, chains and graphs as brains."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from tests.providers.chat_model import PlayedChatModel

from unpod.adapters import LangChainAdapter, ToolCall, ToolResult, check_adapter
from unpod.errors import ConfigurationError
from unpod.testing import Answer, FakeModel

ORDER = ToolCall("order", {"pizza": "margherita"}, "c1")


@tool
def order(pizza: str) -> str:
    """Order a pizza."""
    return f"1 {pizza}"


def graph_of(model: FakeModel, **options: Any) -> Any:  # noqa: ANN401 - LangGraph's
    async def talk(state: MessagesState) -> dict[str, object]:
        return {"messages": [await PlayedChatModel(played=model).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("talk", talk)
    graph.add_node("tools", ToolNode([order]))
    graph.add_edge(START, "talk")
    graph.add_conditional_edges("talk", tools_condition)
    graph.add_edge("tools", "talk")
    return graph.compile(**options)


async def test_a_graph_with_tools_reports_them_and_its_model_calls() -> None:
    model = FakeModel(Answer((ORDER,)), Answer(("It ", "comes.")))
    adapter = LangChainAdapter(graph_of(model), instructions="Be brief")
    calls: list[dict[str, Any]] = []
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    got = [piece async for piece in adapter.stream("a margherita")]
    assert got == [ORDER, ToolResult("order", "1 margherita", "c1"), "It ", "comes."]
    assert [(call["model"], call["provider"], call["tokens_in"], call["tokens_out"]) for call in calls] == [
        ("tiny", "played", 21, 5)
    ] * 2
    assert calls[1]["ttft_ms"] <= calls[1]["latency_ms"]
    assert "Be brief" in model.prompts[0]
    assert adapter.history[-1] == {"role": "assistant", "content": "It comes."}


async def test_a_chain_that_begins_with_a_prompt() -> None:
    model = FakeModel()
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Speak {language}"), MessagesPlaceholder("history"), ("user", "{question}")]
    )
    adapter = LangChainAdapter(prompt | PlayedChatModel(played=model) | StrOutputParser())
    calls: list[dict[str, Any]] = []
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    assert await adapter.turn("hello") == "Hello there"
    assert [piece async for piece in adapter.stream("again", language="de")] == ["Hello", " there"]
    assert model.prompts[1].count("again") == 1
    assert "Speak de" in model.prompts[1]
    assert "hello" in model.prompts[1]
    assert len(calls) == 2, "the model inside is metered"


async def test_an_input_of_ones_own() -> None:
    model = FakeModel()

    def make(messages: list[Any], *, text: str, context: Any) -> Any:  # noqa: ANN401 - LangChain's
        return [("system", f"{len(messages)} messages on {context['call_id']}"), ("user", text)]

    adapter = LangChainAdapter(PlayedChatModel(played=model), make_input=make)
    assert await adapter.turn("hello", context={"call_id": "c-7"}) == "Hello there"
    assert "1 messages on c-7" in model.prompts[0]


async def test_a_call_that_is_broken_off_is_metered_by_estimate() -> None:
    adapter = LangChainAdapter(PlayedChatModel(played=FakeModel(Answer(("Good ",), "hang"))))
    calls: list[dict[str, Any]] = []
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    pieces = adapter.stream("hello")
    assert await anext(pieces) == "Good "
    await pieces.aclose()
    assert [(call["estimated"], call["tokens_out"]) for call in calls] == [(True, 2)]


def test_a_runnable_is_wrapped() -> None:
    assert isinstance(check_adapter(PlayedChatModel(played=FakeModel())).adapter, LangChainAdapter)


def test_a_graph_that_keeps_the_conversation_itself() -> None:
    with pytest.raises(ConfigurationError, match="without a checkpointer"):
        LangChainAdapter(graph_of(FakeModel(), checkpointer=InMemorySaver()))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'unpod\[langchain\]'"):
        LangChainAdapter(object())  # type: ignore[arg-type]


async def test_what_a_model_thinks_is_neither_spoken_nor_remembered() -> None:
    model = FakeModel(Answer(("<thi", "nk>They want", " pizza.</th", "ink>", "Which one?")), Answer(("a < b",)))
    adapter = LangChainAdapter(PlayedChatModel(played=model))
    assert await adapter.turn("hello") == "Which one?"
    assert await adapter.turn("again") == "a < b"
    assert "They want" not in str(model.prompts[-1])
