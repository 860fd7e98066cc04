"""What vendors' wires really do, through their own clients: each stream is played byte for byte by a server here."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from aiohttp import web
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client

from unpod.adapters import AnthropicAdapter, FallbackAdapter, OpenAIAdapter, ToolCall, ToolResult, close_clients
from unpod.adapters.chat import ChatAdapter
from unpod.adapters.vendors import retry_after
from unpod.errors import AdapterError

Json = dict[str, Any]


class Played:
    """Answers each request with the next stream, and keeps what it was asked."""

    def __init__(self, streams: Sequence[Sequence[Json]], *, named: bool) -> None:
        self.requests: list[Json] = []
        self._streams = list(streams)
        self._named = named

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json())
        return web.Response(body=b"".join(map(self._event, self._streams.pop(0))), content_type="text/event-stream")

    def _event(self, event: Json) -> bytes:
        name = f"event: {event['type']}\n".encode() if self._named else b""
        return name + b"data: " + json.dumps(event).encode() + b"\n\n"


@asynccontextmanager
async def played(path: str, streams: Sequence[Sequence[Json]]) -> AsyncIterator[tuple[Played, str]]:
    vendor = Played(streams, named=path == "/v1/messages")
    app = web.Application()
    app.router.add_post(path, vendor.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield vendor, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def openai(*streams: Sequence[Json], **options: Any) -> AsyncIterator[tuple[Played, OpenAIAdapter]]:  # noqa: ANN401
    async with (
        played("/v1/chat/completions", streams) as (vendor, url),
        AsyncOpenAI(api_key="any", base_url=f"{url}/v1", max_retries=0) as client,
    ):
        yield vendor, OpenAIAdapter("tiny", client=client, **options)


@asynccontextmanager
async def anthropic(*streams: Sequence[Json], **options: Any) -> AsyncIterator[tuple[Played, AnthropicAdapter]]:  # noqa: ANN401
    async with (
        played("/v1/messages", streams) as (vendor, url),
        AsyncAnthropic(api_key="any", base_url=url, max_retries=0) as client,
    ):
        yield vendor, AnthropicAdapter("tiny", client=client, **options)


class Restaurant:
    """Its tool needs no argument at all: run without any, it cancels everything."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def cancel_orders(self, order: str = "all") -> str:
        """Cancel orders."""
        self.cancelled.append(order)
        return "cancelled"


async def heard(adapter: ChatAdapter, text: str = "hello") -> list[object]:
    return [piece async for piece in adapter.stream(text)]


# --- OpenAI's chat completions ----------------------------------------------------------------------------------------


def said(content: object = None, finish: str | None = None, **delta: object) -> Json:
    choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}


def asked(arguments: str, name: str = "cancel_orders", call_id: str = "c1", **extra: object) -> Json:
    function = {"name": name, "arguments": arguments}
    return said(tool_calls=[{"index": 0, "id": call_id, "type": "function", "function": function, **extra}])


STOP = said(finish="stop")
TOOLS = said(finish="tool_calls")


@pytest.mark.parametrize("arguments", ['{"order": "A-1', '["A-1"]', "0", '""'])
async def test_a_tool_without_proper_arguments_is_not_run(arguments: str) -> None:
    restaurant = Restaurant()
    streams = [asked(arguments), TOOLS], [said("Sorry, which one?"), STOP]
    async with openai(*streams, tools=[restaurant.cancel_orders]) as (vendor, adapter):
        assert (await heard(adapter))[-1] == "Sorry, which one?"
        *_, use, result = vendor.requests[1]["messages"]
    assert restaurant.cancelled == []
    assert isinstance(json.loads(use["tool_calls"][0]["function"]["arguments"]), dict)
    assert "nothing was done: the arguments must be one JSON object" in result["content"]


@pytest.mark.parametrize("name", ["cancel orders", "functions.cancel", "x" * 90, "$"])
async def test_a_name_that_the_model_has_made_up_spoils_no_later_turn(name: str) -> None:
    streams = [asked("{}", name), TOOLS], [said("No."), STOP], [said("Yes."), STOP]
    async with openai(*streams, tools=[Restaurant().cancel_orders]) as (vendor, adapter):
        await heard(adapter)
        await heard(adapter)
        shown = vendor.requests[2]["messages"][1]["tool_calls"][0]["function"]["name"]
    assert shown.replace("_", "").replace("-", "").isalnum() or shown == "_"
    assert len(shown) <= 64


