"""What stands in pages of Markdown: fenced code, and how such of Python is run as it stands; tables."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

SAVED_AS = re.compile(r"Save this as `(\w+)\.py`")
_RUN = "    await session.run()\n"
_FENCE = re.compile(r"^```(\w*)\s*$")
_HEADING = re.compile(r"^#+ (.*\S)\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: `line` is the number of its first line, `before` the last line of text in front of it."""

    page: Path
    line: int
    language: str
    heading: str
    before: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def indented(self) -> bool:
        """Whether it is a piece of a function's body."""
        return self.text.startswith("    ")


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, of one language or of all."""
    return [block for block in _blocks(page) if language in {None, block.language}]


def _blocks(page: Path) -> Iterator[Block]:
    heading, before = "", ""
    opened: re.Match[str] | None = None
    start, code = 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence is not None:
                yield Block(page, start, opened[1], heading, before, "\n".join(code) + "\n")
                opened, before = None, ""
            else:
                code.append(line)
        elif fence is not None:
            opened, start, code = fence, number + 1, []
        elif found := _HEADING.match(line):
            heading, before = found[1], ""
        else:
            before = line.strip() or before
    assert opened is None, f"{page}: a fence is not closed"


def table(page: Path, heading: str, nth: int = 0) -> list[list[str]]:
    """Return the cells of a table below a heading, row by row, without the row of its own headings."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(), maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in tables[nth].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


async def run(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block of Python as it stands; `await` and `async with` may stand at its top level."""
    # Empty lines in front of it, so that a traceback and a failed assertion name the page's own line.
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, namespace)  # noqa: S307 - our own pages
    else:
        exec(code, namespace)  # noqa: S102 - our own pages


def completed(piece: Block, saved: Block | None) -> Block:
    """Return a saved file with a piece of a function added: it belongs in front of its `run()`."""
    assert saved is not None, f"{piece}: a piece of a function, and no file that it belongs to"
    text = saved.text.replace(_RUN, f"{piece.text}\n{_RUN}")
    assert text != saved.text, f"{piece}: {saved} has no run()"
    return Block(saved.page, saved.line, saved.language, saved.heading, saved.before, text)
