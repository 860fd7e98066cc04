"""Plain functions as tools: their schema, and what the model gets to know of what comes of them."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest

from unpod.adapters import Tool, ToolCall, ToolResult
from unpod.adapters.tools import ToolSet
from unpod.errors import ConfigurationError


def lookup(name: Annotated[str, "The caller's name"], limit: int = 3, kind: Literal["a", "b"] = "a") -> list[str]:
    """Find orders."""
    return [f"{name}-{kind}-{number}" for number in range(limit)]


async def called(function: Any, **arguments: object) -> object:  # noqa: ANN401 - any tool
    tools = ToolSet([function])
    (tool,) = tools
    result = await tools.call(ToolCall(tool.name, arguments, "c1"))
    assert isinstance(result, ToolResult)
    return result.result


def test_the_schema_is_the_signature() -> None:
    tool = Tool(lookup)
    assert (tool.name, tool.description) == ("lookup", "Find orders.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "The caller's name"},
            "limit": {"type": "integer", "default": 3},
            "kind": {"enum": ["a", "b"], "default": "a"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


async def test_a_sync_one_is_called_in_a_thread() -> None:
    assert await called(lookup, name="ada", limit=2) == ["ada-a-0", "ada-a-1"]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert await called(Tool(lambda: time.sleep(0.01), name="nap")) is None
    ticking.cancel()
    assert ticks > 2


async def test_the_calls_context_is_no_argument_of_the_models() -> None:
    async def whoami(context: dict[str, object], idempotency_key: str) -> object:
        return [context, idempotency_key]

    assert Tool(whoami).parameters["properties"] == {}
    assert await called(whoami) == [{}, ""]


async def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    for arguments in ({}, {"name": 1, "limit": "many"}, {"name": "a", "more": 1}):
        result = await called(lookup, **arguments)
        assert isinstance(result, dict)
        assert "ValidationError" in result["error"]
    assert await called(lookup, name="ada", limit="1") == ["ada-a-0"], "models write numbers as text"
    unknown = await ToolSet([lookup]).call(ToolCall("order", {}, "c1"))
    assert unknown.result == {"error": "there is no tool 'order'; there are: lookup"}


async def test_an_error_and_a_time_out_are_told_to_the_model() -> None:
    async def fails() -> None:
        raise ValueError("no such order")

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert await called(fails) == {"error": "ValueError: no such order"}
    result = await called(Tool(hangs, timeout_s=0.01))
    assert result == {"error": "TimeoutError: it took longer than 0.01 s; whether it was done is not known"}


async def test_what_json_cannot_hold() -> None:
    assert await called(Tool(lambda: {1, 2}, name="numbers")) in ([1, 2], [2, 1])


def test_what_is_no_tool() -> None:
    def untyped(name) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Lack a hint."""

    def many(*names: str) -> None:
        """Have no names."""

    def odd(value: asyncio.Event) -> None:
        """Take what no model can write."""

    def unknown(value: "Missing") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
        """Have a hint that does not exist."""

    for function, text in (
        (untyped, "'name' needs a type hint"),
        (many, "names"),
        (odd, "Event"),
        (unknown, "Missing"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            Tool(function)
    with pytest.raises(ConfigurationError, match="two tools are named 'lookup'"):
        ToolSet([lookup, lookup])
    with pytest.raises(ConfigurationError, match="no name that a model can call"):
        Tool(lambda: None)


async def test_one_that_swallows_its_cancellation_is_told_to_the_model_at_once() -> None:
    over = asyncio.Event()

    async def stubborn() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    async with asyncio.timeout(5):
        result = await called(Tool(stubborn, timeout_s=0.01))
    assert isinstance(result, dict)
    assert "TimeoutError: it took longer" in result["error"]
    over.set()


async def test_sync_ones_that_hang_hold_up_no_others_and_no_other_threads() -> None:
    release = threading.Event()
    try:
        hanging = [called(Tool(lambda: release.wait(20), name=f"hang{n}", timeout_s=0.05)) for n in range(40)]
        results = await asyncio.gather(*hanging)
        assert all(isinstance(result, dict) and "took longer" in result["error"] for result in results)
        assert await called(lookup, name="ada", limit=1) == ["ada-a-0"]
        assert await asyncio.to_thread(lambda: 1) == 1
    finally:
        release.set()


@pytest.mark.parametrize("error", [StopIteration("all"), SystemExit("enough"), asyncio.CancelledError(), MemoryError()])
async def test_whatever_a_sync_one_raises_is_told_to_the_model(error: BaseException) -> None:
    def fails() -> None:
        raise error

    async with asyncio.timeout(5):
        result = await called(Tool(fails, timeout_s=4.0))
    assert isinstance(result, dict)
    assert type(error).__name__ in result["error"]
