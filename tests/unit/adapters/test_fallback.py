"""The fallback: who answers, and that nobody hears half of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from unpod.adapters import (
    ChatMessage,
    EchoAdapter,
    FallbackAdapter,
    GeneratorAdapter,
    LLMCall,
    Piece,
    ToolCall,
    check_adapter,
)
from unpod.errors import AdapterError, ConfigurationError


class Played:
    """A brain that yields its pieces, then fails or hangs; it keeps what it was told."""

    def __init__(
        self, *pieces: Piece, fails: bool = False, hangs: bool = False, raises: BaseException | None = None
    ) -> None:
        self.pieces, self.fails, self.hangs, self.raises = pieces, fails, hangs, raises
        self.asked: list[str] = []
        self.notes: list[str] = []
        self.restored: list[ChatMessage] = []
        self.heard: list[str | None] = []
        self.closed = 0
        self.is_complete = False

    async def stream(self, text: str) -> AsyncGenerator[Piece, None]:
        self.asked.append(text)
        try:
            for piece in self.pieces:
                yield piece
            if self.fails:
                raise AdapterError("no", code="rate_limited")
            if self.raises is not None:
                raise self.raises
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.closed += 1

    async def turn(self, text: str) -> str:
        return text

    def assist(self, text: str) -> None:
        self.notes.append(text)

    def restore(self, history: list[ChatMessage]) -> None:
        self.restored = history

    def mark_interrupted(self, heard: str | None) -> None:
        self.heard.append(heard)


async def test_the_next_answers_where_one_lets_a_cancellation_of_its_own_through() -> None:
    view = check_adapter(FallbackAdapter([Played(raises=asyncio.CancelledError()), Played("second")]))
    assert [piece async for piece in view.open("hi", context={}, language=None)] == ["second"]


async def test_the_next_answers_where_one_fails_or_is_silent() -> None:
    for broken in (Played(fails=True), Played(hangs=True), Played(LLMCall(model="tiny"), hangs=True)):
        good = Played("Good ", "evening", hangs=False)
        adapter = FallbackAdapter([broken, good], first_token_s=0.01)
        assert [piece async for piece in adapter.stream("hello")] == ["Good ", "evening"]
        assert broken.closed == 1
        assert adapter.state == {"answering": "Played"}
        assert await adapter.turn("again") == "Good evening"
        assert (broken.asked, good.asked) == (["hello"], ["hello", "again"]), (
            "one that failed is asked last for a while"
        )


async def test_a_reply_that_has_begun_is_not_taken_over() -> None:
    for first in ("Good ", ToolCall("order", {}, "c1")):
        begun, other = Played(first, fails=True), Played("Hello")
        got: list[Piece] = []
        with pytest.raises(AdapterError, match="no"):
            got += [piece async for piece in FallbackAdapter([begun, other]).stream("hello")]
        assert other.asked == []


async def test_what_none_can_answer() -> None:
    one, two = Played(fails=True), Played(fails=True)
    with pytest.raises(AdapterError, match="no") as caught:
        await FallbackAdapter([one, two]).turn("hello")
    assert caught.value.code == "rate_limited"
    assert one.asked == two.asked == ["hello"]
    with pytest.raises(ConfigurationError, match="at least one"):
        FallbackAdapter([])


async def test_the_last_one_may_take_its_time() -> None:
    async def slow(text: str) -> AsyncGenerator[str, None]:
        await asyncio.sleep(0.05)
        yield text

    adapter = FallbackAdapter([Played(hangs=True), GeneratorAdapter(slow)], first_token_s=0.01)
    assert await adapter.turn("hello") == "hello"


async def test_all_know_what_was_said_and_heard() -> None:
    one, two = Played("I am one"), Played("I am two")
    adapter = FallbackAdapter([one, two])
    view = check_adapter(adapter)
    assert await adapter.turn("hello") == "I am one"
    await view.mark_interrupted("I am")
    one.fails, one.pieces = True, ()
    await view.assist("The caller is a member")
    assert await adapter.turn("again") == "I am two"
    assert two.restored == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "I am"}]
    assert (one.heard, two.heard) == (["I am"], [])
    assert one.notes == two.notes == ["The caller is a member"]
    two.is_complete = True
    assert view.is_complete()


async def test_a_brain_without_restore_gets_the_conversation_as_a_note() -> None:
    seen: list[str] = []

    class Forgetful(EchoAdapter):
        def assist(self, text: str) -> None:
            seen.append(text)

    one = Played("I am one")
    adapter = FallbackAdapter([one, Forgetful()])
    await adapter.turn("hello")
    one.fails, one.pieces = True, ()
    assert await adapter.turn("again") == "You said: again"
    assert seen == ["The conversation so far:\nuser: hello\nassistant: I am one"]


async def test_it_goes_on_with_a_cut_reply_where_all_can() -> None:
    view = check_adapter(FallbackAdapter([EchoAdapter(), EchoAdapter()]))
    assert view.can_continue
    assert [piece async for piece in view.open("hi", context={}, language=None, said="You ")] == ["said: ", "hi"]

    async def brain(text: str) -> AsyncGenerator[str, None]:
        yield text

    assert not check_adapter(FallbackAdapter([EchoAdapter(), GeneratorAdapter(brain)])).can_continue


async def test_an_empty_reply_is_a_reply() -> None:
    silent, other = Played(), Played("Hello")
    assert await FallbackAdapter([silent, other]).turn("hello") == ""
    assert other.asked == []
