"""Where `unpod dev` writes: a protocol, plain lines for pipes and files, JSON for programs."""

from __future__ import annotations

import json
from typing import Protocol, assert_never

from rich.console import Console, RenderableType
from rich.text import Text

from unpod_cli.layout import Columns
from unpod_cli.transcript import CallOver, Done, Item, Speaking, SpokenLine

_WHO = {"caller": "you", "agent": "agent", "worker": "worker"}
_STYLES = {"caller": "bold", "agent": "", "worker": "italic"}
_LABELS = {"caller": "green", "agent": "cyan", "worker": "yellow"}
LABEL_WIDTH = 6


class Screen(Protocol):
    """What the rest of `unpod dev` needs to show things."""

    def happened(self, item: Item) -> None:
        """Show what happened on the call."""

    def wrote(self, who: str, line: str) -> None:
        """Show a line that a process wrote, marked as its own."""

    def note(self, text: str, *, bad: bool = False) -> None:
        """Say something about this command itself; `bad` is something that went wrong."""

    def show(self, what: RenderableType, data: object) -> None:
        """Show something that was asked for; `data` is the same for programs."""


class Lines:
    """Screen for a console: one line for everything that is over; what is being said shows when it is said."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def happened(self, item: Item) -> None:
        """Show what happened on the call."""
        line = rendered(item)
        if line is not None:
            self._console.print(line)

    def wrote(self, who: str, line: str) -> None:
        """Show a line that a process wrote."""
        self._console.print(process_line(who, line), soft_wrap=True)

    def note(self, text: str, *, bad: bool = False) -> None:
        """Say something about this command itself."""
        self._console.print(note_line(text, bad=bad))

    def show(self, what: RenderableType, data: object) -> None:  # noqa: ARG002 - for people
        """Show something that was asked for."""
        self._console.print(what)


class JsonLines:
    """Screen for programs: one JSON object a line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def happened(self, item: Item) -> None:
        """Show what happened on the call."""
        match item:
            case SpokenLine():
                self._put("spoken", who=item.who, text=item.text, unheard=item.unheard, cut=item.cut)
            case Done():
                self._put("done", text=item.text, bad=item.bad)
            case CallOver():
                self._put("over", reason=item.outcome.reason, detail=item.outcome.detail)
            case Speaking():
                pass
            case _:
                assert_never(item)

    def wrote(self, who: str, line: str) -> None:
        """Show a line that a process wrote."""
        self._put("output", who=who, text=line)

    def note(self, text: str, *, bad: bool = False) -> None:
        """Say something about this command itself."""
        self._put("note", text=text, bad=bad)

    def show(self, what: RenderableType, data: object) -> None:  # noqa: ARG002 - for programs
        """Show something that was asked for."""
        self._put("data", data=data)

    def _put(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event, **fields}, ensure_ascii=False)
        self._console.print(line, soft_wrap=True)


def rendered(item: Item) -> RenderableType | None:
    """Return a line for what happened, or None for what is still going on."""
    match item:
        case SpokenLine():
            return speech_line(item)
        case Done(text=text, bad=bad):
            return note_line(text, bad=bad)
        case CallOver(text=text):
            return Text(f"■ {text}", style="bold")
        case Speaking():
            return None
        case _:
            assert_never(item)


def speech_line(item: SpokenLine) -> RenderableType:
    """Return who said what; a cut shows where it was cut, and what was not heard any more."""
    text = Text(item.text, style=_STYLES[item.who])
    if item.cut:
        text.append(" ✂", style="bold red")
        if item.unheard:
            text.append(f" [unheard: {item.unheard}]", style="dim")
    if not item.recorded:
        text.append(" [not recorded]", style="magenta")
    return Columns([[Text(_WHO[item.who], style=_LABELS[item.who]), text]], widths=(LABEL_WIDTH,), gap=1)


def process_line(who: str, line: str) -> RenderableType:
    """Return a process's line, marked."""
    text = Text(f"{who} │ ", style="dim magenta")
    text.append(line, style="dim")
    return text


def note_line(text: str, *, bad: bool) -> RenderableType:
    """Return a remark."""
    return Text(f"· {text}", style="red" if bad else "dim")
