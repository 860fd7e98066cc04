"""What chat models stream, made fit to be spoken and used: whole characters, no thinking, whole tool calls, figures.

Pure. What is read here is what vendors and the servers that imitate them really send, which is more than their
documents say: half characters, names that come again, indexes and ids that are missing or the same, null where a number
should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

from msgspec import Struct

from unpod.adapters.characters import Characters
from unpod.adapters.pieces import ToolCall
from unpod.adapters.tools import called, text_of

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_MAX_TOKENS: Final = 1 << 40  # what is more is no count


class SpokenText:
    """Leaves out what a model writes between `<think>` and `</think>`: it is not meant for the caller."""

    __slots__ = ("_characters", "_held", "_thinks")

    def __init__(self) -> None:
        self._characters = Characters()
        self._held = ""
        self._thinks = False

    def take(self, text: str) -> str:
        """Return what of all texts so far is to be spoken and was not returned before."""
        rest = self._held + self._characters.take(text)
        said = ""
        while True:
            tag = _CLOSE if self._thinks else _OPEN
            before, found, after = rest.partition(tag)
            if not found:
                break
            said += "" if self._thinks else before
            self._thinks, rest = not self._thinks, after
        self._held = _beginning_of(tag, rest)
        return said if self._thinks else said + rest.removesuffix(self._held)

    def end(self) -> str:
        """Return what was held back and is no thinking after all."""
        held, self._held = self._held, ""
        return "" if self._thinks else held + self._characters.end()


def _beginning_of(tag: str, text: str) -> str:
    """Return the end of a text with which a tag may begin, as long as it is."""
    start = text.rfind("<", -len(tag) + 1)
    return text[start:] if start >= 0 and tag.startswith(text[start:]) else ""


class _Parts:
    """One tool call as it comes; `carried` is what its provider wants back with it."""

    __slots__ = ("arguments", "call_id", "carried", "index", "name")

    def __init__(self, index: int | None, call_id: str) -> None:
        self.index = index
        self.call_id = call_id
        self.name = ""
        self.arguments = ""
        self.carried: object = None


class CallParts:
    """The tool calls of one answer, put together from their parts; `names` are those of the tools there are.

    A new index or a new id begins a call; a part without either goes on with the last one, unless it brings a name and
    the last one is complete; so does one with the same, unless it brings arguments, too. A name may come in pieces, or
    again with each part: it is not said twice.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._calls: list[_Parts] = []

    def add(
        self,
        index: int | None,
        call_id: str | None,
        name: str | None,
        arguments: str | Mapping[str, object] | None,
        carried: object = None,
    ) -> None:
        """Take one part."""
        arguments = text_of(arguments) if isinstance(arguments, Mapping) else arguments or ""
        parts = self._going_on(index, call_id, name, arguments)
        if parts is None:
            parts = _Parts(index, call_id or "")
            self._calls.append(parts)
        parts.call_id = parts.call_id or call_id or ""
        if name and name != parts.name and parts.name not in self._names:
            parts.name += name
        parts.arguments += arguments
        parts.carried = carried or parts.carried

    def _going_on(self, index: int | None, call_id: str | None, name: str | None, arguments: str) -> _Parts | None:
        """Return the call that a part goes on with, None where it begins one."""
        if call_id:
            same = [parts for parts in self._calls if parts.call_id == call_id and parts.index == index]
            if same:
                begins = name and arguments.strip() and _is_complete(same[-1].arguments)
                return None if begins else same[-1]
        for parts in reversed(self._calls):
            if index is None or parts.index == index:
                other = call_id and parts.call_id
                begins = not call_id and name and parts.name and _is_complete(parts.arguments)
                return None if other or begins else parts
        return None

    def __iter__(self) -> Iterator[ToolCall]:
        for parts in self._calls:
            yield called(parts.name, parts.arguments, parts.call_id)

    @property
    def carried(self) -> tuple[object, ...]:
        """What goes back with each call, in the order of the calls."""
        return tuple(parts.carried for parts in self._calls)


def _is_complete(arguments: str) -> bool:
    return bool(arguments.strip()) and isinstance(called("", arguments, "").arguments, dict)


def distinct(calls: list[ToolCall], taken: set[str]) -> list[ToolCall]:
    """Return the calls, each under an id of its own: some servers give none, or the same one twice.

    `taken` are those of the conversation so far; the new ones are added. Nine letters and digits suit every vendor.
    """
    named: list[ToolCall] = []
    for call in calls:
        call_id = call.call_id if call.call_id and call.call_id not in taken else uuid4().hex[:9]
        taken.add(call_id)
        named.append(ToolCall(call.name, call.arguments, call_id))
    return named


class Carried(Struct, frozen=True):
    """What a provider wants back unread with the tool calls of one answer: signatures, or what the model thought.

    `message` goes with all of them, `calls` has what goes with each, in their order.
    """

    message: object = None
    calls: tuple[object, ...] = ()


def field_of(found: object, name: str) -> Any:  # noqa: ANN401 - what vendors send
    """Return a field of what a vendor's client has made of an answer: an object, a mapping, or nothing at all."""
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def tokens(found: object, name: str) -> int | None:
    """Return a count of tokens; None where there is none, or what stands there cannot be one."""
    count = field_of(found, name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < _MAX_TOKENS else None
