"""Every adapter of ours keeps what every adapter promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.providers.anthropic_wire import AnthropicWire, anthropic_client
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import serve

from unpod.adapters import AnthropicAdapter, EchoAdapter, OpenAIAdapter, ScriptedAdapter
from unpod.testing import ADAPTER_PROMISES, FakeModel, adapter_contract


@asynccontextmanager
async def openai(model: FakeModel) -> AsyncIterator[OpenAIAdapter]:
    async with serve(model, OpenAIWire()) as vendor, openai_client(vendor) as client:
        yield OpenAIAdapter("tiny", client=client)


@asynccontextmanager
async def anthropic(model: FakeModel) -> AsyncIterator[AnthropicAdapter]:
    async with serve(model, AnthropicWire()) as vendor, anthropic_client(vendor) as client:
        yield AnthropicAdapter("tiny", client=client)


MODELS = {"openai": openai, "anthropic": anthropic}


@pytest.mark.parametrize("promise", ADAPTER_PROMISES)
@pytest.mark.parametrize("name", MODELS)
async def test_a_brain_with_a_model(name: str, promise: str) -> None:
    assert await adapter_contract(MODELS[name], promises=[promise]) == [promise]


async def test_a_brain_without_a_model() -> None:
    for brain in (EchoAdapter, lambda: ScriptedAdapter([("hello", "Good evening")])):
        assert len(await adapter_contract(brain)) == 2
