"""Records to metrics: which values each record gives, and each counted once.

A repeated record is recognised by its writer's index, and what a takeover has done again by what it is about: a turn by
its number. These are numbers without gaps, so what is kept of a call does not grow with its length. What arrives before
`call.started` is held until it does; a session that never starts counts nothing. A session is forgotten some seconds
after its owner has said that nothing is left to do, in the log's time, else a while after its end; whatever comes of it
later is ignored.
"""

from __future__ import annotations

from math import isfinite
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Body, Record
from unpod.core.commands import Command, EndReply
from unpod.core.events import (
    END_REASONS,
    CallEnded,
    CallStarted,
    CommandAcknowledged,
    FrameRejected,
    LLMCalled,
    OwnerAppointed,
    ReplayCompleted,
    SessionFinished,
    TurnCompleted,
    TurnMetrics,
    WorkerFact,
    tag_of,
)
from unpod.core.traces import root_span, span_id, trace_id, turn_span
from unpod.core.turn_ids import is_stage_ms
from unpod_consumers.projections import instruments, intervals
from unpod_consumers.projections.instruments import Instrument
from unpod_consumers.projections.intervals import Intervals
from unpod_consumers.projections.series import Attributes, Sample, Series, Value

KEPT_AFTER_CLOSE_S: Final = 10.0
KEPT_AFTER_END_S: Final = 900.0
FORGOTTEN_S: Final = 21_600.0
_SWEEP_S: Final = 5.0
_MAX_HELD: Final = 1_000
"""How many values wait for the start of a call, and how many commands for their receipts, at most."""
MOST_SESSIONS: Final = 200_000
"""How many sessions are kept; of those that have ended only the last quarter of an hour's are."""
MOST_VALUES: Final = 100
"""How many values of a label are shown, a model's name say; more are `other`."""
MOST_AGENTS: Final = 1_000
_LONGEST: Final = 200
_AGENT: Final = "gen_ai.agent.id"
_OTHER: Final = "other"
_MS: Final = 1_000

_Held = TypeVar("_Held")


class SessionCounts(Struct, array_like=True, omit_defaults=True):
    """What is known of one session: times in the log's time, what was counted, what waits for something.

    `told` and `written` are the indexes of the bridge's and the owner's records that were taken, by epoch.
    """

    agent: str = ""
    last_time: float = 0.0
    started: float | None = None
    ended: float | None = None
    told: dict[int, Intervals] = {}
    written: dict[int, Intervals] = {}
    turns: Intervals = []
    takeovers: Intervals = []
    appointed: set[str] = set()
    asked: dict[str, tuple[float, str]] = {}
    receipts: dict[str, float] = {}
    waiting: list[tuple[str, float, Attributes, Sample]] = []
    closed: bool = False


class MetricsTotals(Struct):
    """All that the metrics consumer knows. `time` is the newest of the log that it has seen."""

    series: Series = msgspec.field(default_factory=Series)
    sessions: dict[str, SessionCounts] = msgspec.field(default_factory=dict)
    since: float = 0.0
    time: float = 0.0
    swept: float = 0.0
    labels: dict[str, set[str]] = msgspec.field(default_factory=dict)
    """The values of each label that are shown; the first so many are."""


def take(state: MetricsTotals, record: Record, agent: str, most_sessions: int) -> None:
    """Fold one record, of an agent, into the state, which knows so many sessions at most."""
    envelope = record.envelope
    state.since = min(state.since or envelope.time, envelope.time)
    state.time = max(state.time, envelope.time)
    session = _session(state, envelope.session, agent, most_sessions)
    session.last_time = max(session.last_time, envelope.time)
    session.closed = session.closed or isinstance(record.body, SessionFinished)
    new = _first_time(session, record)
    for value in [*_values(session, record), *_flawed(session, record)] if new else ():
        if session.started is not None:
            _add(state, value)
        elif len(session.waiting) < _MAX_HELD:
            session.waiting.append((value.instrument.name, value.value, value.attributes, value.sample))
    if session.started is not None and session.waiting:
        for name, amount, attributes, sample in session.waiting:
            _add(state, Value(instruments.BY_NAME[name], amount, attributes, sample))
        session.waiting = []
    _sweep(state)


def active(state: MetricsTotals) -> dict[str, int]:
    """Return how many calls are in progress, by agent; an agent that has been seen stays, with 0."""
    calls: dict[str, int] = {}
    for session in state.sessions.values():
        if session.started is not None:
            calls[session.agent] = calls.get(session.agent, 0) + (session.ended is None)
    return calls


def park(state: MetricsTotals, reason: str) -> None:
    """Count a record that could not be taken."""
    state.series.add(Value(instruments.PARKED, 1, (("reason", reason),), Sample(0, "", "", 1)))


