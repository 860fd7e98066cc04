"""Rows in columns, wrapped in the last one: like a rich table, but with nothing behind the text.

Trailing blanks would stand in every CI log, and go along when somebody copies a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_NARROWEST: Final = 20

Cell = str | Text


class Columns:
    """Rows of cells; `widths` are those of all columns but the last, made as wide as their cells where None.

    `right` names the columns that are aligned to the right, `head` stands above them.
    """

    def __init__(
        self,
        rows: Iterable[Sequence[Cell]],
        *,
        widths: Sequence[int | None] = (),
        right: Sequence[int] = (),
        head: Sequence[str] = (),
        gap: int = 2,
    ) -> None:
        self._rows = [[_text(cell) for cell in row] for row in rows]
        if head:
            self._rows.insert(0, [Text(name, style="dim") for name in head])
        self._widths = widths
        self._right = frozenset(right)
        self._gap = " " * gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it (rich's protocol)."""
        widths = self._measured()
        indent = sum(widths) + len(self._gap) * len(widths)
        room = max(options.max_width - indent, _NARROWEST)
        for row in self._rows:
            *cells, last = row
            line = Text()
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
                cell.truncate(width, overflow="ellipsis")
                cell.align("right" if place in self._right else "left", width)
                line.append_text(cell)
                line.append(self._gap)
            for number, part in enumerate(last.wrap(console, room, overflow="fold") or [Text()]):
                part.rstrip()
                whole = Text(" " * indent) if number else line
                whole.append_text(part)
                whole.rstrip()
                yield whole

    def _measured(self) -> list[int]:
        columns = max((len(row) for row in self._rows), default=1) - 1
        given = [*self._widths, *[None] * (columns - len(self._widths))]
        return [
            width if width is not None else max((row[place].cell_len for row in self._rows), default=0)
            for place, width in enumerate(given)
        ]


def facts(*rows: tuple[str, Cell]) -> Columns:
    """Return names and values, one pair a line."""
    return Columns([(Text(name, style="dim"), value) for name, value in rows])


def _text(cell: Cell) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(cell)
