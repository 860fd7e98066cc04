"""Each example, run on a call, with the vendors' own clients talking to servers on this machine."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Protocol

import pytest
from tests.pages import ROOT
from tests.providers.anthropic_wire import AnthropicWire
from tests.providers.http_wire import EventsWire
from tests.providers.openai_wire import OpenAIWire
from tests.providers.served import Vendor, Wire, serve

from unpod.adapters import ToolCall, close_clients
from unpod.testing import Answer, FakeModel, SimulatedCall, simulate_call

EXAMPLES = ROOT / "examples"
CALLER = {"user_number": "+15550100"}


class Load(Protocol):
    def __call__(self, name: str, **environment: str) -> ModuleType: ...


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load an example, as it stands, as a module of its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")

    def found(name: str, **environment: str) -> ModuleType:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return found


@asynccontextmanager
async def vendor(wire: Wire, *answers: Answer) -> AsyncIterator[Vendor]:
    async with serve(FakeModel(*answers), wire) as served:
        try:
            yield served
        finally:
            await close_clients()


@asynccontextmanager
async def calling(module: ModuleType) -> AsyncIterator[SimulatedCall]:
    assert module.runner is not None
    async with simulate_call(module.handle_call, metadata=CALLER, timeout_s=20) as call:
        yield call


async def test_openai(load: Load) -> None:
    async with (
        vendor(OpenAIWire()) as served,
        calling(load("openai_agent", OPENAI_BASE_URL=f"{served.url}/v1")) as call,
    ):
        assert await call.user("a margherita") == "Hello there"
        await call.advance(21)
        assert call.said[-1] == "Are you still there?"
        assert await call.ended() == "no_response"


async def test_tools(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    price = ToolCall("price_of", {"pizza": "hawaii"}, "c1")
    order = ToolCall("place_order", {"pizza": "funghi", "count": 2}, "c2")
    async with (
        vendor(OpenAIWire(), Answer((price,)), Answer((order,)), Answer(("Done.",))) as served,
        calling(load("tools_agent", OPENAI_BASE_URL=f"{served.url}/v1")) as call,
    ):
        assert await call.user("two funghi") == "Done."
        await call.hang_up()
    told = capsys.readouterr().out
    assert "price_of: {'error': 'ValueError: we have margherita, funghi'}" in told
    assert "'pizza': 'funghi', 'count': 2, 'for': '+15550100'" in told


async def test_anthropic(load: Load) -> None:
    hours = ToolCall("opening_hours", {"day": "Monday"}, "c1")
    async with vendor(AnthropicWire(), Answer((hours,)), Answer(("We are closed.",))) as served:
        async with calling(load("anthropic_agent", ANTHROPIC_BASE_URL=served.url)) as call:
            assert await call.user("are you open on Monday") == "We are closed."
            await call.hang_up()
        assert served.requests[1]["messages"][-1]["content"][0]["content"] == "closed"


async def test_http(load: Load) -> None:
    async with vendor(EventsWire()) as served:
        async with calling(load("http_agent", BRAIN_URL=f"{served.url}/brain", BRAIN_TOKEN="t")) as call:
            assert await call.user("hello") == "Hello there"
            await call.hang_up()
        assert served.requests[0]["context"]["user_number"] == "+15550100"
        assert served.headers[0]["Authorization"] == "Bearer t"


async def test_generator(load: Load) -> None:
    async with calling(load("generator_agent")) as call:
        assert await call.user("hello") == "Noted. That was your text number 1: hello"
        await call.crash()
        assert await call.user("hallo", language="de") == "Noted, in de. That was your text number 2: hallo"


async def test_langgraph(load: Load) -> None:
    async with calling(load("langgraph_agent")) as call:
        assert await call.user("when are you open") == "We are open from five to eleven."
        assert await call.user("what is there") == "We have margherita and funghi."


@pytest.mark.slow
async def test_mcp(load: Load) -> None:
    price = ToolCall("price_of", {"pizza": "funghi"}, "c1")
    async with vendor(OpenAIWire(), Answer((price,)), Answer(("9.50",))) as served:
        async with calling(load("mcp_agent", OPENAI_BASE_URL=f"{served.url}/v1")) as call:
            assert await call.user("what is a funghi") == "9.50"
            await call.hang_up()
        assert json.loads(served.requests[1]["messages"][-1]["content"]) == 9.5


async def test_fallback(load: Load) -> None:
    async with vendor(OpenAIWire(), Answer((), "fail")) as first, vendor(AnthropicWire()) as second:
        addresses = {"OPENAI_BASE_URL": f"{first.url}/v1", "ANTHROPIC_BASE_URL": second.url}
        async with calling(load("fallback_agent", **addresses)) as call:
            assert await call.user("hello") == "Hello there"
            await call.hang_up()
        assert len(second.requests) == 1


def test_every_example_has_its_test() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    elsewhere = {"hello", "mcp_server", "superdialog"}  # superdialog's runs in its own environment: tests/superdialog
    found = {path.stem.removesuffix("_agent") for path in EXAMPLES.glob("*.py")} - elsewhere
    assert found <= tested
