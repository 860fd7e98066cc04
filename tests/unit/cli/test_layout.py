from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType
from rich.text import Text

from unpod_cli.layout import Columns, facts


def rendered(what: RenderableType, width: int = 40) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get().splitlines()


def test_columns_are_as_wide_as_their_cells_and_nothing_stands_behind_the_text() -> None:
    assert rendered(Columns([["a", "1", "x"], ["bbb", "22", ""]], right=(1,))) == ["a     1  x", "bbb  22"]


def test_the_last_column_wraps_under_itself() -> None:
    long = "one two three four five six seven"
    assert rendered(Columns([["a", long]]), width=24) == ["a  one two three four", "   five six seven"]


def test_a_word_that_is_too_long_is_folded() -> None:
    assert rendered(Columns([["a", "x" * 30]]), width=23) == [f"a  {'x' * 20}", f"   {'x' * 10}"]


def test_given_widths_cut() -> None:
    assert rendered(Columns([["abcdef", "x"]], widths=(3,), gap=1)) == ["ab… x"]


def test_a_head_stands_above() -> None:
    assert rendered(Columns([["1", "x"]], head=("no", "what"))) == ["no  what", "1   x"]


def test_no_rows() -> None:
    assert rendered(Columns([])) == []


def test_facts_and_styles_leave_cells_as_they_were() -> None:
    value = Text("4", style="bold")
    assert rendered(facts(("turns", value))) == ["turns  4"]
    assert value.plain == "4"