async def test_two_calls_under_one_id_get_a_result_each() -> None:
    both: list[Json] = [
        {"index": n, "id": "c1", "type": "function", "function": {"name": "cancel_orders", "arguments": text}}
        for n, text in enumerate(['{"order": "A"}', '{"order": "B"}'])
    ]
    restaurant = Restaurant()
    streams = [said(tool_calls=both), TOOLS], [said("Done."), STOP]
    async with openai(*streams, tools=[restaurant.cancel_orders]) as (vendor, adapter):
        await heard(adapter)
        _, use, *results = vendor.requests[1]["messages"]
    assert sorted(restaurant.cancelled) == ["A", "B"]
    assert [call["id"] for call in use["tool_calls"]] == [result["tool_call_id"] for result in results]
    assert len({call["id"] for call in use["tool_calls"]}) == 2


async def test_a_character_in_two_halves_is_spoken_whole_and_remembered() -> None:
    streams = [said("Hi \ud83d"), said("\ude00!"), STOP], [said("Again"), STOP]
    async with openai(*streams) as (vendor, adapter):
        assert "".join(map(str, await heard(adapter))) == "Hi \U0001f600!"
        await heard(adapter)
        assert vendor.requests[1]["messages"][1]["content"] == "Hi \U0001f600!"


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        ([said("Half a")], "connection"),
        ([said(finish="content_filter")], "content_filter"),
        ([said("Half a", finish="content_filter")], "content_filter"),
        ([said(finish="length")], "provider_error"),
        ([{"error": {"code": 429, "message": "slow down"}}], "rate_limited"),
        ([said("Half a"), {"error": {"code": None, "type": "overloaded_error", "message": "no"}}], "overloaded"),
        ([said("Half a"), {"error": {"code": "invalid_api_key", "message": "no"}}], "auth"),
        ([{}], "connection"),
        ([{"choices": []}], "connection"),
    ],
)
async def test_a_reply_that_is_not_whole_is_an_error_of_its_kind(stream: list[Json], code: str) -> None:
    async with openai(stream) as (_, adapter):
        with pytest.raises(AdapterError) as caught:
            await heard(adapter)
    assert caught.value.code == code


async def test_content_in_parts_and_thinking() -> None:
    thought: Json = {"type": "thinking", "thinking": [{"type": "text", "text": "They want pizza."}]}
    stream = [said([thought]), said([{"type": "text", "text": "Which"}]), said(" one?"), STOP]
    async with openai(stream, [said("<think>hm"), said("</think>Fine."), STOP]) as (_, adapter):
        assert await heard(adapter) == ["Which", " one?"]
        assert await heard(adapter) == ["Fine."]
        assert [message["content"] for message in adapter.history] == ["hello", "Which one?", "hello", "Fine."]


async def test_what_a_vendor_wants_back_with_a_tools_result_goes_back_on_all_later_turns() -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    first = [said(reasoning_content="They "), said(reasoning_content="want it."), asked("{}", extra_content=signature)]
    streams = [*first, TOOLS], [said("Done."), STOP], [said("Bye."), STOP]
    async with openai(*streams, tools=[Restaurant().cancel_orders]) as (vendor, adapter):
        assert "They want it." not in await heard(adapter)
        await heard(adapter)
        _, second, third = (request["messages"][1:] for request in vendor.requests)
    assert second[0]["reasoning_content"] == "They want it."
    assert second[0]["tool_calls"][0]["extra_content"] == signature
    assert third[0] == second[0]


@pytest.mark.parametrize(
    ("usage", "figures"),
    [
        ({}, (2, 1, True)),
        ({"prompt_tokens": None, "completion_tokens": 9}, (2, 9, True)),
        ({"prompt_tokens": 7, "completion_tokens": 9, "prompt_tokens_details": None}, (7, 9, False)),
        ({"prompt_tokens": 7, "completion_tokens": 9, "cost": float("inf")}, (7, 9, False)),
    ],
)
async def test_metering_never_fails_a_reply(usage: Json, figures: tuple[int, int, bool]) -> None:
    calls: list[Json] = []
    async with openai([said("Fine"), STOP, {**said(), "choices": [], "usage": usage}]) as (_, adapter):
        adapter.register_llm_callback(lambda **fields: calls.append(fields))
        assert await heard(adapter) == ["Fine"]
    assert [(call["tokens_in"], call["tokens_out"], call["estimated"]) for call in calls] == [figures]


