"""Records to rows: one for each call, turn and tool call, whatever comes twice, late or never.

The rows of a call come together: when it has ended and its runner has written its summary, else ten minutes after its
end. What comes later still gives the rows of its turns and tools, once no more of the call is awaited. Time is that of
the log, so the rows depend on the log alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from unpod.core import turn_ids
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.events import (
    CallCompleted,
    CallEnded,
    CallMetric,
    CallStarted,
    OwnerAppointed,
    OwnerChanged,
    StateChanged,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnMetrics,
    UserText,
)
from unpod_consumers.projections.call_rows import (
    GatheredCall,
    Kind,
    New,
    OwnerChange,
    OwnerRow,
    finite,
    has_summary,
    keep,
    late_row,
    plain,
    rows,
    summary_row,
    tool_row,
    turn_row,
    whole,
)
from unpod_consumers.projections.intervals import add, has

if TYPE_CHECKING:
    from unpod_consumers.projections.tables import Row

SUMMARY_S: Final = 600.0
"""How long a call's rows wait for its runner's summary."""
KEPT_S: Final = 900.0
"""For how many seconds after its last record a call is kept: repeats are noticed, and late records join the rest."""
FORGOTTEN_S: Final = 21_600.0
"""After how long without a record a call that has no end is given up; its row has no end."""
_SWEEP_S: Final = 5.0


class AnalyticsState(Struct):
    """The calls that may still give rows, and the rows that nobody has taken yet."""

    calls: dict[str, GatheredCall] = msgspec.field(default_factory=dict)
    rows: list[New] = msgspec.field(default_factory=list)
    swept: float = 0.0


def take(state: AnalyticsState, record: Record, agent: str, now: float, *, texts: bool = False) -> None:
    """Fold one record, of an agent, stored at `now` (seconds since 1970); `texts` keeps what was said."""
    session = plain(record.envelope.session)
    sweep(state, now)
    if session in state.calls:  # when sweeps come is chance, and what this record finds must not depend on it
        _settle(state, state.calls[session], now)
    call = state.calls.setdefault(session, GatheredCall(session, agent))
    call.last = max(call.last, now)
    index = whole(record.envelope.index)
    if record.channel in BRIDGE_CHANNELS:
        if add(call.told, index):
            _of_bridge(call, record, now)
    elif record.channel in OWNER_CHANNELS:
        found = _of_owner(record, texts=texts)
        if found is not None and not has(call.used, index):
            keep(call, index, OwnerRow(whole(record.envelope.epoch), found[0], record.envelope.time, found[1]))
    elif isinstance(record.body, OwnerAppointed):
        call.takeovers = max(call.takeovers, whole(record.body.takeover))
    if call.ended_at is not None and not call.is_told and has_summary(call):
        state.rows.extend(rows(call, with_call=True))


def sweep(state: AnalyticsState, now: float) -> None:
    """Give up what no longer comes, as of `now` in the log's time."""
    if now - state.swept < _SWEEP_S:
        return
    state.swept = now
    for call in list(state.calls.values()):
        _settle(state, call, now)


def _settle(state: AnalyticsState, call: GatheredCall, now: float) -> None:
    silent = now - call.last
    if not call.is_told and call.ended_seen and now - call.ended_seen >= SUMMARY_S:
        state.rows.extend(rows(call, with_call=True))
    if silent >= (KEPT_S if call.ended_seen else FORGOTTEN_S):
        state.rows.extend(rows(call, with_call=True))
        del state.calls[call.session]


def finish(state: AnalyticsState) -> None:
    """Tell all that is known: nothing more comes. A call in progress has the rows of its turns and tools."""
    for call in state.calls.values():
        state.rows.extend(rows(call, with_call=call.ended_at is not None))


def _of_bridge(call: GatheredCall, record: Record, now: float) -> None:
    match record.body:
        case CallStarted() if call.started_at is None:
            call.started_at = record.envelope.time
        case CallEnded() as ended if call.ended_at is None:
            call.ended_at, call.ended_seen = record.envelope.time, now
            call.reason, call.by = plain(ended.reason), ended.by
        case CallMetric(cost_usd_so_far=cost) if cost is not None:
            call.cost_voice = max(call.cost_voice, finite(cost) or 0.0)
        case OwnerChanged(epoch=epoch, last_owner_index=last):
            call.changes.append(OwnerChange(whole(epoch), whole(last)))
        case UserText(is_final=True) if call.ended_at is None:
            call.texts += 1
        case StateChanged(turn_id=turn):
            call.counts_turns &= not turn_ids.contradicts(turn, call.texts)
        case TurnMetrics(turn_id=turn) as metrics:
            call.counts_turns &= not turn_ids.contradicts(turn, call.texts)
            if call.counts_turns and isinstance(turn, int) and not isinstance(turn, bool):
                call.figures[turn] = late_row(metrics)
        case _:
            pass  # most records: they are told of by those of the owner


def _of_owner(record: Record, *, texts: bool) -> tuple[Kind, Row] | None:
    match record.body:
        case TurnCompleted() as turn:
            return "turn", turn_row(turn, texts=texts)
        case ToolCalled() as tool:
            return "tool", tool_row(tool)
        case ToolReturned() as tool:
            return "result", tool_row(tool)
        case CallCompleted() as completed:
            return "summary", summary_row(completed)
        case _:
            return None
