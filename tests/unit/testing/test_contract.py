"""The contract finds what an adapter does not keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest

from unpod.adapters import ChatMessage, EchoAdapter, GeneratorAdapter
from unpod.testing import ADAPTER_PROMISES, FakeModel, adapter_contract


def honest(model: FakeModel) -> GeneratorAdapter:
    async def brain(text: str, *, language: str | None, history: list[ChatMessage]) -> AsyncGenerator[str, None]:
        async with aclosing(model.answer([*history, text, language])) as pieces:
            async for piece in pieces:
                yield str(piece)

    return GeneratorAdapter(brain)


def waits_for_the_whole(model: FakeModel) -> GeneratorAdapter:
    async def brain(text: str, *, history: list[ChatMessage]) -> AsyncGenerator[str, None]:
        async with aclosing(model.answer([*history, text])) as pieces:
            yield "".join([str(piece) async for piece in pieces])

    return GeneratorAdapter(brain)


def lets_the_model_talk_on(model: FakeModel) -> GeneratorAdapter:
    kept: list[object] = []

    async def brain(text: str) -> AsyncGenerator[str, None]:
        pieces = model.answer(text)
        kept.append(pieces)
        async for piece in pieces:
            yield str(piece)

    return GeneratorAdapter(brain)


def hides_errors(model: FakeModel) -> GeneratorAdapter:
    async def brain(text: str) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(model.answer(text)) as pieces:
                async for piece in pieces:
                    yield str(piece)
        except Exception:  # noqa: BLE001 - what is shown
            return

    return GeneratorAdapter(brain)


def quotes_the_caller(model: FakeModel) -> GeneratorAdapter:
    async def brain(text: str) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(model.answer(text)) as pieces:
                async for piece in pieces:
                    yield str(piece)
        except Exception as error:
            raise RuntimeError(f"no answer to {text}") from error

    return GeneratorAdapter(brain)


class KeepsAll(GeneratorAdapter):
    """Remembers what was not heard, and has no restore."""

    restore = None  # type: ignore[assignment]

    def mark_interrupted(self, heard: str | None) -> None:
        """Take no notice."""

    def assist(self, text: str) -> None:
        """Take no notice."""


def keeps_all(model: FakeModel) -> KeepsAll:
    return KeepsAll(honest(model)._function)


def mixes_calls_up() -> Callable[[FakeModel], GeneratorAdapter]:
    shared: list[str] = []

    def make(model: FakeModel) -> GeneratorAdapter:
        async def brain(text: str) -> AsyncGenerator[str, None]:
            shared.append(text)
            await asyncio.sleep(0)
            async with aclosing(model.answer(" ".join(shared))) as pieces:
                async for piece in pieces:
                    yield str(piece)

        return GeneratorAdapter(brain)

    return make


async def test_an_honest_one_keeps_everything() -> None:
    assert await adapter_contract(honest) == list(ADAPTER_PROMISES)


@pytest.mark.parametrize(
    ("make", "promise", "text"),
    [
        (waits_for_the_whole, "streaming", "it hangs"),
        (lets_the_model_talk_on, "closing", "the model's stream was not closed"),
        (hides_errors, "errors before the first piece", "nobody is told"),
        (hides_errors, "errors in mid-reply", "it passes as a whole reply"),
        (quotes_the_caller, "errors in mid-reply", "the error quotes what the caller has said"),
        (lets_the_model_talk_on, "memory", "the model is not shown"),
        (keeps_all, "mark_interrupted", "the model is shown more"),
        (keeps_all, "restore", "it has no restore"),
        (keeps_all, "notes", "the model is not shown"),
        (mixes_calls_up(), "concurrency", "another call's texts"),
    ],
)
async def test_what_is_broken_is_named(
    make: Callable[[FakeModel], object], promise: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod.testing.contract.WAIT_S", 0.2)
    with pytest.raises(AssertionError) as caught:
        await adapter_contract(make, promises=[promise])
    assert f"{promise}: " in str(caught.value)
    assert text in str(caught.value)


async def test_promises_are_chosen_by_name() -> None:
    assert "notes" not in await adapter_contract(honest, without=["notes"])
    assert await adapter_contract(EchoAdapter) == ["answers", "can be stopped"]
    with pytest.raises(ValueError, match="there are: answers"):
        await adapter_contract(honest, promises=["loyalty"])