# --- Anthropic's messages ---------------------------------------------------------------------------------------------

USAGE = {"input_tokens": 40, "output_tokens": 1}


def begun(usage: Json | None = None) -> Json:
    message: Json = {"id": "m", "type": "message", "role": "assistant", "model": "tiny", "content": []}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}


def block(*deltas: Json, **content: object) -> list[Json]:
    """Return a block's events."""
    return [
        {"type": "content_block_start", "index": 0, "content_block": content},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
    ]


def text(words: str) -> list[Json]:
    return block({"type": "text_delta", "text": words}, type="text", text="")


def ended(reason: str = "end_turn", usage: Json | None = None) -> list[Json]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


@pytest.mark.parametrize("arguments", ['{"order": "A-1', '["A-1"]', "0", '""'])
async def test_anthropic_runs_no_tool_without_proper_arguments(arguments: str) -> None:
    restaurant = Restaurant()
    use: Json = {"type": "tool_use", "id": "t1", "name": "cancel_orders", "input": {}}
    tool = block({"type": "input_json_delta", "partial_json": arguments}, **use)
    streams = [begun(USAGE), *tool, *ended("tool_use")], [begun(USAGE), *text("Which one?"), *ended()]
    async with anthropic(*streams, tools=[restaurant.cancel_orders]) as (vendor, adapter):
        assert (await heard(adapter))[-1] == "Which one?"
        assert isinstance(vendor.requests[1]["messages"][1]["content"][0]["input"], dict)
    assert restaurant.cancelled == []


async def test_arguments_that_are_given_whole_in_the_blocks_start() -> None:
    restaurant = Restaurant()
    tool = block(type="tool_use", id="t1", name="cancel_orders", input={"order": "A-1"})
    streams = [begun(USAGE), *tool, *ended("tool_use")], [begun(USAGE), *text("Done."), *ended()]
    async with anthropic(*streams, tools=[restaurant.cancel_orders]) as (_, adapter):
        assert await heard(adapter) == [
            ToolCall("cancel_orders", {"order": "A-1"}, "t1"),
            ToolResult("cancel_orders", "cancelled", "t1"),
            "Done.",
        ]
    assert restaurant.cancelled == ["A-1"]


async def test_thinking_goes_back_before_what_was_said_and_used_after_it() -> None:
    thinking = block(
        {"type": "thinking_delta", "thinking": "They want it."},
        {"type": "signature_delta", "signature": "c2ln"},
        type="thinking",
        thinking="",
        signature="",
    )
    tool = block(type="tool_use", id="t1", name="cancel_orders", input={})
    first = [begun(USAGE), *thinking, *text("One moment."), *tool, *ended("tool_use")]
    streams = first, [begun(USAGE), *text("Done."), *ended()], [begun(USAGE), *text("Bye."), *ended()]
    async with anthropic(*streams, tools=[Restaurant().cancel_orders]) as (vendor, adapter):
        assert (await heard(adapter))[0] == "One moment."
        await heard(adapter)
        _, second, third = (request["messages"] for request in vendor.requests)
    assert [part["type"] for part in second[1]["content"]] == ["thinking", "text", "tool_use"]
    assert second[1]["content"][0] == {"type": "thinking", "thinking": "They want it.", "signature": "c2ln"}
    assert third[1] == second[1]


