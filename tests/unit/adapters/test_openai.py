"""The OpenAI adapter against a real endpoint on this machine."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.unit.adapters.chat_server import ChatServer, chat_server

import unpod.adapters
from unpod.adapters import OpenAIAdapter, check_adapter, close_clients
from unpod.adapters.openai import HEARD_UNKNOWN
from unpod.errors import AdapterError, ConfigurationError

KEY = "sk-very-secret-key"
STOPS_WITHIN_S = 5.0  # the promise is 50 ms; the machine that tests may be busy


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with chat_server() as running:
        yield running
        await close_clients()


def adapter_for(server: ChatServer, **options: Any) -> OpenAIAdapter:  # noqa: ANN401 - passed on
    return OpenAIAdapter("tiny", api_key=KEY, base_url=server.base_url, **{"timeout_s": 5.0, **options})


async def test_a_reply_streams_and_is_remembered(server: ChatServer) -> None:
    adapter = adapter_for(server, instructions="Be brief", options={"temperature": 0.2})
    assert [piece async for piece in adapter.stream("hello")] == ["Hel", "lo", " there"]
    assert await adapter.turn("again") == "Hello there"
    first, second = server.requests
    assert first == {
        "model": "tiny",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.2,
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hello"}],
    }
    assert second["messages"][1:] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "again"},
    ]
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert adapter.state == {"model": "tiny", "messages": 4}


async def test_the_calls_instructions_where_it_has_none_of_its_own(server: ChatServer) -> None:
    context: dict[str, object] = {"instructions": "The call's"}
    for adapter in (adapter_for(server), adapter_for(server, instructions="Mine")):
        async with aclosing(check_adapter(adapter).open("hi", context=context, language=None)) as pieces:
            assert [piece async for piece in pieces]
    assert [request["messages"][0]["content"] for request in server.requests] == ["The call's", "Mine"]


async def test_a_model_call_is_reported_with_what_the_provider_counted(server: ChatServer) -> None:
    calls: list[dict[str, Any]] = []
    adapter = adapter_for(server)
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    await adapter.turn("hello")
    (call,) = calls
    latency_ms, ttft_ms = call.pop("latency_ms"), call.pop("ttft_ms")
    assert 0 < ttft_ms <= latency_ms < 5000
    assert call == {
        "provider": "openai",
        "model": "tiny-2025",
        "call_type": "chat",
        "estimated": False,
        "tokens_in": 21,
        "tokens_out": 5,
        "cached": 8,
        "cache_write": 0,
        "cost": None,
    }


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}])
async def test_an_endpoint_that_counts_less(server: ChatServer, usage: dict[str, int] | None) -> None:
    server.usage = usage
    calls: list[dict[str, Any]] = []
    adapter = adapter_for(server, provider="local")
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    await adapter.turn("hello")
    (call,) = calls
    figures = (call["provider"], call["tokens_in"], call["tokens_out"], call["cached"], call["estimated"])
    assert figures == (("local", 2, 3, 0, True) if usage is None else ("local", 3, 2, 0, False))


async def test_a_barge_in_closes_the_stream_at_the_provider(server: ChatServer) -> None:
    server.stall_after = 2
    calls: list[dict[str, Any]] = []
    adapter = adapter_for(server)
    view = check_adapter(adapter)
    view.register_llm_callback(lambda **fields: calls.append(fields))

    async def reply() -> None:
        async with aclosing(view.open("hello", context={}, language=None)) as pieces:
            async for piece in pieces:
                got.append(piece)
                if len(got) == server.stall_after:
                    waiting.set()

    got: list[object] = []
    waiting = asyncio.Event()
    task = asyncio.create_task(reply())
    await waiting.wait()
    started = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - started < STOPS_WITHIN_S
    await asyncio.wait_for(server.hung_up_on.wait(), STOPS_WITHIN_S)
    assert got == ["Hel", "lo"]
    assert [(call["estimated"], call["tokens_out"]) for call in calls] == [(True, 2)]
    await view.mark_interrupted("Hel")
    assert adapter.history == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hel"}]


async def test_closing_between_two_pieces_closes_it_too(server: ChatServer) -> None:
    server.stall_after = 1
    async with aclosing(adapter_for(server).stream("hello")) as pieces:
        assert await anext(pieces) == "Hel"
        await server.stalled.wait()
    await asyncio.wait_for(server.hung_up_on.wait(), STOPS_WITHIN_S)


async def test_an_interruption_before_the_first_piece(server: ChatServer) -> None:
    server.stall_after = 0
    adapter = adapter_for(server)
    task = asyncio.create_task(adapter.turn("hello"))
    await server.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.hung_up_on.wait(), STOPS_WITHIN_S)
    adapter.mark_interrupted("")
    server.stall_after = None
    await adapter.turn("are you there")
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "hello\nare you there"}]


async def test_notes_are_told_by_the_system(server: ChatServer) -> None:
    adapter = adapter_for(server)
    await adapter.turn("hello")
    adapter.mark_interrupted(None)
    adapter.assist("The caller is a member")
    await adapter.turn("go on")
    await adapter.turn("and now")
    expected = [
        {"role": "system", "content": f"{HEARD_UNKNOWN}\n\nThe caller is a member"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "go on"},
    ]
    assert server.requests[1]["messages"] == expected
    assert server.requests[2]["messages"][:4] == expected


async def test_it_takes_up_a_conversation(server: ChatServer) -> None:
    before, after = adapter_for(server), adapter_for(server)
    await before.turn("hello")
    await check_adapter(after).restore(before.history)
    await after.turn("again")
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["hello", "Hello there", "again"]


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (429, "rate_limited", "openai answered HTTP 429 (insufficient_quota)"),
        (401, "auth", "openai answered HTTP 401 (insufficient_quota)"),
        (403, "auth", "openai answered HTTP 403 (insufficient_quota)"),
        (400, "provider_error", "openai answered HTTP 400 (insufficient_quota)"),
        (503, "overloaded", "openai answered HTTP 503 (insufficient_quota)"),
        (504, "timeout", "openai answered HTTP 504 (insufficient_quota)"),
    ],
)
async def test_a_refusal_before_the_first_piece(server: ChatServer, status: int, code: str, text: str) -> None:
    server.status = status
    server.error = {"message": f"Incorrect API key provided: {KEY}. Prompt: hello", "code": "insufficient_quota"}
    calls: list[dict[str, Any]] = []
    adapter = adapter_for(server)
    adapter.register_llm_callback(lambda **fields: calls.append(fields))
    with pytest.raises(AdapterError) as caught:
        await adapter.turn("hello")
    assert (caught.value.code, str(caught.value)) == (code, text)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert len(server.requests) == 1  # a caller waits: nothing is tried again
    assert calls == []
    server.status = 200
    assert await adapter.turn("again") == "Hello there"


async def test_an_error_code_that_is_none_is_left_out(server: ChatServer) -> None:
    server.status = 400
    server.error = {"message": "no", "code": "a sentence with the prompt in it"}
    with pytest.raises(AdapterError, match=r"^openai answered HTTP 400$"):
        await adapter_for(server).turn("hello")


@pytest.mark.parametrize("after", [0, 2])
async def test_the_provider_hangs_up(server: ChatServer, after: int) -> None:
    server.hang_up_after = after
    adapter = adapter_for(server)
    got: list[object] = []

    async def reply() -> None:
        async for piece in adapter.stream("hello"):
            got.append(piece)  # noqa: PERF401 - the pieces before the error are what is tested

    with pytest.raises(AdapterError) as caught:
        await reply()
    assert caught.value.code == "connection"
    assert got == ["Hel", "lo"][:after]
    assert [message["content"] for message in adapter.history] == ["hello", "Hello"][: 1 + (after > 0)]


async def test_the_provider_reports_an_error_in_mid_stream(server: ChatServer) -> None:
    server.error_after = 1
    with pytest.raises(AdapterError) as caught:
        await adapter_for(server).turn("hello")
    assert (caught.value.code, str(caught.value)) == ("overloaded", "openai broke the reply off (overloaded)")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html>a login page</html>", "openai sent no events; is the base URL right?"),
        (b"data: {what\n\n", "openai sent an event that is not JSON"),
    ],
)
async def test_what_is_no_chat_completion_is_an_error(server: ChatServer, body: bytes, text: str) -> None:
    server.raw = body
    with pytest.raises(AdapterError, match=re.escape(text)) as caught:
        await adapter_for(server).turn("hello")
    assert caught.value.code == "provider_error"


async def test_a_provider_that_says_nothing_for_too_long(server: ChatServer) -> None:
    server.stall_after = 1
    with pytest.raises(AdapterError, match="openai did not answer in time") as caught:
        await adapter_for(server, timeout_s=0.1).turn("hello")
    assert caught.value.code == "timeout"


async def test_nobody_listens() -> None:
    adapter = OpenAIAdapter("tiny", api_key=KEY, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(AdapterError, match="the connection to openai failed or was lost") as caught:
        await adapter.turn("hello")
    assert caught.value.code == "connection"
    await close_clients()


async def test_adapters_with_the_same_settings_share_their_connections(server: ChatServer) -> None:
    one, two, other = adapter_for(server), adapter_for(server), adapter_for(server, timeout_s=1.0)
    assert one._client is two._client
    assert one._client is not other._client
    assert OpenAIAdapter(client=one._client)._client is one._client


async def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY, or pass api_key="):
        OpenAIAdapter("tiny")


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'unpod\[openai\]'"):
        OpenAIAdapter("tiny", api_key=KEY)


@pytest.mark.parametrize(
    ("imports", "loads"), [("import unpod.adapters", 0), ("from unpod.adapters import OpenAIAdapter", 1)]
)
def test_the_package_is_imported_by_those_who_name_the_adapter_and_at_once(imports: str, loads: int) -> None:
    code = f"import sys; {imports}; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=25).returncode == loads


def test_an_adapter_that_does_not_exist_is_named() -> None:
    with pytest.raises(AttributeError, match=r"'unpod\.adapters' has no attribute 'Nobody'"):
        getattr(unpod.adapters, "Nobody")  # noqa: B009 - mypy knows that there is none
