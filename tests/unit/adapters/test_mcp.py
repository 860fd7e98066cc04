"""MCP: a real server's tools, called by real vendors' clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
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
        assert adapter.state["tools"] == ["price_of", "fails", "pid", "more", "waits"]
        await close_clients()


@pytest.mark.slow
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


@pytest.mark.slow
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


class Keeper:
    """A server of 2025-06-18 that keeps sessions in its memory, and counts what it does."""

    def __init__(self, lost: int, hints: dict[str, bool]) -> None:
        self.lost = lost
        self.hints = hints
        self.sessions: set[str] = set()
        self.opened = 0
        self.orders = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405)
        asked = await request.json()
        if "id" not in asked:
            return web.Response(status=202)
        headers = {}
        if asked["method"] == "initialize":
            self.opened += 1
            headers["Mcp-Session-Id"] = f"s{self.opened}"
            self.sessions.add(f"s{self.opened}")
        elif request.headers.get("Mcp-Session-Id") not in self.sessions:
            return web.Response(status=self.lost)
        result = self.result(asked["method"], asked.get("params") or {})
        error = {"code": -32601, "message": "no such method"}
        answer = {"jsonrpc": "2.0", "id": asked["id"], **({"error": error} if result is None else {"result": result})}
        return web.json_response(answer, headers=headers)

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        if method == "initialize":
            information = {"name": "keeper", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": information}
        if method == "tools/list":
            tool = {"name": "order", "inputSchema": {"type": "object"}, "annotations": self.hints}
            return {"tools": [tool]}
        if method == "tools/call" and params["name"] == "order":
            self.orders += 1
            return {"content": [{"type": "text", "text": f"order {self.orders}"}]}
        return None


@asynccontextmanager
async def kept(lost: int, **hints: bool) -> AsyncIterator[tuple[Keeper, str]]:
    keeper = Keeper(lost, hints)
    app = web.Application()
    app.router.add_route("*", "/mcp", keeper.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield keeper, f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await close_clients()
        await runner.cleanup()


ORDER = ToolCall("order", {}, "c1")


async def results_of(adapter: MCPAdapter) -> list[object]:
    return [piece.result async for piece in adapter.stream("hello") if isinstance(piece, ToolResult)]


@pytest.mark.parametrize("lost", [404, 400, 502])
async def test_a_server_that_was_restarted_is_found_before_the_next_call(lost: int) -> None:
    async with kept(lost) as (keeper, url), brain("openai", *[Answer((ORDER,)), Answer(("Done.",))] * 2) as (_, made):
        adapter = MCPAdapter(made, MCPServer(url=url, quiet_s=0))
        assert await results_of(adapter) == ["order 1"]
        keeper.sessions.clear()
        assert await results_of(adapter) == ["order 2"]
        assert (keeper.opened, keeper.orders) == (2, 2)


@pytest.mark.parametrize(
    ("lost", "hints", "result"),
    [
        (404, {}, "order 2"),
        (502, {"idempotentHint": True}, "order 2"),
        (502, {}, "RuntimeError: the MCP server 127.0.0.1 was lost; whether it was done is not known"),
    ],
)
async def test_a_call_is_made_again_only_where_that_is_safe(lost: int, hints: dict[str, bool], result: str) -> None:
    answers = [Answer((ORDER,)), Answer(("Done.",))] * 3
    async with kept(lost, **hints) as (keeper, url), brain("openai", *answers) as (_, made):
        adapter = MCPAdapter(made, MCPServer(url=url, quiet_s=60))
        assert await results_of(adapter) == ["order 1"]
        keeper.sessions.clear()
        assert await results_of(adapter) == [result if "order" in result else {"error": result}]
        assert await results_of(adapter) == [f"order {keeper.orders}"], "the next one finds the server"


async def test_an_error_that_a_server_answers_closes_nobodys_connection() -> None:
    unknown = ToolCall("order", {}, "c1")
    async with kept(404) as (keeper, url), brain("openai", Answer((unknown,)), Answer(("No.",))) as (_, made):
        adapter = MCPAdapter(made, MCPServer(url=url))
        await adapter.turn("hello")
        (tool,) = adapter.brain.tools
        tool.remote_name = "gone"  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="no such method"):
            await tool.run({}, context={}, idempotency_key="")
        assert keeper.opened == 1


@pytest.mark.slow
async def test_a_server_whose_process_was_killed_is_started_again() -> None:
    pids = ToolCall("pid", {}, "c1")
    async with brain("openai", *[Answer((pids,)), Answer(("Yes.",))] * 2) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=STDIO, connect_s=20, quiet_s=0))
        (first,) = await results_of(adapter)
        os.kill(int(str(first)), signal.SIGKILL)
        (second,) = await results_of(adapter)
        assert str(second).isdigit()
        assert first != second


RAW = (sys.executable, str(ROOT / "tests" / "providers" / "mcp_stdio.py"))


def answers(*names: str) -> list[Answer]:
    """Return a model's answers: it asks for each tool by itself, and then says so."""
    return [Answer((ToolCall(name, {}, f"c{number}"),)) for number, name in enumerate(names)] + [Answer(("Yes.",))]


