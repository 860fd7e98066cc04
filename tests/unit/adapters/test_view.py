"""One face for every brain: what the driver gets, whatever the adapter has."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import pytest

from unpod.adapters import AdapterView, ChatMessage, LLMCall, Piece, ToolCall, ToolResult, check_adapter
from unpod.adapters.pieces import llm_call
from unpod.errors import AdapterError

STOPS_WITHIN_S = 0.5  # the promise is 50 ms; the machine that tests may be busy


class Base:
    async def turn(self, text: str) -> str:
        return text

    def assist(self, text: str) -> None:
        """Take no notice."""


class Yields(Base):
    """Yields what it is given, and notes that its stream was closed."""

    def __init__(self, *pieces: object) -> None:
        self.pieces = pieces
        self.closed = 0

    async def stream(self, text: str) -> AsyncIterator[object]:
        try:
            for piece in self.pieces:
                yield piece
        finally:
            self.closed += 1


async def pieces_of(adapter: object, text: str = "hi", language: str | None = None) -> list[Piece]:
    async with aclosing(check_adapter(adapter).open(text, context={"call_id": "c"}, language=language)) as pieces:
        return [piece async for piece in pieces]


# --- what it may be ---------------------------------------------------------------------------------------------------


class Coroutine(Base):
    async def stream(self, text: str) -> AsyncIterator[str]:
        return self._pieces(text)

    async def _pieces(self, text: str) -> AsyncIterator[str]:
        yield text


class Iterates:
    def __init__(self, *pieces: str) -> None:
        self._rest = iter(pieces)
        self.closed = False

    def __aiter__(self) -> Iterates:
        return self

    async def __anext__(self) -> str:
        for piece in self._rest:
            return piece
        raise StopAsyncIteration

    async def close(self) -> None:
        self.closed = True


class Object(Base):
    def __init__(self) -> None:
        self.iterator = Iterates("a", "b")

    def stream(self, text: str) -> Iterates:
        return self.iterator


class ProviderStream:
    """As the vendors' packages have it: iterating it makes a generator, closing it is its own business."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def aclose(self) -> None:
        self.closed = True


class Provider(Base):
    def __init__(self) -> None:
        self.answer = ProviderStream()

    async def stream(self, text: str) -> ProviderStream:
        return self.answer


async def test_an_async_generator() -> None:
    assert await pieces_of(Yields("a", "b")) == ["a", "b"]


async def test_a_coroutine_that_returns_an_async_iterator() -> None:
    assert await pieces_of(Coroutine()) == ["hi"]


async def test_an_async_iterator_which_is_closed_at_the_end() -> None:
    adapter = Object()
    assert await pieces_of(adapter) == ["a", "b"]
    assert adapter.iterator.closed


async def test_an_iterable_of_a_provider_is_closed_beside_its_iterator() -> None:
    adapter = Provider()
    async with aclosing(check_adapter(adapter).open("hi", context={}, language=None)) as pieces:
        assert await anext(pieces) == "a"
    assert adapter.answer.closed


class Sync(Base):
    def stream(self, text: str) -> Iterator[str]:
        yield text


class ReturnsText(Base):
    async def stream(self, text: str) -> str:
        return text


@pytest.mark.parametrize(("adapter", "kind"), [(Sync(), "generator"), (ReturnsText(), "str")])
async def test_anything_else_is_named(adapter: object, kind: str) -> None:
    with pytest.raises(AdapterError, match=rf"stream\(\) returned an object of type {kind}, no async iterator"):
        await pieces_of(adapter)


# --- what it is given -------------------------------------------------------------------------------------------------


class Records(Base):
    def __init__(self) -> None:
        self.given: dict[str, object] = {}


class TakesLanguage(Records):
    async def stream(self, text: str, language: str | None = None) -> AsyncIterator[str]:
        self.given = {"language": language}
        yield text


class TakesContext(Records):
    async def stream(self, text: str, *, context: Mapping[str, object]) -> AsyncIterator[str]:
        self.given = {"context": context}
        yield text


class TakesAnything(Records):
    async def stream(self, text: str, **options: object) -> AsyncIterator[str]:
        self.given = options
        yield text


