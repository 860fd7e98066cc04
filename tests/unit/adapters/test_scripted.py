"""The scripted brain and the echo: what `make demo` and other people's tests stand on."""

from __future__ import annotations

import re
from contextlib import aclosing

import pytest

from unpod.adapters import EchoAdapter, Pause, Piece, Rule, ScriptedAdapter, ToolCall, ToolResult


async def pieces_of(adapter: ScriptedAdapter, text: str) -> list[Piece]:
    return [piece async for piece in adapter.stream(text)]


async def test_an_echo_comes_word_by_word() -> None:
    adapter = EchoAdapter()
    assert [piece async for piece in adapter.stream("good  morning ")] == ["You ", "said: ", "good  ", "morning "]
    assert await adapter.turn("hi") == "You said: hi"
    assert [piece async for piece in EchoAdapter(prefix="").stream("")] == []
    assert [piece async for piece in EchoAdapter(prefix="").stream("  ")] == ["  "]
    assert [piece async for piece in EchoAdapter(prefix="").stream("  a\nb")] == ["  a\n", "b"]


RULES: list[Rule | tuple[str, str]] = [
    (r"\bhello\b|\bhi\b", "Hello there"),
    Rule(re.compile(r"^Order (\d+)"), lambda text: f"Order {text.split()[1]} it is"),
    Rule(lambda text: text.endswith("?"), "Good question"),
    Rule("bye", "Good bye", closing=True),
    Rule(
        "weather",
        [
            "Let me see. ",
            ToolCall("weather", {"city": "Bonn"}, "c1"),
            Pause(2),
            ToolResult("weather", "rain", "c1"),
            "Rain.",
        ],
    ),
]


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Oh, HELLO", "Hello there"),
        ("Order 7 please", "Order 7 it is"),
        ("order 7 please", "Once more?"),
        ("why?", "Good question"),
        ("hi?", "Hello there"),
        ("something else", "Once more?"),
    ],
)
async def test_the_first_rule_that_matches_answers(text: str, reply: str) -> None:
    assert await ScriptedAdapter(RULES, fallback="Once more?").turn(text) == reply


async def test_reports_and_texts_come_in_order() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    pieces = await pieces_of(ScriptedAdapter(RULES, sleep=sleep), "weather")
    assert pieces == [
        "Let ",
        "me ",
        "see. ",
        ToolCall("weather", {"city": "Bonn"}, "c1"),
        ToolResult("weather", "rain", "c1"),
        "Rain.",
    ]
    assert slept == [2]


async def test_the_pace_is_between_pieces_not_before_the_first() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    assert await pieces_of(ScriptedAdapter([("", "one two three")], piece_delay_s=0.25, sleep=sleep), "x")
    assert slept == [0.25, 0.25]


async def test_it_is_complete_after_a_closing_line_and_not_before() -> None:
    adapter = ScriptedAdapter(RULES)
    await adapter.turn("hello")
    complete = [adapter.is_complete]
    async with aclosing(adapter.stream("bye")) as pieces:
        await anext(pieces)
    complete.append(adapter.is_complete)  # cut short: nobody has heard the good bye
    await adapter.turn("bye")
    assert [*complete, adapter.is_complete] == [False, False, True]
    assert adapter.state == {"turns": 3, "is_complete": True}


async def test_it_remembers_what_was_heard() -> None:
    adapter = ScriptedAdapter([("", "one two three")])
    async with aclosing(adapter.stream("go")) as pieces:
        assert [await anext(pieces), await anext(pieces)] == ["one ", "two "]
    assert adapter.history == [{"role": "user", "content": "go"}, {"role": "assistant", "content": "one two "}]
    adapter.mark_interrupted(None)
    assert adapter.history[-1]["content"] == "one two "
    adapter.mark_interrupted("one")
    assert adapter.history[-1] == {"role": "assistant", "content": "one"}
    adapter.mark_interrupted("")
    assert adapter.history == [{"role": "user", "content": "go"}]


async def test_an_interruption_of_what_it_did_not_say_is_remembered_too() -> None:
    adapter = ScriptedAdapter([])
    adapter.mark_interrupted("Welcome to")
    assert adapter.history == [{"role": "assistant", "content": "Welcome to"}]


async def test_it_takes_up_a_conversation() -> None:
    before, after = ScriptedAdapter(RULES), ScriptedAdapter(RULES)
    await before.turn("hello")
    after.restore(before.history)
    after.assist("you were away")
    assert after.history == before.history
    assert after.notes == ["you were away"]
    await after.turn("why?")
    assert len(before.history) == 2
