"""What vendors stream becomes whole characters, words without thinking, and whole tool calls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod.adapters import ToolCall
from unpod.adapters.characters import Characters
from unpod.adapters.chat_stream import CallParts, SpokenText, distinct, tokens

NAMES = frozenset({"order", "drink"})


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def spoken(*texts: str) -> str:
    reader = SpokenText()
    return "".join([reader.take(text) for text in texts]) + reader.end()


# --- characters -------------------------------------------------------------------------------------------------------


@given(text=st.text(), size=st.integers(1, 5))
def test_texts_that_are_cut_within_characters_are_joined(text: str, size: int) -> None:
    """However a text is cut into UTF-16 units, it comes out as it was, and never with half a character in it."""
    units = text.encode("utf-16-le")
    halves = [units[at : at + 2 * size].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2 * size)]
    characters = Characters()
    taken = [characters.take(half) for half in halves]
    assert "".join(taken) + characters.end() == text
    assert all(part.encode() is not None for part in taken)


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["\ud83d"], "\ufffd"),
        (["\ude00 yes"], "\ufffd yes"),
        (["\ud83d", "\ud83d", "\ude00"], "\ufffd\U0001f600"),
        (["\ud83d", "no"], "\ufffdno"),
        (["\ud83d", "", "\ude00"], "\U0001f600"),
    ],
)
def test_half_a_character_without_the_other_is_replaced(texts: list[str], whole: str) -> None:
    characters = Characters()
    assert "".join([characters.take(text) for text in texts]) + characters.end() == whole


# --- thinking ---------------------------------------------------------------------------------------------------------

THOUGHT = "<think>\nThe caller wants < 3 pizzas.</think>"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thinking_is_never_spoken(size: int) -> None:
    said = f"{THOUGHT}Two <b> pizzas. {THOUGHT}1 < 2"
    assert spoken(*cut(said, size)) == "Two <b> pizzas. 1 < 2"
    assert spoken(*cut("<think>and it never ends", size)) == ""


@given(st.text(st.sampled_from("<think/> a"), max_size=40), st.integers(1, 9))
def test_how_a_text_is_cut_makes_no_difference(text: str, size: int) -> None:
    assert spoken(*cut(text, size)) == spoken(text)


def test_what_cannot_be_thinking_is_not_held_back() -> None:
    reader = SpokenText()
    assert [reader.take(text) for text in ("One ", "two", " <", "b", " <thi", "s")] == [
        "One ",
        "two",
        " ",
        "<b",
        " ",
        "<this",
    ]


# --- tool calls -------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """One part of a tool call, as a chunk has it."""

    index: int | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, object] | None = None


ONE = ToolCall("order", {"pizza": "a"}, "c1")
TWO = ToolCall("order", {"pizza": "b"}, "c2")


def unnamed(*calls: ToolCall) -> list[ToolCall]:
    return [ToolCall(call.name, call.arguments) for call in calls]


def calls_of(parts: list[Part]) -> list[ToolCall]:
    calls = CallParts(NAMES)
    for part in parts:
        calls.add(part.index, part.call_id, part.name, part.arguments)
    return list(calls)


def test_calls_in_parts() -> None:
    parts = [
        Part(0, "c1", "order", ""),
        Part(0, None, None, '{"pizza"'),
        Part(1, "c2", "order", '{"pizza":'),
        Part(0, None, None, ':"a"}'),
        Part(1, None, None, '"b"}'),
    ]
    assert calls_of(parts) == [ONE, TWO]


@pytest.mark.parametrize("index", [0, None], ids=["always 0", "missing"])
def test_a_new_id_begins_a_call(index: int | None) -> None:
    parts = [
        Part(index, "c1", "order", '{"pizza"'),
        Part(index, None, None, ':"a"}'),
        Part(index, "c2", "order", ""),
        Part(index, "c2", None, '{"pizza":"b"}'),
    ]
    assert calls_of(parts) == [ONE, TWO]


@pytest.mark.parametrize("index", [0, None], ids=["always 0", "missing"])
def test_without_ids_a_name_after_a_complete_call_begins_one(index: int | None) -> None:
    parts = [Part(index, None, "order", '{"pizza":"a"}'), Part(index, None, "order", '{"pizza":"b"}')]
    assert calls_of(parts) == unnamed(ONE, TWO)


def test_one_id_for_two_calls() -> None:
    parts = [Part(0, "c1", "order", '{"pizza":"a"}'), Part(1, "c1", "order", '{"pizza":"b"}')]
    first, second = distinct(calls_of(parts), set())
    assert (first, second.arguments) == (ONE, TWO.arguments)
    assert second.call_id not in {"", "c1"}


@pytest.mark.parametrize(
    "names",
    [("order", "order", "order"), ("order", None, None), ("or", "der", None), ("or", "d", "er"), ("made_up",) * 3],
)
def test_a_name_that_comes_again_or_in_pieces(names: tuple[str | None, ...]) -> None:
    texts = ("", '{"pizza":', '"a"}')
    parts = [Part(0, "c1", name, text) for name, text in zip(names, texts, strict=True)]
    name = "made_up" if "made_up" in names else "order"
    assert calls_of(parts) == [ToolCall(name, ONE.arguments, "c1")]


@pytest.mark.parametrize(
    ("given_as", "arguments"),
    [
        ("", {}),
        ("null", {}),
        (None, {}),
        ({"pizza": "a"}, {"pizza": "a"}),
        ('{"pizza": "a', '{"pizza": "a'),
        ('["a"]', ["a"]),
        ("0", 0),
        ('""', ""),
        ("{" * 3_000, "{" * 3_000),
    ],
)
def test_arguments_that_are_no_object_stay_what_they_are(given_as: str | None, arguments: object) -> None:
    assert calls_of([Part(0, "c1", "order", given_as)]) == [ToolCall("order", arguments, "c1")]


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        (None, None),
        ({}, None),
        ({"n": None}, None),
        ({"n": "3"}, None),
        ({"n": True}, None),
        ({"n": -1}, None),
        ({"n": 1 << 60}, None),
        ({"n": 0}, 0),
        ({"n": 7}, 7),
    ],
)
def test_what_cannot_be_a_count_is_none(usage: object, count: int | None) -> None:
    assert tokens(usage, "n") == count
