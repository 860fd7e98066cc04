"""One call, as far as the analysts' tables need it, and the rows that it comes to.

What the owner wrote is kept by its index until the call is told, and counts as in `unpod.core.replay.ordering.merge`:
of two records of one index the newer epoch's, and nothing that a takeover has made void. So a turn that a new runner
has done again has the figures of the one that the caller heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import isfinite
from typing import Final, Literal

import msgspec
from msgspec import Struct

from unpod.core.events import CallCompleted, ToolCalled, ToolReturned, TurnCompleted, TurnMetrics
from unpod_consumers.projections.intervals import Intervals, add
from unpod_consumers.projections.tables import Row, Table, Value

Kind = Literal["turn", "tool", "result", "summary"]
_WHOLE: Final = 2**63


class OwnerRow(Struct, array_like=True):
    """What a record of the owner says, already as cells."""

    epoch: int
    kind: Kind
    time: float
    row: Row


class OwnerChange(Struct, array_like=True):
    """A takeover: records of older epochs after `last` are void."""

    epoch: int
    last: int


class GatheredCall(Struct, array_like=True):
    """What is known of one call; times in seconds since 1970."""

    session: str
    agent: str
    last: float = 0.0
    """When its newest record was stored."""
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    by: str | None = None
    ended_seen: float = 0.0
    """When its end was stored, 0 before."""
    takeovers: int = 0
    cost_voice: float = 0.0
    told: Intervals = msgspec.field(default_factory=list)
    """The bridge's records that were taken, by index."""
    changes: list[OwnerChange] = msgspec.field(default_factory=list)
    kept: dict[int, OwnerRow] = msgspec.field(default_factory=dict)
    """What the owner's records say, by index, that is in no row yet."""
    texts: int = 0
    """How many final texts the caller has said."""
    counts_turns: bool = True
    """Whether the worker's `turn_id`s may be the numbers of those."""
    figures: dict[int, Row] = msgspec.field(default_factory=dict)
    """What the worker has measured, by the turn that it names."""
    is_told: bool = False
    """Whether its row is there; what comes later gives rows of turns and tools only."""
    used: Intervals = msgspec.field(default_factory=list)
    """The indexes of the owner's records that are in rows."""
    turns: Intervals = msgspec.field(default_factory=list)
    """The turns that have rows."""
    tools: int = 0
    """How many tool calls have rows."""


class New(Struct, array_like=True):
    """A row, and where it belongs; `day` as 2026-01-31, in UTC."""

    table: Table
    day: str
    row: Row


def keep(call: GatheredCall, index: int, kept: OwnerRow) -> None:
    """Keep a record of the owner, unless it is a repeat."""
    former = call.kept.get(index)
    if index not in call.kept or (former is not None and former.epoch < kept.epoch):
        call.kept[index] = kept


def has_summary(call: GatheredCall) -> bool:
    """Whether the owner has written all that it ever will of the call."""
    return any(kept.kind == "summary" for _, kept in _counted(call))


def rows(call: GatheredCall, *, with_call: bool) -> Iterator[New]:
    """Give the rows of what is kept, each once, and with `with_call` the call's; a call that was never up has none."""
    if call.started_at is None:
        return
    counted = _counted(call)
    turns = list(_turns(call, counted))
    yield from turns
    yield from _tools(call, counted)
    if with_call and not call.is_told:
        call.is_told = True
        yield _call(call, call.started_at, turns, [kept.row for _, kept in counted if kept.kind == "summary"])
    for index in call.kept:
        add(call.used, index)
    call.kept.clear()


def _counted(call: GatheredCall) -> list[tuple[int, OwnerRow]]:
    return sorted(
        (index, kept)
        for index, kept in call.kept.items()
        if not any(kept.epoch < change.epoch and index > change.last for change in call.changes)
    )


# -------------------------------------------------------------------------------------------------- the rows of a call


def _turns(call: GatheredCall, counted: list[tuple[int, OwnerRow]]) -> Iterator[New]:
    for _, kept in counted:
        number = kept.row.get("turn")
        if kept.kind != "turn" or not isinstance(number, int) or not add(call.turns, number):
            continue
        late = call.figures.get(number, {}) if call.counts_turns else {}
        missing = {name: value for name, value in late.items() if kept.row.get(name) is None}
        yield _new(call, "turns", {**kept.row, **missing}, kept.time)


def _tools(call: GatheredCall, counted: list[tuple[int, OwnerRow]]) -> Iterator[New]:
    """Match each result with its call as `CallFacts` does: the oldest of that turn, id and name that has none."""
    open_calls: dict[tuple[Value, ...], list[tuple[Row, float]]] = {}
    found: list[tuple[Row, float]] = []
    for _, kept in counted:
        which = tuple(kept.row.get(name) for name in ("turn", "call_id", "name"))
        if kept.kind == "tool":
            call.tools += 1
            row: Row = {"number": call.tools, **kept.row, "call_id": kept.row["call_id"] or None}
            found.append((row, kept.time))
            open_calls.setdefault(which, []).append(found[-1])
        elif kept.kind == "result" and open_calls.get(which):
            row, called_at = open_calls[which].pop(0)
            row["returned_at"], row["duration_ms"] = kept.time, max(kept.time - called_at, 0.0) * 1_000
    for row, called_at in found:
        yield _new(call, "tools", {"called_at": called_at, **row}, called_at)


