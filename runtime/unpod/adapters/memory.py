"""What was said and done so far, as far as the caller heard it: the memory that adapters in this package share.

A conversation is a list of entries: messages, and the tools that the adapter has used between them. A tool that was
used stays used: what the caller did not hear is forgotten, what was done is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from unpod.adapters.characters import whole
from unpod.adapters.chat_stream import Carried
from unpod.adapters.pieces import ChatMessage, ToolCall, ToolResult, UsedTool, told

HEARD_UNKNOWN: Final = "The caller cut in on your last reply; it is not known how much of it they heard."
USED_ELSEWHERE: Final = "When the caller said {said!r}: {used}"
STILL_RUNNING = "(not finished yet)"
CUT_SHORT: Final = "\u2026"
"""What stands for a reply that the caller cut in on while tools ran, and heard nothing of."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64


class Said:
    """One message."""

    __slots__ = ("content", "role")

    def __init__(self, role: Literal["user", "assistant", "system"], content: str) -> None:
        self.role = role
        self.content = content


class Used:
    """Tools that the adapter used in one go, and what has come of each so far.

    `carried` is what the model's provider wants back with them, on this turn and on all later ones. Nobody has it of
    tools that were used `elsewhere`, in another process.
    """

    __slots__ = ("calls", "carried", "elsewhere", "results")

    def __init__(self, calls: Sequence[ToolCall], carried: Carried | None = None, *, elsewhere: bool = False) -> None:
        self.calls = list(calls)
        self.carried = carried
        self.elsewhere = elsewhere
        self.results: dict[str, ToolResult] = {}

    def result_of(self, call: ToolCall) -> object:
        """Return what a tool has returned, or a text that says that it has not yet."""
        found = self.results.get(call.call_id)
        return STILL_RUNNING if found is None else found.result


Entry: TypeAlias = Said | Used


class Memory:
    """A conversation. What the adapter said but nobody heard does not stay in it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._in_words = False

    @property
    def messages(self) -> list[ChatMessage]:
        """The messages, without the tools between them."""
        return [{"role": e.role, "content": whole(e.content)} for e in self.entries if isinstance(e, Said)]

    @property
    def valid(self) -> list[Entry]:
        """The entries as every vendor takes them back, whatever the model has made up.

        No blank texts, names that can be names, arguments that are objects.
        """
        entries: list[Entry] = []
        said = ""
        for entry in self.entries:
            if isinstance(entry, Said) and entry.role == "user":
                said = entry.content
            if isinstance(entry, Used) and entry.elsewhere and self._in_words:
                entries.append(Said("system", USED_ELSEWHERE.format(said=said, used=told(_message_of(entry)))))
            elif isinstance(entry, Used):
                used = Used([_valid(call) for call in entry.calls], entry.carried, elsewhere=entry.elsewhere)
                used.results = entry.results
                entries.append(used)
            elif entry.content.strip():
                entries.append(entry)
        return entries

    def add(self, role: Literal["user", "assistant", "system"], content: str) -> None:
        """Append one message; a blank one is left out, as no vendor takes it back."""
        if content.strip():
            self.entries.append(Said(role, whole(content)))

    def say(self, piece: str) -> None:
        """Append a piece to the adapter's reply."""
        last = self.entries[-1] if self.entries else None
        if isinstance(last, Said) and last.role == "assistant":
            last.content += piece
        else:
            self.entries.append(Said("assistant", piece))

    def tell_in_words(self) -> bool:
        """Tell from now on in words of tools that were used elsewhere; False where that changes nothing."""
        changes = not self._in_words and any(isinstance(entry, Used) and entry.elsewhere for entry in self.entries)
        self._in_words = self._in_words or changes
        return changes

    def use(self, calls: Sequence[ToolCall], carried: Carried | None = None, *, elsewhere: bool = False) -> Used:
        """Take note that the adapter uses tools, and return where their results go."""
        used = Used(calls, carried, elsewhere=elsewhere)
        self.entries.append(used)
        return used

    def cut(self, heard: str) -> None:
        """Let the last reply be what the caller heard of it: nothing, where `heard` is empty."""
        reply = self._last_reply()
        kept: list[Entry] = []
        said = "".join(entry.content for entry in reply if isinstance(entry, Said))
        rest = heard
        for entry in reply:
            if isinstance(entry, Used):
                kept.append(entry)
            elif rest and said.startswith(heard):
                kept.append(Said("assistant", rest[: len(entry.content)]))
                rest = rest[len(entry.content) :]
        if rest:
            kept.append(Said("assistant", rest))
        self.entries[len(self.entries) - len(reply) :] = kept

    def restore(self, history: Sequence[ChatMessage], *, tools_as_text: bool = False) -> None:
        """Begin anew with what was said and done in another process; `tools_as_text` makes texts of the tools."""
        self.entries = []
        for message in history:
            if tools_as_text and message.get("tools"):
                self.add("system", f"On this turn: {told({**message, 'content': ''})}")
            else:
                self._use_again(message.get("tools", ()))
            self.add(message["role"], message["content"])

    def _use_again(self, tools: Sequence[UsedTool]) -> None:
        calls = [ToolCall(tool["name"], tool["arguments"], tool["call_id"]) for tool in tools]
        if calls:
            used = self.use(calls, elsewhere=True)
            used.results = {
                tool["call_id"]: ToolResult(tool["name"], tool["result"], tool["call_id"])
                for tool in tools
                if "result" in tool
            }

    def _last_reply(self) -> list[Entry]:
        """Return the entries at the end that are the adapter's."""
        start = len(self.entries)
        while start and not _is_others(self.entries[start - 1]):
            start -= 1
        return self.entries[start:]


def taking_turns(conversation: Sequence[Entry]) -> list[Entry]:
    """Return what was said and done so that caller and adapter take turns, as the strictest servers want it.

    Texts of the caller without a reply between them become one; between a tool's result and the caller's next text
    stands the reply that was cut, though nothing of it was heard.
    """
    entries: list[Entry] = []
    for entry in conversation:
        before = entries[-1] if entries else None
        if isinstance(before, Said) and isinstance(entry, Said) and before.role == entry.role:
            entries[-1] = Said(entry.role, f"{before.content}\n{entry.content}")
            continue
        if isinstance(before, Used) and isinstance(entry, Said) and entry.role == "user":
            entries.append(Said("assistant", CUT_SHORT))
        entries.append(entry)
    return entries


def _message_of(used: Used) -> ChatMessage:
    tools: list[UsedTool] = [
        {"name": call.name, "arguments": call.arguments, "call_id": call.call_id, "result": used.result_of(call)}
        for call in used.calls
    ]
    return {"role": "assistant", "content": "", "tools": tools}


def _valid(call: ToolCall) -> ToolCall:
    arguments = call.arguments if isinstance(call.arguments, dict) else {"arguments": call.arguments}
    return ToolCall(_NOT_IN_NAMES.sub("_", call.name)[:_LONGEST_NAME] or "unknown", arguments, call.call_id)


def _is_others(entry: Entry) -> bool:
    return isinstance(entry, Said) and entry.role != "assistant"