@pytest.mark.parametrize(
    ("adapter", "given"),
    [
        (TakesLanguage(), {"language": "de"}),
        (TakesContext(), {"context": {"call_id": "c"}}),
        (TakesAnything(), {"context": {"call_id": "c"}, "language": "de"}),
    ],
)
async def test_context_and_language_go_to_those_who_take_them(adapter: Records, given: dict[str, object]) -> None:
    await pieces_of(adapter, language="de")
    assert adapter.given == given


async def test_the_context_is_the_adapters_own_copy() -> None:
    adapter = TakesAnything()
    context: dict[str, object] = {"a": 1}
    async with aclosing(check_adapter(adapter).open("hi", context=context, language=None)) as pieces:
        assert [piece async for piece in pieces] == ["hi"]
    given = adapter.given["context"]
    assert isinstance(given, dict)
    given["a"] = 2
    assert context == {"a": 1}


# --- pieces -----------------------------------------------------------------------------------------------------------


class StreamChunk:
    def __init__(self, text: object) -> None:
        self.text = text


async def test_empty_pieces_and_chunks_without_text_are_skipped() -> None:
    assert await pieces_of(Yields("", "a", StreamChunk(""), StreamChunk(None), StreamChunk("b"))) == ["a", "b"]


async def test_reports_pass_between_texts() -> None:
    reports = [
        ToolCall("lookup", {"id": 7}, "c-1"),
        ToolResult("lookup", ["a"], "c-1"),
        LLMCall(model="m", tokens_in=3),
    ]
    assert await pieces_of(Yields("a", *reports, "b")) == ["a", *reports, "b"]


async def test_what_json_does_not_know_in_a_report_becomes_text() -> None:
    class Order:
        def __str__(self) -> str:
            return "order 7"

    loop: list[object] = []
    loop.append(loop)
    reported = await pieces_of(
        Yields(
            ToolCall("t", {"order": Order(), "tags": {"x"}}),
            ToolResult("t", loop),
            LLMCall(prompt_messages=[Order()], response_json=2**70),
        )
    )
    assert reported == [
        ToolCall("t", {"order": "order 7", "tags": ["x"]}),
        ToolResult("t", "<list>"),
        LLMCall(prompt_messages=["order 7"], response_json=2**70),
    ]


async def test_a_report_whose_fields_have_other_types() -> None:
    name: Any = 7
    none: Any = None
    assert await pieces_of(Yields(ToolCall("t", call_id=none))) == [ToolCall("t")]
    for report in (ToolCall(name), ToolResult(name), LLMCall(model=name)):
        with pytest.raises(AdapterError, match=r"Expected `str( \| null)?`, got `int`") as caught:
            await pieces_of(Yields(report))
        assert caught.value.code == "bad_report"


async def test_a_tools_result_that_no_record_can_hold_is_told_by_its_size() -> None:
    assert await pieces_of(Yields(ToolResult("t", "x" * 300_000))) == [ToolResult("t", "<str of 300002 bytes>")]


async def test_half_a_character_does_not_reach_the_wire() -> None:
    assert await pieces_of(Yields("caf\u00e9 \U0001f600", "\ud83d")) == ["caf\u00e9 \U0001f600", "\ufffd"]


@pytest.mark.parametrize(
    ("piece", "kind"), [(7, "int"), (None, "NoneType"), (b"a", "bytes"), (StreamChunk(7), "StreamChunk")]
)
async def test_any_other_piece_is_named_and_the_stream_closed(piece: object, kind: str) -> None:
    adapter = Yields("a", piece, "b")
    with pytest.raises(AdapterError, match=rf"Yields\.stream\(\) yielded an object of type {kind}; a piece is str"):
        await pieces_of(adapter)
    assert adapter.closed == 1


async def test_what_an_adapter_raises_comes_as_it_is() -> None:
    class Raises(Base):
        async def stream(self, text: str) -> AsyncIterator[str]:
            yield "a"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await pieces_of(Raises())


# --- stopping it ------------------------------------------------------------------------------------------------------