async def test_progress_gives_a_tool_more_time() -> None:
    async with brain("openai", *answers("steps")) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20, timeout_s=1.0))
        assert await results_of(adapter) == ["done"], "it took 1.5 s, and told of its progress each 0.3 s"


async def test_a_tool_that_always_has_progress_ends_all_the_same() -> None:
    async with brain("openai", *answers("steps")) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20, timeout_s=0.6, longest_s=0.9))
        (result,) = await results_of(adapter)
        assert result == {"error": "TimeoutError: it took longer than 0.9 s; whether it was done is not known"}


async def test_a_server_is_told_what_it_needs_not_do_any_more() -> None:
    async with brain("openai", *answers("hangs", "heard")) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20, timeout_s=0.3))
        late, heard = await results_of(adapter)
        assert late == {"error": "TimeoutError: no answer for 0.3 s; whether it was done is not known"}
        assert len(json.loads(str(heard))) == 1


@pytest.mark.slow
async def test_a_server_is_told_when_the_call_ends() -> None:
    async with brain("openai", *answers("hangs")) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20))
        asked = asyncio.Event()

        async def handle_call(ctx: CallContext) -> None:
            ctx.session.dialog_machine = adapter
            ctx.session.on("tool_call")(lambda *_: asked.set())
            await ctx.session.run()

        async with simulate_call(handle_call, timeout_s=20) as call:
            await call.user("hello", wait=False)
            await asyncio.wait_for(asked.wait(), 20)
        (heard,) = [tool for tool in adapter.brain.tools if tool.name == "heard"]
        assert len(json.loads(str(await heard.run({}, context={}, idempotency_key="")))) == 1


async def test_tools_that_a_tool_brings_are_known_to_the_next_request() -> None:
    async with brain("openai", *answers("unlock", "secret")) as (served, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20))
        assert await results_of(adapter) == ["done", "done"]
        offered = [[tool["function"]["name"] for tool in request["tools"]] for request in served.requests]
        assert ["secret" in names for names in offered] == [False, True, True]


async def test_tools_that_change_over_http_are_known_to_the_next_request() -> None:
    async with (
        mcp_server.served() as url,
        brain("openai", *answers("more"), *answers("extra")) as (served, made),
    ):
        adapter = MCPAdapter(made, url)
        assert await results_of(adapter) == [True]
        async with asyncio.timeout(10):
            while not any(tool.name == "extra" for tool in adapter.brain.tools):
                await asyncio.sleep(0)  # the server says so on a stream of its own
                await adapter.brain.tools.refresh()
        assert await results_of(adapter) == ["extra"]
        assert "extra" in str(served.requests[-1]["tools"])
        await close_clients()


async def test_a_call_over_http_that_runs_out_of_time_is_cancelled_at_the_server() -> None:
    mcp_server.CANCELLED.clear()
    async with mcp_server.served() as url, brain("openai", *answers("waits")) as (_, made):
        adapter = MCPAdapter(made, MCPServer(url=url, timeout_s=0.3))
        (late,) = await results_of(adapter)
        assert "no answer for 0.3 s" in str(late)
        await asyncio.wait_for(mcp_server.CANCELLED.wait(), 5)
        await close_clients()


async def test_one_calls_hanging_tool_and_lost_connection_leave_the_others_alone() -> None:
    """The server keeps silent to one call: another one on the same connection gets its answer."""
    async with brain("openai") as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20, timeout_s=2.0))
        await adapter.brain.tools.refresh()
        tools = {tool.name: tool for tool in adapter.brain.tools}

        async def run(name: str) -> object:
            return await tools[name].run({}, context={}, idempotency_key="")

        connection = adapter._connections[0]
        slow = asyncio.create_task(run("steps"))
        first = await run("pid")
        connection._leave(connection.begin())  # as one does who finds that it does not answer
        second = await run("pid")
        assert first != second
        assert await slow == "done", "it was under way on the connection that others had given up"
        (old,) = connection._left
        await asyncio.wait_for(asyncio.wait({old.holder}), 10)
        assert not connection._left, "which is closed once nobody waits for it"


async def test_a_server_that_is_lost_for_good_leaves_the_brain_its_words() -> None:
    async with brain("openai", *answers("pid"), Answer(("Still here.",))) as (_, made):
        adapter = MCPAdapter(made, MCPServer(command=RAW, connect_s=20, quiet_s=0))
        (first,) = await results_of(adapter)
        os.kill(int(str(first)), signal.SIGKILL)
        adapter._connections[0].server = MCPServer(command=("/no/such/program",), connect_s=0.5)
        adapter._connections[0]._changed()
        assert await adapter.turn("hello") == "Still here."


@pytest.mark.slow
async def test_a_server_of_http_whose_process_was_killed_and_started_again_is_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"

    async def started() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*STDIO, str(port))
        async with asyncio.timeout(25):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return process
                await asyncio.sleep(0.05)

    process = await started()
    try:
        async with brain("openai", *answers("pid"), *answers("pid")) as (_, made):
            adapter = MCPAdapter(made, MCPServer(url=url, quiet_s=0))
            (first,) = await results_of(adapter)
            process.kill()
            await process.wait()
            process = await started()
            (second,) = await results_of(adapter)
            assert (first, second) == (first, process.pid)
            assert first != second
            await close_clients()
    finally:
        process.kill()
        await process.wait()


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
