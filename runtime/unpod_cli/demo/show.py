"""What the demo prints: lines only, no cursor tricks, so it reads the same in a terminal and in a CI log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from unpod.core.codec import Record
from unpod.core.metrics import CallMetrics
from unpod.runner.stats import RunnerStats
from unpod_cli import call_log, figures
from unpod_cli.demo.calls import DemoCall
from unpod_cli.layout import Cell, Columns, facts
from unpod_cli.summary import WITHHELD
from unpod_cli.transcript import CallOver, Done, Item, Speaking, SpokenLine
from unpod_cli.waterfall import waterfall
from unpod_consumers.projections.spans import Span

_WORDS_SHOWN: Final = 2


class Show:
    """The demo on a console."""

    def __init__(self, console: Console, calls: Sequence[DemoCall]) -> None:
        self._console = console
        self._widths = (5, max(len(call.caller) for call in calls), 1, len("caller"))

    def heading(self, title: str, detail: str = "") -> None:
        """Begin a part."""
        text = Text(title, style="bold")
        if detail:
            text.append(f"  {detail}", style="not bold dim")
        self._console.print()
        self._console.print(Rule(text, align="left", style="dim", characters="─"))

    def opening(self, parts: Sequence[tuple[str, str]]) -> None:
        """Say what has been started."""
        self.heading("A whole system on this machine")
        self._console.print(facts(*parts))

    def happened(self, call: DemoCall, at_s: float, item: Item) -> None:
        """Show what happened on a call, if it is to be seen."""
        match item:
            case SpokenLine(who=who):
                self._line(call, at_s, who, _said(item))
            case Done(text=text, bad=bad):
                self._line(call, at_s, "", Text(f"· {text}", style="red" if bad else "italic"))
            case CallOver(text=text):
                self._line(call, at_s, "", Text(f"■ {text}", style=f"bold {call.colour}"))
            case Speaking():
                pass
            case _:
                assert_never(item)

    def _line(self, call: DemoCall, at_s: float, who: str, text: Text) -> None:
        bar = Text("│", style=call.colour)
        name = Text(call.caller, style=call.colour)
        row: list[Cell] = [Text(f"{at_s:.1f}s", style="dim"), name, bar, Text(who, style="dim"), text]
        self._console.print(Columns([row], widths=self._widths, right=(0,), gap=1))

    def log(self, call: DemoCall, subject: str, records: Sequence[Record]) -> None:
        """Show one call's log."""
        self.heading("One call's event log", f"{call.caller}, {call.title}: {subject}")
        self._console.print(call_log.table(call_log.rows(records)))
        note = f"{WITHHELD} was said while the recording was paused: the text is stored nowhere."
        self._console.print()
        self._console.print(Text(note, style="dim"))

    def metrics(self, metrics: CallMetrics) -> None:
        """Show the same call's metrics."""
        self.heading("Its metrics", "folded from that log; session.metrics.live() gives the same")
        self._console.print(figures.metrics_lines(metrics))

    def trace(self, spans: Sequence[Span]) -> None:
        """Show the same call's trace."""
        self.heading("Its trace", f"out of the same log, as `unpod consume traces` sends it: {spans[0].trace_id}")
        self._console.print(waterfall(spans))

    def stats(self, stats: RunnerStats) -> None:
        """Show the runner's stats."""
        self.heading("The runner's stats", "runner.stats() after its last call")
        self._console.print(figures.stats_lines(stats))

    def verdict(self, results: Sequence[tuple[DemoCall, Sequence[str]]], seconds: float) -> None:
        """Show whether each call went as its script says."""
        good = sum(not problems for _, problems in results)
        self.heading("Result", f"{good} of {len(results)} calls went as their scripts say, in {seconds:.1f} s")
        rows: list[list[Cell]] = []
        for call, problems in results:
            mark = Text("✗", style="bold red") if problems else Text("✓", style="green")
            rows.append([mark, Text(call.caller, style=call.colour), call.title])
            rows.extend(["", "", Text(problem, style="red")] for problem in problems)
        self._console.print(Columns(rows, gap=1))

    def process_lines(self, lines: Sequence[str]) -> None:
        """Show what the processes wrote, where something went wrong."""
        self.heading("What the processes said last")
        for line in lines:
            self._console.print(Text(line))

    def next_steps(self, command: str, agent: str) -> None:
        """Say what one can do now; `command` is how `unpod` is called here."""
        self.heading("What next")
        hello = Path("examples/hello.py")
        rows: list[list[Cell]] = [
            [f"{command} dev {agent}", Text("talk to the agent of this demo", style="dim")],
            [f"{command} --help", Text("everything else", style="dim")],
        ]
        if hello.exists():
            rows.insert(0, [f"{command} dev {hello}", Text("talk to a small agent; saving it reloads it", style="dim")])
        self._console.print(Columns(rows))


def _said(item: SpokenLine) -> Text:
    text = Text(item.text, style="bold" if item.who == "caller" else "")
    if item.cut:
        text.append(" ✂", style="bold red")
        words = item.unheard.split()
        if words:
            rest = " ".join(words[:_WORDS_SHOWN]) + ("…" if len(words) > _WORDS_SHOWN else "")
            text.append(f" [unheard: {rest}]", style="dim")
    if not item.recorded:
        text.append(" [not recorded]", style="magenta")
    return text
