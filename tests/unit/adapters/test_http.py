"""The HTTP adapter against real servers: what it posts, how it reads, when it tries again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from httpx import AsyncClient
from tests.providers.http_wire import ChunksWire, EventsWire, JsonWire
from tests.providers.served import Vendor, Wire, serve

from unpod.adapters import HTTPAdapter, LLMCall, ToolCall, close_clients
from unpod.errors import AdapterError, ConfigurationError
from unpod.testing import Answer, FakeModel
from unpod.testing.contract import CONTEXT

SENT = {name: value for name, value in CONTEXT.items() if name != "instructions"}


@asynccontextmanager
async def brain(
    *answers: Answer,
    wire: Wire | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[tuple[Vendor, HTTPAdapter]]:
    async with serve(FakeModel(*answers), wire or EventsWire()) as vendor, AsyncClient(timeout=30.0) as client:
        yield vendor, HTTPAdapter(f"{vendor.url}/brain?tenant=7", client=client, **options)


async def test_the_body_is_text_and_context_and_what_there_is_besides() -> None:
    async with brain(headers={"Authorization": "Bearer secret"}) as (vendor, adapter):
        await adapter.turn("hello", context=CONTEXT)
        adapter.assist("The caller is a member")
        adapter.mark_interrupted("Hel")
        async for _ in adapter.stream("again", context=CONTEXT, language="de"):
            pass
        adapter.restore([{"role": "user", "content": "I am Ada"}])
        async for _ in adapter.continue_reply("again", "Hel", context=CONTEXT):
            pass
        first, second, third = vendor.requests
        assert first == {"text": "hello", "context": SENT}
        assert second == {
            "text": "again",
            "context": SENT,
            "notes": ["The caller is a member"],
            "interrupted": {"heard": "Hel"},
            "language": "de",
        }
        assert third["history"] == [{"role": "user", "content": "I am Ada"}]
        assert third["said"] == "Hel"
        assert vendor.headers[0]["Authorization"] == "Bearer secret"
        assert vendor.headers[0]["Idempotency-Key"] == "call-1-1"
        assert "secret" not in repr(adapter)


async def test_events_are_pieces_and_reports() -> None:
    order = ToolCall("order", {"pizza": 1}, "c1")
    async with brain(Answer(("Grüße, ", order, "Ada."))) as (_, adapter):
        calls: list[object] = []
        adapter.register_llm_callback(lambda **fields: calls.append(fields))
        got = [piece async for piece in adapter.stream("hello")]
        assert got == ["Grüße, ", order, "Ada.", LLMCall(model="tiny", tokens_in=3, tokens_out=2, latency_ms=7)]
        assert calls == [], "the server has reported its model call itself"


async def test_text_in_chunks_and_json() -> None:
    for wire, answer in ((ChunksWire(), "Grüße, Ada."), (JsonWire(), "Grüße")):
        pieces = ("Grüße", ", Ada.")[: 1 if answer == "Grüße" else 2]
        async with brain(Answer(pieces), wire=wire, name="mine") as (_, adapter):
            calls: list[dict[str, Any]] = []
            adapter.register_llm_callback(lambda calls=calls, **fields: calls.append(fields))
            assert await adapter.turn("hello") == answer
            assert (calls[0]["model"], calls[0]["provider"]) == ("mine", "http")
            assert 0 < calls[0]["ttft_ms"] <= calls[0]["latency_ms"]


@pytest.mark.parametrize(
    ("status", "tries", "code"),
    [(503, 3, "overloaded"), (429, 3, "rate_limited"), (400, 1, "provider_error"), (401, 1, "auth")],
)
async def test_a_refusal_is_tried_again_where_that_may_help(status: int, tries: int, code: str) -> None:
    async with brain(*[Answer((), "fail")] * tries) as (vendor, adapter):
        vendor.refusal = status, {"error": "your text was hello"}
        with pytest.raises(AdapterError) as caught:
            await adapter.turn("hello", context=CONTEXT)
        assert (caught.value.code, str(caught.value)) == (code, f"the HTTP brain answered HTTP {status}")
        assert len(vendor.requests) == tries
        assert {headers["Idempotency-Key"] for headers in vendor.headers} == {"call-1-1"}
        assert await adapter.turn("again") == "Hello there"


async def test_it_answers_after_a_second_try() -> None:
    async with brain(Answer((), "fail")) as (vendor, adapter):
        assert await adapter.turn("hello") == "Hello there"
        assert len(vendor.requests) == 2


async def test_nothing_is_tried_again_once_something_has_come() -> None:
    async with brain(Answer(("Good ",), "fail")) as (vendor, adapter):
        with pytest.raises(AdapterError) as caught:
            await adapter.turn("hello")
        assert caught.value.code == "connection"
        assert len(vendor.requests) == 1


async def test_a_server_that_hangs_up_at_once_is_tried_again() -> None:
    tries = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, AsyncClient() as client:
        adapter = HTTPAdapter(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", attempts=2, client=client)
        with pytest.raises(AdapterError, match="the connection to the HTTP brain failed or was lost"):
            await adapter.turn("hello")
    assert tries == 2


@pytest.mark.parametrize(
    ("kind", "body", "code", "text"),
    [
        ("text/event-stream", b'event: error\ndata: {"code": "overloaded"}\n\n', "overloaded", "off (overloaded)"),
        ("text/event-stream", b"event: tool_call\ndata: {}\n\n", "provider_error", "sent a tool_call that is none"),
        ("application/json", b'{"answer": 1}', "provider_error", 'JSON that is no object with a "text"'),
        ("application/json", b"<html>", "provider_error", 'JSON that is no object with a "text"'),
    ],
)
async def test_what_is_no_answer(kind: str, body: bytes, code: str, text: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind)

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        adapter = HTTPAdapter(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        with pytest.raises(AdapterError) as caught:
            await adapter.turn("hello")
        assert (caught.value.code, text in str(caught.value)) == (code, True)
    finally:
        await close_clients()
        await runner.cleanup()


async def test_what_is_no_url() -> None:
    for url in ("", "brain.example", "ftp://brain.example"):
        with pytest.raises(ConfigurationError, match="must begin with http"):
            HTTPAdapter(url)
