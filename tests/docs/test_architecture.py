"""What the pages on the architecture name exists: rooms, floors, files, and what is said to be in them."""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest
from tests.pages import ROOT, blocks

ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
HOUSES = {"bridge": ROOT / "bridge" / "unpod_bridge", "runtime": ROOT / "runtime" / "unpod"}
ABOVE = (*HOUSES.values(), ROOT / "bridge", ROOT / "runtime", ROOT)
"""What a path on these pages may begin under."""
DECISIONS = (
    "a barge-in ends a reply",
    "a job is refused when the log is nearly full",
    "a takeover skips a poisoned input",
    "a control is too late",
    "a redial gives up",
    "a withheld text is kept from the log",
    "a runner's room is counted",
)


def mentions(page: Path) -> list[tuple[str, str]]:
    """Return the files that a page names in code, drawings among it, each with what is said to be in it."""
    return sorted(set(re.findall(r"([a-z_]\w*(?:/\w+)*\.py)(?:::([\w.]+\w))?", page.read_text())))


def found(path: str) -> list[Path]:
    return [above / path for above in ABOVE if (above / path).is_file()]


@cache
def names(file: Path) -> frozenset[str]:
    """Return the functions, classes, constants and methods of a file, methods with their class."""

    def of(body: list[ast.stmt], prefix: str) -> list[str]:
        listed: list[str] = []
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                listed.append(prefix + node.name)
            elif isinstance(node, ast.ClassDef):
                listed += [prefix + node.name, *of(node.body, f"{prefix}{node.name}.")]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                listed += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
        return listed

    return frozenset(of(ast.parse(file.read_text()).body, ""))


@pytest.mark.parametrize("page", [ARCHITECTURE, GLOSSARY], ids=lambda page: page.stem)
def test_the_files_of_a_page_exist_and_hold_what_is_said(page: Path) -> None:
    wrong = []
    for path, name in mentions(page):
        files = found(path)
        if len(files) != 1:
            wrong.append(f"{path}: {len(files)} files")
        elif name and name not in names(files[0]):
            wrong.append(f"{path} has no {name}")
    assert mentions(page)
    assert not wrong


@pytest.mark.parametrize("house", HOUSES)
def test_every_room_has_its_line(house: str) -> None:
    root = HOUSES[house]
    rooms = {f"{init.parent.relative_to(root)}/" for init in root.rglob("__init__.py") if init.parent != root}
    told = re.findall(r"^\| `([\w/]+/)` \|", section(f"The rooms of the {house}"), re.MULTILINE)
    assert sorted(told) == sorted(rooms)


@pytest.mark.parametrize("contract", ["bridge-layers", "runtime-layers"])
def test_the_floors_are_drawn_as_they_are_held(contract: str) -> None:
    config = ConfigParser()
    config.read(ROOT / ".importlinter")
    layers = config[f"importlinter:contract:{contract}"]["layers"].split("\n")
    held = [re.findall(r"[a-z]\w*[a-z]", layer) for layer in layers if layer and not layer.startswith("#")]
    drawing = next(block for block in blocks(ARCHITECTURE, "mermaid") if block.heading == "The house")
    drawn = [label.split(" | ") for key, label in re.findall(r"(\w+)\[\"([^\"]+)\"\]", drawing.text)
             if key.startswith(contract[0])]  # fmt: skip
    assert drawn == held


def test_each_question_has_its_place() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section("Where is it decided that …"), re.MULTILINE)
    decided = dict(rows)
    for question in DECISIONS:
        assert "::" in decided[question], question


def section(heading: str) -> str:
    """Return the text under a heading, up to the next."""
    text = ARCHITECTURE.read_text()
    return re.split(r"^#+ ", text.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("flow", ["A turn", "A new job", "A killed runner", "A killed bridge", "A control from outside",
                                  "The replay of a takeover"])  # fmt: skip
def test_a_flow_is_drawn_and_told_in_steps(flow: str) -> None:
    told = section(flow)
    steps = [int(number) for number in re.findall(r"^\| (\d+) \|", told, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 5
    assert "```mermaid" in told
