"""What callers ask and agents answer: texts from which a test can tell who said what, in answer to what.

A caller asks `call 7 turn 3: step say`; what stands after the colon tells the agent what to do meanwhile. The answer is
`c7t3w1. c7t3w2. ... c7t3w8.`: each word of it is unique, so what is lost, repeated or out of order shows by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

WORDS = 8

_QUESTION = re.compile(r"call (\d+) turn (\d+)(?:: (.*))?\Z", re.DOTALL)
_WORD = re.compile(r"c(\d+)t(\d+)w(\d+)\.")


class Word(NamedTuple):
    """One word of an answer."""

    call: int
    turn: int
    word: int


class Question(NamedTuple):
    """One question of a caller, with what the agent shall do."""

    call: int
    turn: int
    orders: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """How it is asked."""
        orders = f": {' '.join(sorted(self.orders))}" if self.orders else ""
        return f"call {self.call} turn {self.turn}{orders}"

    @property
    def name(self) -> str:
        """What stands in everything that is said because of it."""
        return f"c{self.call}t{self.turn}"

    def answer(self, words: int = WORDS) -> str:
        """Return the whole answer."""
        return " ".join(f"{self.name}w{number}." for number in range(1, words + 1))


def question(text: str) -> Question | None:
    """Return the question that a text is, or None."""
    match = _QUESTION.match(text)
    return None if match is None else Question(int(match[1]), int(match[2]), frozenset((match[3] or "").split()))


def words_in(text: str) -> Iterator[Word]:
    """Yield the words of answers in what was said, in order."""
    for match in _WORD.finditer(text):
        yield Word(int(match[1]), int(match[2]), int(match[3]))
