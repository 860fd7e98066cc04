"""Write the Python of the documentation into a directory, a file per page, for type checkers to read (`make types`)."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import textwrap
from pathlib import Path

from tests.pages import ROOT, SAVED_AS, Block, blocks, completed

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def module(page: Path) -> str:
    """Return the code of a page as one module: what it has saved as a file of its own stands in it, too."""
    saved: dict[str, Block] = {}
    parts: list[str] = []
    for number, block in enumerate(blocks(page, "python")):
        if found := SAVED_AS.search(block.before):
            saved[found[1]] = block
        code = completed(block, next(reversed(saved.values()), None)).text if block.indented else block.text
        for name in saved:
            code = re.sub(rf"^from {name} import .*\n", "", code, flags=re.MULTILINE)
        parts.append(
            code if _is_plain(code) else f"async def _block_{number}() -> None:\n{textwrap.indent(code, '    ')}"
        )
    return "\n\n".join(parts)


def _is_plain(code: str) -> bool:
    """Whether nothing is awaited outside of functions."""
    try:
        compile(code, "page", "exec")
    except SyntaxError:
        compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return False
    return True


def write(directory: Path) -> None:
    """Write all pages that have Python."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for page in PAGES:
        if blocks(page, "python"):
            (directory / f"{page.stem.lower().replace('-', '_')}_page.py").write_text(module(page))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