def correct(state: MetricsTotals, reason: str) -> None:
    """Count something that was taken otherwise than it says."""
    state.series.add(Value(instruments.CORRECTED, 1, (("reason", reason),), Sample(0, "", "", 1)))


def _session(state: MetricsTotals, name: str, agent: str, most: int) -> SessionCounts:
    """Return what is known of a session; of too many, the one that came first is forgotten."""
    session = state.sessions.get(name)
    if session is None:
        if len(state.sessions) >= most:
            del state.sessions[next(iter(state.sessions))]
            correct(state, "session")
        shown = _shown(state, _AGENT, agent)
        session = state.sessions[name] = SessionCounts(shown)
    return session


def _add(state: MetricsTotals, value: Value) -> None:
    """Add a value under labels that are not too many: whoever makes up names must not make as many series."""
    attributes = tuple((label, _shown(state, label, said)) for label, said in value.attributes)
    state.series.add(value if attributes == value.attributes else replace(value, attributes=attributes))


def _shown(state: MetricsTotals, label: str, said: str) -> str:
    known = state.labels.setdefault(label, set())
    if said in known or said == _OTHER:
        return said
    if len(known) < (MOST_AGENTS if label == _AGENT else MOST_VALUES) and len(said) <= _LONGEST:
        known.add(said)
        return said
    correct(state, "label")
    return _OTHER


def _sweep(state: MetricsTotals) -> None:
    if state.time - state.swept < _SWEEP_S:
        return
    state.swept = state.time
    for key, session in list(state.sessions.items()):
        if state.time - session.last_time > _kept_s(session):
            del state.sessions[key]


def _kept_s(session: SessionCounts) -> float:
    if session.ended is None:
        return FORGOTTEN_S
    return KEPT_AFTER_CLOSE_S if session.closed else KEPT_AFTER_END_S


def _values(session: SessionCounts, record: Record) -> list[Value]:
    body: Body = record.body
    values: list[Value] = []
    match body:
        case CallStarted():
            values = _started(session, record)
        case CallEnded(reason=reason):
            values = _ended(session, record, reason)
        case OwnerAppointed():
            values = _appointed(session, record, body)
        case ReplayCompleted() if _is_figure(body.duration_ms):
            values = [_value(session, record, instruments.REPLAY, body.duration_ms / _MS)]
        case TurnMetrics(turn_id=turn) if turn != 0:  # turn 0 is what was said before the first text
            values = _worker(session, record, body)
        case TurnCompleted(turn_id=turn) if intervals.add(session.turns, turn):
            values = _turn(session, record, body)
        case LLMCalled():
            values = _model(session, record, body)
        case CommandAcknowledged() if body.outcome != "claimed":
            values = _receipt(session, record, body)
        case Command() if not isinstance(body, EndReply):  # of which the receipts of the reply tell
            values = _command(session, record, body)
        case _:
            pass  # counted nowhere: most records, and the types that this build does not know
    return values


def _flawed(session: SessionCounts, record: Record) -> list[Value]:
    body = record.body
    if isinstance(body, FrameRejected) or (isinstance(body, WorkerFact) and body.flaws):
        return [_value(session, record, instruments.FLAWED, 1, ("event", tag_of(body)))]
    return []


def _started(session: SessionCounts, record: Record) -> list[Value]:
    if session.started is None:
        session.started = record.envelope.time
        if session.ended is not None:
            return _duration(session, record)
    return []


def _ended(session: SessionCounts, record: Record, reason: str) -> list[Value]:
    if session.ended is not None:
        return []
    session.ended = record.envelope.time
    known = reason if reason in END_REASONS else _OTHER
    calls = _value(session, record, instruments.CALLS, 1, ("end_reason", known))
    return [calls, *(_duration(session, record) if session.started is not None else [])]


def _appointed(session: SessionCounts, record: Record, owner: OwnerAppointed) -> list[Value]:
    """Return the values of an appointment; as one may come to nothing, a takeover may have several."""
    identifier = record.envelope.id[:16]
    if identifier in session.appointed:
        return []
    session.appointed.add(identifier)
    values: list[Value] = []
    if owner.takeover and intervals.add(session.takeovers, owner.takeover):
        values.append(_value(session, record, instruments.TAKEOVERS, 1, span="takeover"))
    if _is_figure(owner.waited_ms):
        kind = ("kind", "takeover" if owner.takeover else "new")
        values.append(_value(session, record, instruments.WAIT, (owner.waited_ms or 0.0) / _MS, kind))
    return values


