"""The Anthropic adapter: the vendor's client against a server that speaks its wire."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.providers.anthropic_wire import AnthropicWire, anthropic_client, event
from tests.providers.served import Vendor, serve

from unpod.adapters import AnthropicAdapter, Price, ToolCall, ToolResult, check_adapter, close_clients
from unpod.adapters.memory import HEARD_UNKNOWN
from unpod.errors import AdapterError, ConfigurationError
from unpod.testing import Answer, FakeModel

ORDER = ToolCall("order", {"pizza": "margherita"}, "toolu_1")


def order(pizza: str) -> dict[str, int]:
    """Order a pizza."""
    return {"number": len(pizza)}


@asynccontextmanager
async def brain(*answers: Answer, **options: Any) -> AsyncIterator[tuple[Vendor, AnthropicAdapter]]:  # noqa: ANN401
    async with serve(FakeModel(*answers), AnthropicWire()) as vendor, anthropic_client(vendor) as client:
        yield vendor, AnthropicAdapter("claude-tiny", client=client, **options)


async def test_instructions_notes_and_language_are_the_systems() -> None:
    async with brain(instructions="Be brief", options={"service_tier": "auto"}, max_tokens=99) as (vendor, adapter):
        adapter.assist("The caller is a member")
        assert await adapter.turn("hello", language="de") == "Hello there"
        adapter.mark_interrupted(None)
        await adapter.turn("again")
        first, second = vendor.requests
        assert first == {
            "model": "claude-tiny",
            "max_tokens": 99,
            "service_tier": "auto",
            "stream": True,
            "system": [
                {"type": "text", "text": "Be brief"},
                {"type": "text", "text": "The caller speaks de now; answer in it."},
                {"type": "text", "text": "The caller is a member"},
            ],
            "messages": [{"role": "user", "content": "hello"}],
        }
        assert [text["text"] for text in second["system"]] == ["Be brief", "The caller is a member", HEARD_UNKNOWN]
        assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]


async def test_the_calls_instructions_where_it_has_none_of_its_own() -> None:
    async with brain() as (vendor, adapter):
        await adapter.turn("hi", context={"instructions": "The call's"})
        await adapter.turn("hi")
        assert vendor.requests[0]["system"] == [{"type": "text", "text": "The call's"}]
        assert "system" not in vendor.requests[1]


async def test_tools() -> None:
    async with brain(Answer(("One moment. ", ORDER)), Answer(("Number 10.",)), tools=[order]) as (vendor, adapter):
        got = [piece async for piece in adapter.stream("a margherita")]
        assert got == ["One moment. ", ORDER, ToolResult("order", {"number": 10}, "toolu_1"), "Number 10."]
        first, second = vendor.requests
        assert first["tools"] == [
            {
                "name": "order",
                "description": "Order a pizza.",
                "input_schema": {
                    "type": "object",
                    "properties": {"pizza": {"type": "string"}},
                    "required": ["pizza"],
                    "additionalProperties": False,
                },
            }
        ]
        assert second["messages"][1:] == [
            {"role": "assistant", "content": "One moment. "},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "order", "input": {"pizza": "margherita"}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": '{"number":10}'}],
            },
        ]


async def test_a_model_call_is_metered_with_what_the_provider_counted() -> None:
    calls: list[dict[str, Any]] = []
    async with brain(price=Price(input=3, output=15, cached=0.3)) as (_, adapter):
        adapter.register_llm_callback(lambda **fields: calls.append(fields))
        await adapter.turn("hello")
    (call,) = calls
    assert 0 < call.pop("ttft_ms") <= call.pop("latency_ms") < 5000
    assert call == {
        "provider": "anthropic",
        "model": "claude-tiny-2025",
        "call_type": "chat",
        "tokens_in": 21,
        "tokens_out": 5,
        "cached": 8,
        "cache_write": 0,
        "estimated": False,
        "cost": pytest.approx((13 * 3 + 8 * 0.3 + 5 * 15) / 1e6),
    }


async def test_it_goes_on_with_a_reply_that_was_cut_off() -> None:
    async with brain(Answer((" evening.",))) as (vendor, adapter):
        view = check_adapter(adapter)
        options: dict[str, object] = {"instructions": "Be brief"}
        pieces = view.open("hello", context=options, language=None, said="Good")
        assert [piece async for piece in pieces] == [" evening."]
        assert vendor.requests[0]["messages"] == [{"role": "user", "content": "hello"}]
        assert "Good" in vendor.requests[0]["system"][1]["text"]
        assert adapter.history[-1] == {"role": "assistant", "content": "Good evening."}


async def test_a_conversation_that_the_brain_began() -> None:
    async with brain() as (vendor, adapter):
        adapter.restore([{"role": "assistant", "content": "Good evening"}, {"role": "user", "content": "hello"}])
        await adapter.turn("again")
        assert [message["role"] for message in vendor.requests[0]["messages"]] == ["user"]
        assert vendor.requests[0]["messages"][0]["content"] == "hello\nagain"
        assert vendor.requests[0]["system"][0]["text"].endswith("Good evening")


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limited"), (401, "auth"), (529, "overloaded"), (504, "timeout")]
)
async def test_a_refusal(status: int, code: str) -> None:
    async with brain(Answer((), "fail")) as (vendor, adapter):
        vendor.refusal = status, {"type": "error", "error": {"type": "some_error", "message": "key any, prompt hello"}}
        with pytest.raises(AdapterError) as caught:
            await adapter.turn("hello")
        assert (caught.value.code, str(caught.value)) == (code, f"anthropic answered HTTP {status} (some_error)")
        assert "prompt hello" not in "".join(traceback.format_exception(caught.value))
        assert len(vendor.requests) == 1  # a caller waits: nothing is tried again


class BreaksOff(AnthropicWire):
    """Says in mid-stream that it is overloaded; or ends without a word."""

    def __init__(self, *, says_so: bool) -> None:
        super().__init__()
        self.says_so = says_so

    def end(self, *, tools: bool) -> list[bytes]:
        error = {"type": "overloaded_error", "message": "your prompt was ..."}
        return [event("error", error=error)] if self.says_so else []


@pytest.mark.parametrize(
    ("says_so", "code", "text"),
    [
        (True, "overloaded", "anthropic broke the reply off (overloaded_error)"),
        (False, "connection", "the connection to anthropic failed or was lost"),
    ],
)
async def test_an_error_in_mid_stream(says_so: bool, code: str, text: str) -> None:  # noqa: FBT001
    async with serve(FakeModel(), BreaksOff(says_so=says_so)) as vendor, anthropic_client(vendor) as client:
        with pytest.raises(AdapterError) as caught:
            await AnthropicAdapter("claude-tiny", client=client).turn("hello")
    assert (caught.value.code, str(caught.value)) == (code, text)


async def test_adapters_with_the_same_settings_share_their_connections() -> None:
    async with serve(FakeModel(), AnthropicWire()) as vendor:
        one, two = (AnthropicAdapter("claude-tiny", api_key="any", base_url=vendor.url) for _ in range(2))
        assert one._client is two._client
        assert await one.turn("hello") == "Hello there"
        await close_clients()


async def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="set ANTHROPIC_API_KEY, or pass api_key="):
        AnthropicAdapter("claude-tiny")


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'unpod\[anthropic\]'"):
        AnthropicAdapter("claude-tiny", api_key="any")
