"""What users of other frameworks have reported in public, tried here on whole calls; each test names its report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client
from tests.providers.anthropic_wire import AnthropicWire
from tests.providers.openai_wire import OpenAIWire, chunk
from tests.providers.served import Vendor, Wire, data, serve

from unpod import CallContext
from unpod.adapters import AnthropicAdapter, ChatAdapter, OpenAIAdapter, ToolCall
from unpod.core.decision import ADAPTER_APOLOGY
from unpod.testing import Answer, FakeModel, SimulatedCall, simulate_call


def lights() -> str:
    """Switch the lights on."""
    return "they are on"


@asynccontextmanager
async def calling(
    wire: Wire, *answers: Answer, greeting: str | None = None
) -> AsyncIterator[tuple[SimulatedCall, Vendor]]:
    async with serve(FakeModel(*answers), wire) as served:
        client = (
            AsyncAnthropic(api_key="k", base_url=served.url)
            if isinstance(wire, AnthropicWire)
            else AsyncOpenAI(api_key="k", base_url=f"{served.url}/v1")
        )

        async def entrypoint(ctx: CallContext) -> None:
            brain: ChatAdapter = (
                AnthropicAdapter(client, tools=[lights])
                if isinstance(client, AsyncAnthropic)
                else OpenAIAdapter(client, tools=[lights])
            )
            ctx.session.dialog_machine = brain
            if greeting is not None:
                await ctx.session.say(greeting)
            await ctx.session.run()

        async with client, simulate_call(entrypoint, timeout_s=20) as call:
            yield call, served


async def test_a_greeting_that_is_cut_stands_before_what_the_caller_said() -> None:
    """livekit/agents#7108: the interrupted `say` was put behind the caller's text, and the model went on with it."""
    async with calling(OpenAIWire(), greeting="Hi, this is John with the bank.") as (call, served):
        await call.barge_in("Hi, this is John")
        assert await call.user("This is who?") == "Hello there"
    first, second = served.requests[0]["messages"]
    assert first["content"].endswith("Hi, this is John")
    assert second["content"] == "This is who?"


class Unsaid(OpenAIWire):
    """A compatible server which streams the arguments of a tool without parameters as an empty text."""

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        if isinstance(piece, str):
            return super().piece(piece, nth)
        function = {"name": piece.name, "arguments": ""}
        call = {"index": nth, "id": piece.call_id, "type": "function", "function": function}
        return [data(chunk({"tool_calls": [call]}))]


async def test_a_tool_without_parameters_runs_with_empty_arguments() -> None:
    """vercel/ai#6687: `""` for `{}`, and the turn ended silently without the tool."""
    async with calling(Unsaid(), Answer((ToolCall("lights", {}, "c1"),)), Answer(("Done.",))) as (call, served):
        assert await call.user("lights, please") == "Done."
        assert "they are on" in json.dumps(served.requests[1]["messages"])


class Malformed(AnthropicWire):
    """A model whose tool input is no JSON."""

    def piece(self, piece: str | ToolCall, nth: int) -> list[bytes]:
        sent = super().piece(piece, nth)
        return [each.replace(b'"partial_json": "{', b'"partial_json": "{city: NOPE') for each in sent]


async def test_tool_input_that_is_no_json_is_told_to_the_model() -> None:
    """anthropics/anthropic-sdk-python#1265: a bare parser's ValueError ended the whole stream."""
    async with calling(Malformed(), Answer((ToolCall("lights", {"a": 1}, "c1"),)), Answer(("Which city?",))) as (
        call,
        served,
    ):
        assert await call.user("the weather") == "Which city?"
        told = json.dumps(served.requests[1]["messages"][-1])
        assert "tool_result" in told
        assert "they are on" not in told


@pytest.mark.parametrize("pieces", [("<think>I should call lights()", " now.</think>"), (" ",), ()])
@pytest.mark.parametrize("wire", [OpenAIWire, AnthropicWire])
async def test_a_reply_without_a_word_is_an_apology_and_harms_no_later_turn(
    wire: Callable[[], Wire], pieces: tuple[str, ...]
) -> None:
    """home-assistant/core#167154 (qwen3 plans its call within its thinking), livekit/agents#2928 (no answer at all)."""
    async with calling(wire(), Answer(pieces), Answer(("Here I am.",))) as (call, _):
        assert (await call.user("lights, please")).strip() == ADAPTER_APOLOGY
        assert await call.user("hello?") == "Here I am."


async def test_a_tool_may_be_all_that_was_wanted() -> None:
    async with calling(OpenAIWire(), Answer((ToolCall("lights", {}, "c1"),)), Answer(())) as (call, _):
        assert await call.user("lights, please") == ""


async def test_replies_that_are_cut_do_not_use_up_a_clients_connections() -> None:
    """openai/openai-python#763: with two connections, the third streamed request timed out."""
    model = FakeModel(*[Answer(("One ",), then="hang")] * 3)
    async with (
        serve(model, OpenAIWire()) as served,
        DefaultAsyncHttpx2Client(limits=httpx2.Limits(max_connections=2)) as connections,
    ):
        client = AsyncOpenAI(api_key="k", base_url=f"{served.url}/v1", http_client=connections)

        async def entrypoint(ctx: CallContext) -> None:
            ctx.session.dialog_machine = OpenAIAdapter(client)
            await ctx.session.run()

        async with simulate_call(entrypoint, timeout_s=20) as call:
            for _ in range(3):
                await call.user("count", wait=False)
                await call.until(model.hanging.is_set)
                model.hanging.clear()
                await call.barge_in("One")
            assert await call.user("hello") == "Hello there"
