from __future__ import annotations

from rich.console import Console
from tests.unit.consumers.test_traces import CONVERSATION

from unpod_cli.waterfall import spans_of, waterfall


def test_each_span_is_a_line_under_its_parent_and_where_it_was() -> None:
    spans = spans_of("history-conversation", "agt_1", CONVERSATION)
    console = Console(width=100, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(waterfall(spans))
    head, root, *lines = captured.get().splitlines()
    assert head.split() == ["span", "took", "when"]
    assert root.startswith("conversation")
    assert root.count("█") == 36
    assert len(lines) == len(spans) - 1
    turn = next(at for at, line in enumerate(lines) if line.startswith("  turn"))
    assert any(line.startswith("      execute_tool lookup") for line in lines[turn:])
    assert "◆" in next(line for line in lines if "call start" in line)


def test_a_call_that_never_started_has_none() -> None:
    assert spans_of("s", "a", CONVERSATION[:1]) == []
