"""What the documentation says can be done: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import duckdb
import pytest
from tests.pages import ROOT, SAVED_AS, Block, blocks, completed, run
from tests.unit.consumers.analyst import stored
from tests.unit.consumers.records import SUBJECTS, call_of, message

from unpod.core.events import ToolCalled, ToolReturned, TurnCompleted
from unpod_cli.main import cli
from unpod_consumers.analytics import AnalyticsProjection
from unpod_consumers.exporters.parquet import ParquetFiles

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [block for page in PAGES for block in blocks(page, "console")]
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ------------------------------------------------------------------------------------------------------------- Python


class Page:
    """The code of one page, block by block in one module; one that the page has saved is a module of its name, too."""

    def __init__(self) -> None:
        self.module = ModuleType("page")
        self.saved: set[str] = set()
        self._last: Block | None = None

    async def take(self, block: Block) -> None:
        """Run a block, and the tests in it."""
        if block.indented:
            block = completed(block, self._last)
        if saved := SAVED_AS.search(block.before):
            self.module = sys.modules[saved[1]] = ModuleType(saved[1])
            self.saved.add(saved[1])
            self._last = block
        namespace = vars(self.module)
        before = dict(namespace)
        await run(block, namespace)
        for name, value in list(namespace.items()):
            if name.startswith("test_") and value is not before.get(name):
                assert inspect.iscoroutinefunction(value), f"{block}: {name} is not async"
                await value()


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    yield page
    for name in page.saved:
        del sys.modules[name]


# ---------------------------------------------------------------------------------------------------------------- SQL


def calls_of_a_day(directory: Path) -> None:
    """Write the files of a few calls, as `unpod consume analytics` does."""
    projection = AnalyticsProjection(SUBJECTS, ParquetFiles(directory))
    records = [one for name in ("a", "b", "c") for side in call_of(name) for one in side]
    tool = [ToolCalled(name="book", call_id="t"), ToolReturned(name="book", call_id="t")]
    records += [message("a", "run", body, 7 + index, 7.0 + index) for index, body in enumerate(tool)]
    records.append(message("b", "run", TurnCompleted(turn_id=9, model="m", llm_ttft_ms=80.0), 9, 9.0))
    for one in stored(records):
        projection.take(one)
    assert projection.finish() == len(["a", "b", "c"]) * 3 + 2


def test_the_queries_of_the_pages_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls_of_a_day(tmp_path / "analytics")
    monkeypatch.chdir(tmp_path)
    queries = [block for page in PAGES for block in blocks(page, "sql")]
    with duckdb.connect() as database:
        answered = [bool(database.sql(block.text).fetchall()) for block in queries]
    # Of the last days there is nothing: these calls are older.
    assert [str(block) for block, found in zip(queries, answered, strict=True) if not found] == [
        str(block) for block in queries if "current_date" in block.text
    ]
    assert any(answered)


@pytest.mark.parametrize("path", WITH_PYTHON, ids=named)
async def test_the_python_of_a_page_runs(path: Path, page: Page) -> None:
    for block in blocks(path, "python"):
        await page.take(block)


def test_the_readmes_agent_is_the_example() -> None:
    block = next(block for block in blocks(ROOT / "README.md", "python") if "handle_call" in block.text)
    assert block.text == (ROOT / "examples" / "hello.py").read_text()


# ----------------------------------------------------------------------------------------------------------- commands


def lines(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block; of a pipe, those of its last part."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "|" in words:
            words = words[len(words) - words[::-1].index("|") :]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def check_unpod(words: list[str]) -> None:
    """Have the command line parse a command; nothing of it runs."""
    parent = cli.context_class(cli, info_name="unpod", **cli.context_settings)
    command = cli.get_command(parent, words[0])
    assert command is not None, f"there is no `unpod {words[0]}`"
    command.make_context(words[0], words[1:], parent=parent)


def check(words: list[str], block: Block) -> None:
    saved = {f"{name}.py" for other in blocks(block.page) for name in SAVED_AS.findall(other.before)}
    files = [word for word in words[1:] if word.endswith(".py")]
    missing = [file for file in files if file not in saved and not (ROOT / file).is_file()]
    assert not missing, f"{block}: there is no {missing}"
    program = words[0].removeprefix(".venv/bin/")
    match program:
        case "make":
            targets = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
            assert targets, f"{block}: make without a target"
            assert set(targets) <= MAKE_TARGETS, f"{block}: no such targets: {targets}"
        case "unpod":
            check_unpod(words[1:])
        case "python":
            assert words[0] == ".venv/bin/python", f"{block}: the python that has unpod is .venv/bin/python"
            assert files or words[1] == "-m", f"{block}: what does python run?"
        case "export":
            names = {word.partition("=")[0] for word in words[1:]}
            known = (ROOT / "docs/reference/configuration.md").read_text()
            assert all(f"`{name}`" in known for name in names), f"{block}: {names}"
        case _:
            pytest.fail(f"{block}: this test does not know how to check {program!r}")


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_exist(block: Block) -> None:
    for words in lines(block):
        check(words, block)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_named_in_the_text_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"`make ([a-z]+)", text):
        assert target in MAKE_TARGETS
    for command in re.findall(r"`unpod ([a-z]+)", text):
        assert command in cli.commands


# -------------------------------------------------------------------------------------------------------------- links


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*\S)\s*$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        leads_to = path if not target else (path.parent / target).resolve()
        assert leads_to.exists(), f"{link} leads nowhere"
        assert leads_to.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in slugs(leads_to), f"{link}: {target} has no such heading"


@pytest.mark.parametrize("path", [page for page in PAGES if page.is_relative_to(ROOT / "docs")], ids=named)
def test_every_page_can_be_reached(path: Path) -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    assert path == index or path in linked or path.parent in linked, "docs/README.md does not lead here"