async def test_a_blank_reply_is_not_sent_back() -> None:
    streams = [begun(USAGE), *text(" \n"), *ended()], [begun(USAGE), *text("Yes."), *ended()]
    async with anthropic(*streams) as (vendor, adapter):
        with pytest.raises(AdapterError, match="stopped before anything was said"):
            await heard(adapter)
        assert await heard(adapter, "are you there") == ["Yes."]
        assert all(str(message["content"]).strip() for message in vendor.requests[1]["messages"])


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        ([*ended("refusal")], "content_filter"),
        ([*text("Half a")], "connection"),
        ([*ended("max_tokens")], "provider_error"),
        ([*text("Half"), {"type": "error", "error": {"type": "rate_limit_error", "message": "no"}}], "rate_limited"),
        ([{"type": "error", "error": {"type": "authentication_error", "message": "no"}}], "auth"),
    ],
)
async def test_anthropic_says_what_kind_of_error_it_was(stream: list[Json], code: str) -> None:
    async with anthropic([begun(USAGE), *stream]) as (_, adapter):
        with pytest.raises(AdapterError) as caught:
            await heard(adapter)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("start", "stream", "figures"),
    [
        (USAGE, [*text("Fine, thank you"), *ended(usage={"output_tokens": 9})], (40, 9, False)),
        (None, [*text("Fine, thank you"), *ended(usage={"output_tokens": 9})], (2, 9, True)),
        (USAGE, [*text("Fine, thank you"), *ended()], (40, 4, True)),
        (USAGE, [*text("Fine, thank you")], (40, 4, True)),
    ],
    ids=["whole", "no usage at the start", "none at the end", "cut"],
)
async def test_what_was_not_counted_to_the_end_is_estimated(
    start: Json | None, stream: list[Json], figures: tuple[int, int, bool]
) -> None:
    calls: list[Json] = []
    async with anthropic([begun(start), *stream]) as (_, adapter):
        adapter.register_llm_callback(lambda **fields: calls.append(fields))
        pieces = adapter.stream("hello")
        assert await anext(pieces) == "Fine, thank you"
        try:
            assert [piece async for piece in pieces] == []
        except AdapterError as error:
            assert error.code == "connection"  # noqa: PT017 - one of the streams is cut
    assert [(call["tokens_in"], call["tokens_out"], call["estimated"]) for call in calls] == [figures]


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_the_callers_words_follow_no_redirect(vendor: str) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/{path:.*}", elsewhere)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        adapter: ChatAdapter = (
            OpenAIAdapter("tiny", api_key="any", base_url=url)
            if vendor == "openai"
            else AnthropicAdapter("tiny", api_key="any", base_url=url)
        )
        with pytest.raises(AdapterError, match="HTTP 307"):
            await heard(adapter)
    finally:
        await close_clients()
        await runner.cleanup()
    assert len(asked) == 1


async def test_requests_that_are_cut_off_leave_no_connection_behind() -> None:
    """Cut while they connect, wait or stream, more of them than the pool has room for: later ones find room."""
    chance = random.Random(7)  # noqa: S311 - when a caller cuts in

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in [said("One "), said("two "), STOP]:
            await asyncio.sleep(chance.random() * 0.005)
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        limits = httpx2.Limits(max_connections=5)
        http_client = DefaultAsyncHttpx2Client(limits=limits)
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        async with AsyncOpenAI(api_key="any", base_url=url, max_retries=0, http_client=http_client) as client:

            async def cut_off() -> None:
                reply = asyncio.create_task(heard(OpenAIAdapter("tiny", client=client)))
                await asyncio.sleep(chance.random() * 0.02)
                reply.cancel()
                await asyncio.wait([reply])

            for _ in range(20):
                await asyncio.gather(*(cut_off() for _ in range(15)))
            async with asyncio.timeout(20):
                assert await heard(OpenAIAdapter("tiny", client=client)) == ["One ", "two "]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Answer whatever is posted to a free port of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await close_clients()
        await runner.cleanup()


@asynccontextmanager
async def own_client(vendor: str, url: str, **options: Any) -> AsyncIterator[ChatAdapter]:  # noqa: ANN401
    """Yield an adapter with a client of the user's, as its makers set it: it retries, and follows redirects."""
    if vendor == "openai":
        async with AsyncOpenAI(api_key="any", base_url=url) as client:
            yield OpenAIAdapter("tiny", client=client, **options)
            assert not client.is_closed()
    else:
        async with AsyncAnthropic(api_key="any", base_url=url) as theirs:
            yield AnthropicAdapter("tiny", client=theirs, **options)
            assert not theirs.is_closed()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_the_callers_words_follow_no_redirect_of_a_users_own_client_either(vendor: str, status: int) -> None:
    arrived: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        arrived.append(await request.text())
        return web.Response(status=500)

    async with answering(elsewhere) as other:

        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": f"{other}/elsewhere"})

        async with answering(redirect) as url, own_client(vendor, url) as adapter:
            with pytest.raises(AdapterError, match=f"HTTP {status}"):
                await heard(adapter)
    assert arrived == []


