from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from unpod import CallContext
from unpod.adapters import LLMCall, ScriptedAdapter
from unpod.core.codec import Record
from unpod.core.metrics import CallMetrics
from unpod.core.subjects import Subjects
from unpod.ports import EventLog
from unpod.runner.stats import RunnerStats
from unpod.testing import MemoryLog, simulate_call
from unpod_cli import call_log, figures
from unpod_cli.summary import WITHHELD

REPORT = LLMCall(model="m-1", tokens_in=10, tokens_out=4, cost=0.5)


async def handle_call(ctx: CallContext) -> None:
    session = ctx.session
    session.dialog_machine = ScriptedAdapter([("hello", ["Hi there.", REPORT])], fallback="Thanks.")

    @session.on("user_turn")
    async def on_user_turn(text: str) -> None:
        if "pay" in text:
            await session.recording.pause()

    await session.run()


@pytest.fixture
async def records() -> list[Record]:
    async with simulate_call(handle_call) as call:
        await call.user("hello")
        await call.user("I want to pay")
        await call.user("4929 1234")
        await call.hang_up()
        return await call.records()


def printed(what: RenderableType, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_a_row_for_each_record(records: list[Record]) -> None:
    rows = call_log.rows(records)
    assert len(rows) == len(records)
    assert rows[0].at_s == 0.0
    assert {row.by for row in rows} == {"bridge", "owner"}
    assert [row.index for row in rows if row.by == "owner"] == list(
        range(1, 1 + sum(row.by == "owner" for row in rows))
    )
    said = next(row for row in rows if row.type == "evt.user.text")
    assert (said.summary, said.withheld, said.quiet) == ("“hello”", False, False)


def test_what_was_withheld_is_visibly_so(records: list[Record]) -> None:
    rows = call_log.rows(records)
    withheld = [row.type for row in rows if row.withheld]
    assert withheld == ["evt.user.text", "run.turn.completed", "run.turn.completed"]
    text = printed(call_log.table(rows))
    assert text.count(WITHHELD) == len(withheld)
    assert "4929" not in text


def test_the_table_fits(records: list[Record]) -> None:
    lines = printed(call_log.table(call_log.rows(records)), width=80).splitlines()
    assert lines[0].split() == ["time", "by", "#", "seen", "record", "what", "it", "says"]
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_rows_for_programs(records: list[Record]) -> None:
    rows = json.loads(json.dumps(call_log.as_json(call_log.rows(records))))
    assert set(rows[0]) == {"at_s", "by", "index", "seen", "type", "summary", "withheld"}


def test_an_empty_log() -> None:
    assert call_log.rows([]) == []


async def test_a_record_that_cannot_be_read_is_left_out() -> None:
    log: EventLog = MemoryLog()
    subjects = Subjects()
    await log.append(subjects.call("a", "s").evt("user.text"), b"{", {"Nats-Msg-Id": "1"})
    assert await call_log.read_call(log, subjects, "s") == []


def test_metrics_come_from_the_log(records: list[Record]) -> None:
    metrics = figures.call_metrics(records, now=0.0)
    assert (metrics.turns, metrics.tokens_in, metrics.tokens_out, metrics.cost.llm) == (3, 10, 4, 0.5)
    text = printed(figures.metrics_lines(metrics))
    assert "10 in, 4 out (m-1)" in text
    assert "not measured yet" in text
    assert json.loads(json.dumps(figures.metrics_json(metrics)))["cost"] == {"voice": 0.0, "llm": 0.5, "total": 0.5}


def test_latencies() -> None:
    assert "brain           12 ms on average, p95 30 ms" in printed(
        figures.metrics_lines(CallMetrics(avg_llm_ms=12.4, llm_p95_ms=30))
    )


def test_stats() -> None:
    stats = RunnerStats(1, 2, 50, 6, 1, 3.25)
    assert printed(figures.stats_lines(stats)).splitlines() == [
        "in flight      1 of 50, 2 queued",
        "last hour      6 completed, 1 failed",
        "mean duration  3.2 s",
    ]
    assert json.loads(json.dumps(figures.stats_json(stats)))["capacity"] == 50
