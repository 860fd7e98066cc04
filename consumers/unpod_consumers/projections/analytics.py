"""Records to rows: one for each call, turn and tool call, whatever comes twice, late or never.

A turn's row is there once the turn is completed, a tool's once it has returned. A call's row waits for the summary that
its runner writes after the end; without one it is made of its turns a minute later, and what comes after that changes
no row. Time is that of the log, so the rows depend on the log alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Final

import msgspec
from msgspec import Struct

from unpod.core.codec import Record
from unpod.core.events import (
    CallCompleted,
    CallEnded,
    CallMetric,
    CallStarted,
    OwnerAppointed,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
)
from unpod_consumers.projections.intervals import Intervals, add
from unpod_consumers.projections.tables import Row, Table, Value

SUMMARY_S: Final = 60.0
"""How long a call's row waits for its runner's summary."""
KEPT_S: Final = 900.0
"""How long a call is known after its last record, so that a repeat is one."""
FORGOTTEN_S: Final = 21_600.0
"""After how long without a record a call that has no end is given up; its row has no end."""
_SWEEP_S: Final = 5.0
_WHOLE: Final = 2**63


class Tool(Struct, array_like=True):
    """A tool call that has not returned."""

    name: str
    turn: int
    called_at: float


class Call(Struct, array_like=True):
    """What is known of one call; times in seconds since 1970."""

    session: str
    agent: str
    last: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    by: str | None = None
    ended_seen: float = 0.0
    """When its end was stored, 0 before."""
    is_told: bool = False
    """Whether its row is there."""
    turns: Intervals = msgspec.field(default_factory=list)
    interruptions: int = 0
    takeovers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_voice: float = 0.0
    cost_llm: float = 0.0
    model: str | None = None
    tools: dict[str, Tool] = msgspec.field(default_factory=dict)
    tools_done: set[str] = msgspec.field(default_factory=set)
    summary: Row | None = None


class New(Struct, array_like=True):
    """A row, and where it belongs; `day` as 2026-01-31, in UTC."""

    table: Table
    day: str
    row: Row


class AnalyticsState(Struct):
    """The calls that may still give rows, and the rows that nobody has taken yet."""

    calls: dict[str, Call] = msgspec.field(default_factory=dict)
    rows: list[New] = msgspec.field(default_factory=list)
    swept: float = 0.0


def take(state: AnalyticsState, record: Record, agent: str, now: float, *, texts: bool = False) -> None:
    """Fold one record, of an agent, stored at `now` (seconds since 1970); `texts` keeps what was said."""
    session = _plain(record.envelope.session)
    call = state.calls.setdefault(session, Call(session, agent))
    call.last = max(call.last, now)
    _of_call(call, record, now)
    match record.body:
        case TurnCompleted() as turn if add(call.turns, turn.turn_id):
            _turn(state, call, turn, record.envelope.time, texts=texts)
        case ToolCalled() as tool:
            key = tool.call_id or record.envelope.id
            if key not in call.tools_done:
                call.tools.setdefault(key, Tool(tool.name, tool.turn_id, record.envelope.time))
        case ToolReturned() as tool:
            _returned(state, call, tool, record.envelope.time)
        case _:
            pass  # most records: they are told of by those above
    if call.ended_at is not None and call.summary is not None:
        _tell(state, call)
    sweep(state, now)


def _of_call(call: Call, record: Record, now: float) -> None:
    match record.body:
        case CallStarted() if call.started_at is None:
            call.started_at = record.envelope.time
        case CallEnded() as ended if call.ended_at is None:
            call.ended_at, call.reason, call.by, call.ended_seen = record.envelope.time, ended.reason, ended.by, now
        case CallCompleted() as completed if call.summary is None:
            call.summary = _summary(completed)
        case CallMetric(cost_usd_so_far=cost) if cost is not None:
            call.cost_voice = max(call.cost_voice, _finite(cost) or 0.0)
        case OwnerAppointed(takeover=takeover):
            call.takeovers = max(call.takeovers, takeover)
        case _:
            pass


def sweep(state: AnalyticsState, now: float) -> None:
    """Give up what no longer comes, as of `now` in the log's time."""
    if now - state.swept < _SWEEP_S:
        return
    state.swept = now
    for session, call in list(state.calls.items()):
        silent = now - call.last
        if (call.ended_seen and now - call.ended_seen >= SUMMARY_S) or silent >= FORGOTTEN_S:
            _tell(state, call)
        if silent >= (KEPT_S if call.ended_seen else FORGOTTEN_S):
            del state.calls[session]


def finish(state: AnalyticsState) -> None:
    """Tell of all calls that have ended: nothing more comes."""
    for call in state.calls.values():
        if call.ended_at is not None:
            _tell(state, call)


