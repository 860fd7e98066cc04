"""MCP: a real server's tools, called by real vendors' clients."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.pages import ROOT
from tests.providers import mcp_server
from tests.providers.anthropic_wire import AnthropicWire, anthropic_client
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import Vendor, serve

from unpod import CallContext
from unpod.adapters import (
    AnthropicAdapter,
    EchoAdapter,
    MCPAdapter,
    MCPServer,
    OpenAIAdapter,
    ToolCall,
    ToolResult,
    close_clients,
)
from unpod.adapters.chat import ChatAdapter
from unpod.core import events as ev
from unpod.errors import AdapterError, ConfigurationError
from unpod.testing import Answer, FakeModel, simulate_call

ASK = ToolCall("price_of", {"pizza": "margherita"}, "c1")
FAIL = ToolCall("fails", {}, "c2")
STDIO = (sys.executable, str(ROOT / "tests" / "providers" / "mcp_server.py"))


@asynccontextmanager
async def brain(vendor: str, *answers: Answer) -> AsyncIterator[tuple[Vendor, ChatAdapter]]:
    if vendor == "openai":
        async with serve(FakeModel(*answers), OpenAIWire()) as served, openai_client(served) as client:
            yield served, OpenAIAdapter("tiny", client=client)
    else:
        async with serve(FakeModel(*answers), AnthropicWire()) as served, anthropic_client(served) as theirs:
            yield served, AnthropicAdapter("tiny", client=theirs)
    await close_clients()


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_a_model_calls_tools_over_http(vendor: str) -> None:
    async with mcp_server.served() as url, brain(vendor, Answer((ASK,)), Answer(("18 euros.",))) as (served, made):
        adapter = MCPAdapter(made, url)
        got = [piece async for piece in adapter.stream("what is a margherita")]
        result = {"pizza": "margherita", "euros": 18, "from": "nowhere"}
        assert got == [ASK, ToolResult("price_of", result, "c1"), "18 euros."]
        assert "Say what a pizza costs." in str(served.requests[0]["tools"])
        assert adapter.state["tools"] == ["price_of", "fails"]
        await close_clients()


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_a_model_calls_tools_over_stdio(vendor: str) -> None:
    server = MCPServer(
        command=STDIO, env=(("PIZZERIA", "Napoli"),), connect_s=20, only=frozenset({"price_of"}), prefix="p_"
    )
    named = ToolCall("p_price_of", ASK.arguments, "c1")
    async with brain(vendor, Answer((named,)), Answer(("18 euros.",))) as (_, made):
        adapter = MCPAdapter(made, server)
        got = [piece async for piece in adapter.stream("what is a margherita")]
        assert got[1] == ToolResult("p_price_of", {"pizza": "margherita", "euros": 18, "from": "Napoli"}, "c1")
        assert adapter.state["tools"] == ["p_price_of"]


async def test_on_a_call_they_are_journaled_and_errors_go_to_the_model() -> None:
    async with mcp_server.served() as url, brain("openai", Answer((FAIL,)), Answer(("No.",))) as (_, made):

        async def handle_call(ctx: CallContext) -> None:
            ctx.session.dialog_machine = MCPAdapter(made, url)
            await ctx.session.run()

        async with simulate_call(handle_call, timeout_s=20) as call:
            assert await call.user("a pizza") == "No."
            await call.hang_up()
            facts = [record.body for record in await call.records()]
        (step,) = [fact for fact in facts if isinstance(fact, ev.StepCompleted)]
        (result,) = [fact for fact in facts if isinstance(fact, ev.ToolReturned)]
        assert (step.name, step.error_type) == ("tool:fails", "RuntimeError")
        assert "Error executing tool fails" in str(result.result)
        await close_clients()


async def test_calls_share_a_connection_and_a_lost_one_is_made_anew() -> None:
    async with brain("openai", *[Answer((ASK,)), Answer(("18 euros.",))] * 2) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=STDIO, connect_s=20))
        other = MCPAdapter(OpenAIAdapter("tiny", client=made._client), MCPServer(command=STDIO, connect_s=20))  # type: ignore[attr-defined]
        assert adapter._connections == other._connections
        assert await adapter.turn("hello") == "18 euros."
        await adapter._connections[0].aclose()
        got = [piece async for piece in adapter.stream("again")]
        assert got[-1] == "18 euros."
        assert isinstance(got[1], ToolResult)
        assert "error" not in str(got[1].result)


async def test_a_server_that_is_not_there() -> None:
    async with brain("openai") as (_, made):
        for server in ("http://127.0.0.1:9/mcp", ("/no/such/program",)):
            with pytest.raises(
                AdapterError, match=r"the MCP server (127\.0\.0\.1|/no/such/program) cannot be reached"
            ) as caught:
                await MCPAdapter(made, server).turn("hello")
            assert caught.value.code == "mcp"
        hangs = MCPServer(command=(sys.executable, "-c", "import time; time.sleep(60)"), connect_s=0.2)
        with pytest.raises(AdapterError, match="cannot be reached"):
            await asyncio.wait_for(MCPAdapter(made, hangs).turn("hello"), 10)


async def test_what_is_no_server_and_no_brain() -> None:
    async with brain("openai") as (_, made):
        for server in ("pizzeria", (), MCPServer()):
            with pytest.raises(ConfigurationError, match="a server is a URL"):
                MCPAdapter(made, server)
        with pytest.raises(TypeError, match="EchoAdapter is no ChatAdapter"):
            MCPAdapter(EchoAdapter())  # type: ignore[arg-type]


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    async with brain("openai") as (_, made):
        with pytest.raises(ConfigurationError, match=r"pip install 'unpod\[mcp\]'"):
            MCPAdapter(made, "http://127.0.0.1:9/mcp")


def test_no_secret_is_shown() -> None:
    server = MCPServer(url="https://u:p@mcp.example/mcp?key=secret", headers=(("Authorization", "Bearer secret"),))
    assert repr(server) == "<MCPServer mcp.example>"