async def test_a_client_that_a_tracing_library_has_changed_is_used_as_it_is() -> None:
    traced: list[object] = []
    async with openai([said("yes"), STOP]) as (_, adapter):
        completions = adapter._client.chat.completions
        create = completions.create

        async def create_traced(**request: Any) -> object:  # noqa: ANN401
            traced.append(request["model"])
            return await create(**request)

        completions.create = create_traced  # type: ignore[method-assign,assignment]
        assert await heard(adapter) == ["yes"]
    assert traced == ["tiny"]


class Limited:
    """Refuses `times` requests with a status and headers, and answers the next."""

    def __init__(self, vendor: str, status: int, headers: dict[str, str], times: int) -> None:
        self.asked = 0
        self._given = (status, headers)
        self._times = times
        self._events = WHOLE_ANSWERS[vendor]

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self.asked += 1
        if self.asked <= self._times:
            return web.json_response({"error": {"message": "m"}}, status=self._given[0], headers=self._given[1])
        return web.Response(body=self._events, content_type="text/event-stream")


WHOLE_ANSWERS = {
    "openai": b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (said("yes"), STOP)),
    "anthropic": b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in (
            {
                "type": "message_start",
                "message": {
                    "id": "m",
                    "type": "message",
                    "role": "assistant",
                    "content": [],
                    "model": "tiny",
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": {"input_tokens": 1, "output_tokens": 1},
                },
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 1},
            },
            {"type": "message_stop"},
        )
    ),
}


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("headers", [{"retry-after": "0"}, {"retry-after-ms": "50", "retry-after": "30"}])
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_a_provider_that_soon_can_be_asked_again_is_waited_for(
    vendor: str, headers: dict[str, str], status: int
) -> None:
    limited = Limited(vendor, status, headers, times=2)
    async with answering(limited.answer) as url, own_client(vendor, url) as adapter:
        assert await heard(adapter) == ["yes"]
    assert limited.asked == 3


@pytest.mark.parametrize(
    ("status", "headers", "code", "after"),
    [
        (429, {"retry-after": "60"}, "rate_limited", 60.0),
        (429, {}, "rate_limited", None),
        (429, {"retry-after": "soon"}, "rate_limited", None),
        (429, {"retry-after": "nan"}, "rate_limited", None),
        (503, {"retry-after-ms": "2100"}, "overloaded", 2.1),
        (529, {"retry-after": "2.5"}, "overloaded", 2.5),
    ],
)
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_otherwise_it_is_an_error_at_once_that_says_when(
    vendor: str, status: int, headers: dict[str, str], code: str, after: float | None
) -> None:
    limited = Limited(vendor, status, headers, times=9)
    async with answering(limited.answer) as url, own_client(vendor, url) as adapter:
        with pytest.raises(AdapterError) as caught:
            await heard(adapter)
    assert (caught.value.code, caught.value.retry_after_s, limited.asked) == (code, after, 1)


async def test_all_waiting_of_a_reply_is_bounded() -> None:
    limited = Limited("openai", 429, {"retry-after-ms": "100"}, times=99)
    async with answering(limited.answer) as url, own_client("openai", url, max_wait_s=0.25) as adapter:
        with pytest.raises(AdapterError) as caught:
            await heard(adapter)
    assert (caught.value.code, limited.asked) == ("rate_limited", 3)


async def test_nobody_waits_where_another_brain_can_be_asked() -> None:
    limited, other = Limited("openai", 429, {"retry-after": "1"}, times=9), Limited("openai", 429, {}, times=0)
    async with (
        answering(limited.answer) as url,
        answering(other.answer) as second,
        own_client("openai", url) as first,
        own_client("openai", second) as last,
    ):
        adapter = FallbackAdapter([first, last])
        assert [piece async for piece in adapter.stream("hello")] == ["yes"]
    assert (limited.asked, other.asked) == (1, 1)


def test_when_a_provider_can_be_asked_again_may_be_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert 28 < (retry_after({"retry-after": format_datetime(soon, usegmt=True)}) or 0) <= 30
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    for header in ({}, {"retry-after": ""}, {"retry-after": "inf"}, {"retry-after": "-1"}, {"retry-after-ms": "x"}):
        assert retry_after(header) is None