class Blocks(Base):
    """Says one word, then waits for its provider for ever."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.stopped = asyncio.Event()

    async def stream(self, text: str) -> AsyncIterator[str]:
        try:
            yield "well"
            self.waiting.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            self.stopped.set()


async def drain(view: AdapterView, got: list[Piece]) -> None:
    async with aclosing(view.open("hi", context={}, language=None)) as pieces:
        async for piece in pieces:
            got.append(piece)  # noqa: PERF401 - what came before the cancellation is what is tested


async def cancel(task: asyncio.Task[None]) -> float:
    """Cancel as the driver does, and return how long it took."""
    started = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return asyncio.get_running_loop().time() - started


async def test_a_cancelled_reply_has_stopped_its_provider_when_the_task_is_over() -> None:
    adapter = Blocks()
    got: list[Piece] = []
    task = asyncio.create_task(drain(check_adapter(adapter), got))
    await adapter.waiting.wait()
    assert await cancel(task) < STOPS_WITHIN_S
    assert adapter.stopped.is_set()
    assert got == ["well"]


async def test_closing_between_two_pieces_runs_the_adapters_finally() -> None:
    adapter = Yields("a", "b", "c")
    async with aclosing(check_adapter(adapter).open("hi", context={}, language=None)) as pieces:
        assert await anext(pieces) == "a"
    assert adapter.closed == 1


async def test_closing_a_reply_that_was_never_begun_asks_nothing_of_the_adapter() -> None:
    adapter = Yields("a")
    await check_adapter(adapter).open("hi", context={}, language=None).aclose()
    assert adapter.closed == 0


async def test_a_coroutine_that_waits_for_its_provider_is_cancelled() -> None:
    class Connecting(Base):
        def __init__(self) -> None:
            self.waiting = asyncio.Event()
            self.stopped = False

        async def stream(self, text: str) -> AsyncIterator[str]:
            try:
                self.waiting.set()
                await asyncio.Event().wait()
            finally:
                self.stopped = True
            return Yields("never").stream(text)  # type: ignore[return-value]

    adapter = Connecting()
    got: list[Piece] = []
    task = asyncio.create_task(drain(check_adapter(adapter), got))
    await adapter.waiting.wait()
    assert await cancel(task) < STOPS_WITHIN_S
    assert adapter.stopped
    assert got == []


async def test_an_adapter_that_swallows_the_cancellation_does_not_talk_on() -> None:
    class Stubborn(Base):
        def __init__(self) -> None:
            self.waiting = asyncio.Event()
            self.closed = False

        async def stream(self, text: str) -> AsyncIterator[str]:
            try:
                self.waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    yield "but I was not done"
                yield "and I go on"
            finally:
                self.closed = True

    adapter = Stubborn()
    got: list[Piece] = []
    task = asyncio.create_task(drain(check_adapter(adapter), got))
    await adapter.waiting.wait()
    await cancel(task)
    assert got == []
    assert adapter.closed


async def test_an_adapter_that_takes_the_cancellation_for_its_own_end_does_not_hide_it() -> None:
    class Polite(Base):
        def __init__(self) -> None:
            self.waiting = asyncio.Event()

        async def stream(self, text: str) -> AsyncIterator[str]:
            for word in await self._words():
                yield word

        async def _words(self) -> list[str]:
            self.waiting.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return []

    adapter = Polite()
    task = asyncio.create_task(drain(check_adapter(adapter), []))
    await adapter.waiting.wait()
    await cancel(task)


async def test_an_adapter_that_fails_while_it_is_stopped_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    class FailsToClose(Base):
        async def stream(self, text: str) -> AsyncIterator[str]:
            try:
                yield "a"
                yield "b"
            finally:
                raise ConnectionError("with a secret in it")

    with caplog.at_level(logging.WARNING, logger="unpod.adapters"):
        async with aclosing(check_adapter(FailsToClose()).open("hi", context={}, language=None)) as pieces:
            assert await anext(pieces) == "a"
    assert caplog.messages == ["FailsToClose: closing its stream failed: ConnectionError"]


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    closed: list[str] = []

    class Nested(Base):
        async def stream(self, text: str) -> AsyncIterator[str]:
            try:
                yield "a"
                yield "b"
            finally:
                closed.append("adapter")

    async with aclosing(check_adapter(Nested()).open("hi", context={}, language=None)) as pieces:
        await anext(pieces)
    assert closed == ["adapter"]
    gc.collect()
    assert closed == ["adapter"]


# --- the optional parts -----------------------------------------------------------------------------------------------


class Everything(Yields):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[object] = []
        self.is_complete = False
        self.callbacks: list[Callable[..., object]] = []

    def mark_interrupted(self, heard: str | None) -> None:
        self.heard.append(heard)

    def assist(self, text: str) -> None:
        self.heard.append(text)

    def restore(self, history: list[ChatMessage]) -> None:
        self.heard.append(history)

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        self.callbacks.append(fn)


class EverythingAsync(Yields):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[object] = []

    async def mark_interrupted(self, heard: str | None) -> None:
        self.heard.append(heard)

    async def assist(self, text: str) -> None:  # type: ignore[override]  # either is accepted
        self.heard.append(text)

    async def restore(self, history: list[ChatMessage]) -> None:
        self.heard.append(history)

    def is_complete(self) -> bool:
        return True


HISTORY: list[ChatMessage] = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("adapter", [Everything(), EverythingAsync()])
async def test_optional_parts_may_be_async_or_not(adapter: Everything | EverythingAsync) -> None:
    view = check_adapter(adapter)
    await view.mark_interrupted("so far")
    await view.mark_interrupted(None)
    await view.assist("a note")
    await view.restore(HISTORY)
    assert adapter.heard == ["so far", None, "a note", HISTORY]
    assert view.has_restore


async def test_their_absence_is_no_error() -> None:
    view = check_adapter(Yields())
    await view.mark_interrupted("so far")
    await view.restore(HISTORY)
    view.register_llm_callback(print)
    assert not view.is_complete()
    assert not view.has_restore


def test_is_complete_as_an_attribute_or_a_method() -> None:
    adapter = Everything()
    view = check_adapter(adapter)
    assert not view.is_complete()
    adapter.is_complete = True
    assert view.is_complete()
    assert check_adapter(EverythingAsync()).is_complete()


def test_is_complete_that_turns_out_to_be_async_is_an_error_and_ends_no_call() -> None:
    class Late(Yields):
        async def later(self) -> bool:
            return False

        @property
        def is_complete(self) -> object:
            return self.later()

    class Later(Yields):
        async def later(self) -> bool:
            return False

        def is_complete(self) -> object:
            return self.later()

    with pytest.raises(AdapterError, match=r"Later\.is_complete returned an awaitable"):
        check_adapter(Later()).is_complete()
    with pytest.raises(AdapterError, match=r"Late\.is_complete returned an awaitable"):
        check_adapter(Late()).is_complete()


def test_the_callback_is_registered_once() -> None:
    adapter = Everything()
    view = check_adapter(adapter)
    calls: list[dict[str, object]] = []
    view.register_llm_callback(lambda **fields: calls.append(fields))
    view.register_llm_callback(print)
    (report,) = adapter.callbacks
    report(model="m", tokens_in="12", cost=None, prompt_messages=[print], of_a_later_version=1)
    (call,) = calls
    assert LLMCall(**call) == LLMCall(model="m", tokens_in=12, prompt_messages=[str(print)])  # type: ignore[arg-type]


def test_a_model_call_that_does_not_fit_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    adapter = Everything()
    calls: list[object] = []
    check_adapter(adapter).register_llm_callback(lambda **fields: calls.append(fields))
    with caplog.at_level(logging.WARNING, logger="unpod.adapters"):
        adapter.callbacks[0](model="m", tokens_in="many")
    assert calls == []
    assert "Everything reported a model call that does not fit: LLMCall: Expected `int`, got `str`" in caplog.text


@pytest.mark.parametrize("name", ["cost", "latency_ms", "ttft_ms"])
@pytest.mark.parametrize("figure", [float("inf"), float("-inf"), float("nan"), "inf"])
def test_a_figure_that_is_no_number_is_refused(name: str, figure: object) -> None:
    with pytest.raises(AdapterError, match=f"LLMCall: {name} must be a finite number, got -?(inf|nan)") as refused:
        llm_call({"model": "m", name: figure})
    assert refused.value.code == "bad_report"


def test_a_figure_may_be_zero() -> None:
    assert llm_call({"cost": 0, "latency_ms": 0.0}) == LLMCall(cost=0.0, latency_ms=0.0)
