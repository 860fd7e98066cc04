"""What leaves together of a reply, and what does not wait."""

from __future__ import annotations

import asyncio

from unpod.session.coalescing import MAX_CHARS, MAX_ROUNDS, Coalescing
from unpod.testing.clock import settle


async def test_the_first_leaves_at_once_and_what_follows_in_the_same_turn_together() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    speech.add("one ")
    assert sent == ["one "]
    speech.add("two ")
    speech.add("three")
    assert sent == ["one "]
    await settle()
    assert sent == ["one ", "two three"]


async def test_what_comes_after_a_pause_leaves_at_once() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    for text in ("one ", "two ", "three"):
        speech.add(text)
        assert sent[-1] == text
        await settle()


async def test_a_brain_that_only_yields_to_others_is_joined_within_the_bound() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    for _ in range(3 * MAX_ROUNDS):
        speech.add("x")
        await asyncio.sleep(0)
    await settle()
    assert sum(map(len, sent)) == 3 * MAX_ROUNDS
    assert 3 <= len(sent) <= 5


async def test_a_flood_does_not_gather() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    for _ in range(10 * MAX_CHARS):
        speech.add("x" * 10)
    assert max(map(len, sent)) <= MAX_CHARS + 10


async def test_what_waits_leaves_when_it_is_told_to_and_the_next_at_once() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    for text in ("one ", "two "):
        speech.add(text)
    speech.flush()
    assert sent == ["one ", "two "]
    speech.add("three")
    assert sent == ["one ", "two ", "three"]
    speech.flush()
    assert len(sent) == 3


async def test_what_is_dropped_never_leaves() -> None:
    sent: list[str] = []
    speech = Coalescing(sent.append)
    for text in ("one ", "two "):
        speech.add(text)
    speech.drop()
    await settle()
    assert sent == ["one "]