def _call(call: GatheredCall, started_at: float, turns: list[New], summaries: list[Row]) -> New:
    row: Row = {
        **(summaries[-1] if summaries else _sums(call, [new.row for new in turns])),
        "started_at": started_at,
        "ended_at": call.ended_at,
        "duration_s": None if call.ended_at is None else max(call.ended_at - started_at, 0.0),
        "end_reason": call.reason,
        "ended_by": call.by,
        "takeovers": call.takeovers,
        "is_complete": bool(summaries),
    }
    return _new(call, "calls", row, started_at)


def _sums(call: GatheredCall, turns: list[Row]) -> Row:
    """Return what the summary would say, as far as the turns tell."""
    brain = sum(_number(row.get("cost_usd")) for row in turns)
    return {
        "turns": len(turns),
        "interruptions": sum(row.get("is_interrupted") is True for row in turns),
        "model": next((row["model"] for row in reversed(turns) if row.get("model")), None),
        "tokens_in": round(sum(_number(row.get("tokens_in")) for row in turns)),
        "tokens_out": round(sum(_number(row.get("tokens_out")) for row in turns)),
        "cost_voice_usd": call.cost_voice,
        "cost_llm_usd": brain,
        "cost_usd": call.cost_voice + brain,
    }


def _new(call: GatheredCall, table: Table, row: Row, time: float) -> New:
    return New(table, _day(time), cells({"session_id": call.session, "agent_id": call.agent, **row}))


# ---------------------------------------------------------------------------------------------- what the records say


def turn_row(turn: TurnCompleted, *, texts: bool) -> Row:
    """Return the cells of a turn; of what was said the lengths, and the texts where they are asked for."""
    started, ended = finite(turn.started_at), finite(turn.ended_at)
    row: Row = {
        "turn": turn.turn_id,
        "started_at": started or None,
        "ended_at": ended or None,
        "duration_s": max(ended - started, 0.0) if started and ended else None,
        "outcome": turn.outcome,
        "is_interrupted": turn.interrupted,
        "language": turn.language,
        "ttfa_ms": turn.ttfa_ms,
        "stt_ms": turn.asr_ms,
        "llm_ms": turn.llm_total_ms,
        "tts_ms": turn.tts_ttfb_ms,
        "llm_ttft_ms": turn.llm_ttft_ms,
        "llm_calls": turn.llm_call_count,
        "model": turn.model,
        "provider": turn.provider,
        "tokens_in": turn.tokens_in,
        "tokens_out": turn.tokens_out,
        "cost_usd": finite(turn.cost) or 0.0,
        "from_node": turn.from_node,
        "to_node": turn.to_node,
    }
    for side, text in (("user", turn.user_text), ("agent", turn.agent_text), ("heard", turn.heard_text)):
        row[f"{side}_chars"] = None if text is None else len(text)
        row[f"{side}_text"] = text if texts else None
    return cells(row)


def late_row(metrics: TurnMetrics) -> Row:
    """Return the cells that the worker's figures of a turn fill where it was completed without them."""
    row: Row = {
        "ttfa_ms": metrics.ttfa_ms,
        "stt_ms": metrics.asr_ms,
        "llm_ms": metrics.llm_total_ms,
        "tts_ms": metrics.tts_ttfb_ms,
        "llm_ttft_ms": metrics.llm_ttft_ms,
        "from_node": metrics.from_node,
        "to_node": metrics.to_node,
    }
    return {name: value for name, value in cells(row).items() if value is not None}


def tool_row(tool: ToolCalled | ToolReturned) -> Row:
    """Return the cells of a tool's call or result, its arguments and its result left out."""
    return cells({"turn": tool.turn_id, "name": tool.name, "call_id": tool.call_id})


def summary_row(completed: CallCompleted) -> Row:
    """Return the cells that the runner's summary of a call fills."""
    voice, brain = finite(completed.cost_voice) or 0.0, finite(completed.cost_llm) or 0.0
    return cells(
        {
            "call_id": completed.call_id,
            "runner_id": completed.runner_id,
            "direction": completed.direction,
            "turns": completed.turns,
            "interruptions": completed.interruptions,
            "avg_stt_ms": completed.avg_stt_ms,
            "avg_llm_ms": completed.avg_llm_ms,
            "avg_tts_ms": completed.avg_tts_ms,
            "model": completed.model,
            "tokens_in": completed.tokens_in,
            "tokens_out": completed.tokens_out,
            "cost_voice_usd": voice,
            "cost_llm_usd": brain,
            "cost_usd": voice + brain,
        }
    )


# ------------------------------------------------------------------------------------------------------------- cells


def cells(row: Row) -> Row:
    """Return a row that any column and any checkpoint can hold; what a record says may be no figure at all."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Value) -> Value:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return finite(value)
    return value if value is None or -_WHOLE <= value < _WHOLE else None


def plain(text: str) -> str:
    """Return a text that has a UTF-8 form: half a surrogate pair has none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def finite(figure: float | None) -> float | None:
    """Return a figure, None where it is infinite or not a number."""
    return figure if figure is not None and isfinite(figure) else None


def whole(number: int) -> int:
    """Return a number that fits into 64 bits, the nearest."""
    return min(max(number, -_WHOLE), _WHOLE - 1)


def _number(value: Value) -> float:
    return value if isinstance(value, int | float) else 0.0


def _day(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01"