def _tell(state: AnalyticsState, call: Call) -> None:
    """Add a call's row, once; a call that never was up has none."""
    if call.is_told or call.started_at is None:
        return
    call.is_told = True
    for key, tool in call.tools.items():
        _add(state, call, "tools", _tool(key, tool, None), tool.called_at)
    call.tools.clear()
    own: Row = {
        "started_at": call.started_at,
        "ended_at": call.ended_at,
        "duration_s": None if call.ended_at is None else max(call.ended_at - call.started_at, 0.0),
        "end_reason": call.reason,
        "ended_by": call.by,
        "takeovers": call.takeovers,
        "is_complete": call.summary is not None,
    }
    voice = call.cost_voice
    rest = call.summary or {
        "turns": sum(last - first + 1 for first, last in zip(call.turns[::2], call.turns[1::2], strict=True)),
        "interruptions": call.interruptions,
        "model": call.model,
        "tokens_in": call.tokens_in,
        "tokens_out": call.tokens_out,
        "cost_voice_usd": voice,
        "cost_llm_usd": call.cost_llm,
        "cost_usd": voice + call.cost_llm,
    }
    _add(state, call, "calls", {**rest, **own}, call.started_at)


def _summary(completed: CallCompleted) -> Row:
    voice, brain = _finite(completed.cost_voice) or 0.0, _finite(completed.cost_llm) or 0.0
    return {
        "call_id": completed.call_id,
        "runner_id": completed.runner_id,
        "direction": completed.direction,
        "turns": completed.turns,
        "interruptions": completed.interruptions,
        "avg_stt_ms": _finite(completed.avg_stt_ms),
        "avg_llm_ms": _finite(completed.avg_llm_ms),
        "avg_tts_ms": _finite(completed.avg_tts_ms),
        "model": completed.model,
        "tokens_in": completed.tokens_in,
        "tokens_out": completed.tokens_out,
        "cost_voice_usd": voice,
        "cost_llm_usd": brain,
        "cost_usd": voice + brain,
    }


def _turn(state: AnalyticsState, call: Call, turn: TurnCompleted, time: float, *, texts: bool) -> None:
    cost = _finite(turn.cost) or 0.0
    call.interruptions += turn.interrupted
    call.tokens_in += turn.tokens_in
    call.tokens_out += turn.tokens_out
    call.cost_llm += cost
    call.model = turn.model or call.model
    started, ended = _finite(turn.started_at), _finite(turn.ended_at)
    row: Row = {
        "turn": turn.turn_id,
        "started_at": started or None,
        "ended_at": ended or None,
        "duration_s": max(ended - started, 0.0) if started and ended else None,
        "outcome": turn.outcome,
        "is_interrupted": turn.interrupted,
        "language": turn.language,
        "ttfa_ms": _finite(turn.ttfa_ms),
        "stt_ms": _finite(turn.asr_ms),
        "llm_ms": _finite(turn.llm_total_ms),
        "tts_ms": _finite(turn.tts_ttfb_ms),
        "llm_ttft_ms": _finite(turn.llm_ttft_ms),
        "llm_calls": turn.llm_call_count,
        "model": turn.model,
        "provider": turn.provider,
        "tokens_in": turn.tokens_in,
        "tokens_out": turn.tokens_out,
        "cost_usd": cost,
        "from_node": turn.from_node,
        "to_node": turn.to_node,
    }
    for side, text in (("user", turn.user_text), ("agent", turn.agent_text), ("heard", turn.heard_text)):
        row[f"{side}_chars"] = None if text is None else len(text)
        row[f"{side}_text"] = text if texts else None
    _add(state, call, "turns", row, ended or time)


def _returned(state: AnalyticsState, call: Call, tool: ToolReturned, time: float) -> None:
    """Match a result with its call: by the model's id, else by its name, the oldest first."""
    named = (key for key, waiting in call.tools.items() if waiting.name == tool.name)
    key = tool.call_id or next(named, "")
    waiting = call.tools.pop(key, None)
    if waiting is not None:
        call.tools_done.add(key)
        _add(state, call, "tools", _tool(key, waiting, time), time)


def _tool(key: str, tool: Tool, returned_at: float | None) -> Row:
    return {
        "turn": tool.turn,
        "name": tool.name,
        "call_id": key,
        "called_at": tool.called_at,
        "returned_at": returned_at,
        "duration_ms": None if returned_at is None else max(returned_at - tool.called_at, 0.0) * 1_000,
    }


def _add(state: AnalyticsState, call: Call, table: Table, row: Row, time: float) -> None:
    found = {"session_id": call.session, "agent_id": call.agent, **row}
    state.rows.append(New(table, _day(time), {name: _storable(value) for name, value in found.items()}))


def _storable(value: Value) -> Value:
    """Return what any column can hold; what a record says may be no figure at all."""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or -_WHOLE <= value < _WHOLE else None


def _plain(text: str) -> str:
    """Return a text that has a UTF-8 form: half a surrogate pair has none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _day(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01"


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and isfinite(figure) else None
