"""The HTTP adapter against real servers: what it posts, how it reads, when it tries again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from httpx2 import AsyncClient
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
        assert (caught.value.code, str(caught.value)) == (
            code,
            f"the HTTP brain at {vendor.url} answered HTTP {status}",
        )
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
        with pytest.raises(AdapterError, match=r"the connection to the HTTP brain at \S+ failed or was lost"):
            await adapter.turn("hello")
    assert tries == 2


Answers = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(answer: Answers, **options: Any) -> AsyncIterator[HTTPAdapter]:  # noqa: ANN401 - passed on
    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield HTTPAdapter(f"http://127.0.0.1:{runner.addresses[0][1]}/", **options)
    finally:
        await close_clients()
        await runner.cleanup()


def fixed(kind: str, body: bytes) -> Answers:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind)

    return answer


EVENTS = "text/event-stream"
DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("kind", "body", "code", "text"),
    [
        (EVENTS, b'event: error\ndata: {"code": "overloaded"}\n\n', "overloaded", "off (overloaded)"),
        (EVENTS, b"event: tool_call\ndata: {}\n\n", "provider_error", "sent a tool_call that is none"),
        (EVENTS, b'data: {"text": "hal\n\n', "provider_error", "an event that begins like JSON and is none"),
        (EVENTS, b'data: {"text": ' + DEEP + b"\n\n", "provider_error", "an event that begins like JSON and is none"),
        (EVENTS, b"event: tool_call\ndata: " + DEEP + b"\n\n", "provider_error", "a tool_call that is none"),
        (EVENTS, b"data: cut off", "provider_error", "sent no events"),
        (EVENTS, b"data: " + b"x" * 3_000_000, "provider_error", "an event of more than 1048576 bytes"),
        ("application/json", b'{"answer": 1}', "provider_error", 'JSON that is no object with a "text"'),
        ("application/json", b"<html>", "provider_error", 'JSON that is no object with a "text"'),
        ("application/json", b'{"text": "hal', "provider_error", 'JSON that is no object with a "text"'),
        ("application/json", b"", "provider_error", "no JSON"),
        ("application/json", b'{"text": ' + DEEP, "provider_error", 'JSON that is no object with a "text"'),
        ("application/json", b'"' + b"x" * 3_000_000, "provider_error", "more than 1048576 characters of JSON"),
        ("text/plain", b'\n{"answer": 1}', "provider_error", 'JSON that is no object with a "text"'),
    ],
)
async def test_what_is_no_answer_is_an_error_and_never_spoken(kind: str, body: bytes, code: str, text: str) -> None:
    async with answering(fixed(kind, body)) as adapter:
        with pytest.raises(AdapterError) as caught:
            await adapter.turn("hello")
    assert (caught.value.code, text in str(caught.value)) == (code, True)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (EVENTS, "data: one\u2028two\x0b\x0c\x85three\n\n", "one\u2028two\x0b\x0c\x85three"),
        (EVENTS, "\ufeffdata: first\r\rdata: second\r\n\r\n", "firstsecond"),
        (EVENTS, 'data: {"text": "a"}\n\n: still here\n\ndata: {"other": 1}\n\n', "a"),
        ("text/plain", '{"text": "It is JSON all the same"}', "It is JSON all the same"),
        ("text/plain", " two\n words", " two\n words"),
    ],
)
async def test_what_servers_really_send_is_read(kind: str, body: str, said: str) -> None:
    async with answering(fixed(kind, body.encode())) as adapter:
        assert await adapter.turn("hello") == said


async def test_what_a_failed_request_was_to_say_is_said_by_the_next() -> None:
    async with brain(Answer((), "fail"), attempts=1) as (vendor, adapter):
        adapter.restore([{"role": "user", "content": "I am Ada"}])
        adapter.assist("The caller is a member")
        adapter.mark_interrupted(None)
        with pytest.raises(AdapterError):
            await adapter.turn("hello")
        adapter.assist("It is late")
        await adapter.turn("again")
        await adapter.turn("and now")
        _, second, third = vendor.requests
    assert second["notes"] == ["The caller is a member", "It is late"]
    assert second["interrupted"] == {"heard": None}
    assert second["history"] == [{"role": "user", "content": "I am Ada"}]
    assert set(third) == {"text", "context"}


async def test_the_context_that_is_given_is_sent() -> None:
    async with brain() as (vendor, adapter):
        await adapter.turn("hello", context={"session_id": "s", "tenant": {"id": 7}, "instructions": "secret"})
        assert vendor.requests[0]["context"]["tenant"] == {"id": 7}
        assert "secret" not in str(vendor.requests[0])


async def test_each_request_has_a_key_of_its_own_in_ascii() -> None:
    async with brain() as (vendor, adapter):
        odd = {**CONTEXT, "session_id": "Grüße\r\n", "turn_number": 2}
        await adapter.turn("hello", context=odd)
        async for _ in adapter.continue_reply("hello", "Hel", context=odd):
            pass
        await adapter.turn("hello")
        await adapter.turn("hello")
        keys = [headers["Idempotency-Key"] for headers in vendor.headers]
    assert keys[:2] == ["Gr%C3%BC%C3%9Fe%0D%0A-2", "Gr%C3%BC%C3%9Fe%0D%0A-2-rest"]
    assert len(set(keys)) == 4


async def test_the_callers_words_follow_no_redirect() -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/"})

    async with AsyncClient(follow_redirects=True) as client, answering(elsewhere, client=client) as adapter:
        with pytest.raises(AdapterError, match="answered HTTP 307"):
            await adapter.turn("hello")
    assert len(asked) == 1


async def test_an_error_names_the_server_and_no_secret() -> None:
    adapter = HTTPAdapter("http://user:word@127.0.0.1:9/hooks/T0KEN?key=secret", attempts=1)
    with pytest.raises(AdapterError) as caught:
        await adapter.turn("hello")
    await close_clients()
    assert str(caught.value) == "the connection to the HTTP brain at http://127.0.0.1:9 failed or was lost"


async def test_what_is_no_url() -> None:
    for url in ("", "brain.example", "ftp://brain.example"):
        with pytest.raises(ConfigurationError, match="must begin with http"):
            HTTPAdapter(url)