def _duration(session: SessionCounts, record: Record) -> list[Value]:
    if session.started is None or session.ended is None:
        return []
    seconds = max(session.ended - session.started, 0.0)
    return [_value(session, record, instruments.DURATION, seconds, at=session.ended)]


def _worker(session: SessionCounts, record: Record, turn: TurnMetrics) -> list[Value]:
    """Return the figures that the worker measures: once for each turn, maybe after it was completed without them."""
    figures = (
        (instruments.E2E, turn.ttfa_ms),
        (instruments.STT, turn.asr_ms),
        (instruments.TTFB, turn.tts_ttfb_ms),
    )
    return [
        _value(session, record, instrument, figure / _MS, span="turn")
        for instrument, figure in figures
        if is_stage_ms(figure)
    ]


def _turn(session: SessionCounts, record: Record, turn: TurnCompleted) -> list[Value]:
    values: list[Value] = []
    if is_stage_ms(turn.llm_ttft_ms):  # of the worker, or else of the runner
        values.append(_value(session, record, instruments.TTFT, turn.llm_ttft_ms / _MS, span="turn"))
    if turn.interrupted:
        values.append(_value(session, record, instruments.INTERRUPTIONS, 1, span="turn"))
    return values


def _model(session: SessionCounts, record: Record, call: LLMCalled) -> list[Value]:
    model = call.model or ""
    labels = (
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", call.provider or ""),
        ("gen_ai.request.model", model),
    )
    span = f"chat {model}".rstrip()
    values = [
        _value(session, record, instruments.TOKENS, count, ("gen_ai.token.type", kind), *labels, span=span)
        for kind, count in (("input", call.tokens_in), ("output", call.tokens_out))
        if count > 0
    ]
    if call.cost and _is_figure(call.cost):
        values.append(_value(session, record, instruments.COST, call.cost, *labels[1:], span=span))
    if call.latency_ms is not None and _is_figure(call.latency_ms):
        values.append(_value(session, record, instruments.OPERATION, call.latency_ms / _MS, *labels, span=span))
    return values


def _command(session: SessionCounts, record: Record, command: Command) -> list[Value]:
    identifier = record.envelope.id
    session.asked.setdefault(identifier, (record.envelope.time, tag_of(command)))
    _bound(session.asked)
    return _latency(session, record, identifier)


def _receipt(session: SessionCounts, record: Record, receipt: CommandAcknowledged) -> list[Value]:
    if receipt.outcome not in ("written", "delivered"):
        session.asked.pop(receipt.command, None)
        return []
    session.receipts.setdefault(receipt.command, record.envelope.time)
    _bound(session.receipts)
    return _latency(session, record, receipt.command)


def _latency(session: SessionCounts, record: Record, command: str) -> list[Value]:
    if command not in session.asked or command not in session.receipts:
        return []
    (asked, verb), done = session.asked.pop(command), session.receipts.pop(command)
    return [_value(session, record, instruments.COMMAND, max(done - asked, 0.0), ("verb", verb), at=done)]


def _bound(held: dict[str, _Held]) -> None:
    if len(held) > _MAX_HELD:
        del held[next(iter(held))]


def _first_time(session: SessionCounts, record: Record) -> bool:
    """Whether a record is no repeat; placements, which have no index, are checked where they are counted."""
    envelope = record.envelope
    if record.channel in BRIDGE_CHANNELS:
        return intervals.add(session.told.setdefault(envelope.epoch, []), envelope.index)
    if record.channel in OWNER_CHANNELS:
        return intervals.add(session.written.setdefault(envelope.epoch, []), envelope.index)
    return True


def _is_figure(figure: float | None) -> bool:
    return figure is not None and isfinite(figure) and figure >= 0


def _value(
    session: SessionCounts,
    record: Record,
    instrument: Instrument,
    amount: float,
    *labels: tuple[str, str],
    span: str = "conversation",
    at: float | None = None,
) -> Value:
    envelope = record.envelope
    trace = trace_id(envelope.session)
    sample = Sample(envelope.time if at is None else at, trace, _span(record, span), float(amount))
    return Value(instrument, amount, tuple(sorted(((_AGENT, session.agent), *labels))), sample)


def _span(record: Record, name: str) -> str:
    """Return the id of the span that a value was measured in: the call's, a turn's, or the record's own."""
    session, body = record.envelope.session, record.body
    if isinstance(body, TurnCompleted):
        return turn_span(session, body.turn_id)
    if isinstance(body, TurnMetrics) and isinstance(body.turn_id, int):  # as workers count, most likely
        return turn_span(session, body.turn_id)
    if name == "conversation" or isinstance(body, TurnMetrics):
        return root_span(session)
    return span_id(trace_id(session), record.envelope.id, name)
