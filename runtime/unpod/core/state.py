"""What a session is: a fold over its log.

`evolve` takes one record, `evolve_local` what happens too often to be stored (the asking of an adapter, the pieces of a
reply). A record that was folded already, or that a newer owner has made void, changes nothing: the fold is the durable
guard against repeats. Nothing stored depends on anything local, so any process arrives at the same history, metrics
and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import metrics, supervision, turn_ids, turns, verbs
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.controls import (
    OWNER_CONTROLS,
    AnyControl,
    EndSession,
    InterruptAgent,
    PauseSessionRecording,
    ResumeSessionRecording,
    SaySomething,
    ends_session,
)
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, LocalEvent, ToolsRun, TurnOpened, TurnResumed
from unpod.core.metrics import MetricsState
from unpod.core.supervision import Supervision
from unpod.core.turns import PendingTurn, Turn

T = TypeVar("T")


class ToolUse(Struct, frozen=True):
    """A tool that the adapter has used; `result` is None also where it has not returned."""

    name: str
    arguments: object = None
    call_id: str = ""
    result: object = None
    returned: bool = False


class Exchange(Struct, frozen=True):
    """A completed turn as the adapter's memory has it; `heard` is what the caller heard of the reply, None if unknown.

    `tools` is filled in where a developer looks (`Session.history`).
    """

    turn: int
    user: str | None
    agent: str | None
    heard: str | None
    withheld: bool = False
    tools: tuple[ToolUse, ...] = ()


class SessionState(Struct, frozen=True, kw_only=True):
    """All that is known of a session from its log.

    `tells_state`: the worker has sent `state` frames. `counts_turns`: nothing that it has sent contradicts that its
    `turn_id` is the number of a final text, from 1. `asked` are the controls from outside that the bridge has admitted
    and is to carry out; they count once it has. `ending` is the reason with which the session is about to end, since
    the command or control `ender` was given to the worker; the reply to `last_turn` comes to its end before that.
    `put_off` is the session's own end, as (`ender`, `ending`), while the worker is given one from outside instead.
    `pausers` are the controls that have paused the recording, as long as nobody knows whether any can be carried out.
    `confirmed` is the last turn of which a receipt says that the whole reply was handed to the worker, 0 before the
    first; -1: no receipt has come in this call.
    """

    session_id: str = ""
    runner_id: str = ""
    bridge_index: int = 0
    owner_index: int = 0
    epoch: int = 0
    line_epoch: int = 0
    void_after: int = 0
    takeovers: int = 0
    started: ev.CallStarted | None = None
    started_at: float = 0.0
    timed_from: float = 0.0
    negotiated: frozenset[str] = frozenset()
    queue: tuple[PendingTurn, ...] = ()
    turn: Turn | None = None
    turn_count: int = 0
    reply_ends: dict[int, cmd.EndReply] = {}
    history: tuple[Exchange, ...] = ()
    tools: dict[int, tuple[ToolUse, ...]] = {}
    interruptions: int = 0
    speaking: bool = False
    tells_state: bool = False
    counts_turns: bool = True
    confirmed: int = -1
    quiet_since: float = 0.0
    silences: int = 0
    paused: bool = False
    resuming: str = ""
    supervision: Supervision = Supervision()
    pausers: tuple[str, ...] = ()
    asked: dict[str, AnyControl] = {}
    ending: str | None = None
    ender: str = ""
    last_turn: int = 0
    put_off: tuple[str, str] | None = None
    ended: ev.CallEnded | None = None
    ended_at: float = 0.0
    failed: bool = False
    completed: bool = False
    finished: bool = False
    usage: dict[int, turns.Usage] = {}
    metrics: MetricsState = MetricsState()

    @property
    def over(self) -> bool:
        """Whether nothing more can be said on this call."""
        return self.ended is not None or (self.ending is not None and not self.last_turn)

    @property
    def private(self) -> bool:
        """Whether what is said now, or what the open turn is about, must not be kept."""
        return self.paused or (self.turn is not None and self.turn.withheld)

    @property
    def awaits_voice(self) -> bool:
        """Whether the reply of the open turn has not begun to be heard, and the worker will say when it does.

        A reply that was cut off may never be.
        """
        turn = self.turn
        return self.tells_state and turn is not None and bool(turn.sent) and not (turn.voiced or turn.interrupted)

    @property
    def awaits_receipt(self) -> bool:
        """Whether the reply of the open turn has not been confirmed as handed to the worker, and receipts come at all.

        A reply that was cut off may never be.
        """
        turn = self.turn
        return turn is not None and 0 <= self.confirmed < turn.number and bool(turn.sent) and not turn.interrupted

    @property
    def has_withheld(self) -> bool:
        """Whether the conversation so far, as an adapter remembers it, has parts that must not be kept."""
        if self.private or any(exchange.withheld for exchange in self.history):
            return True
        return any(pending.withheld for pending in self.queue)

    def is_cut_by(self, body: object) -> bool:
        """Whether a receipt, which is folded already, says that somebody outside has cut the reply that is open."""
        if isinstance(body, ev.CommandAcknowledged):
            carried_out = body.outcome not in ("claimed", "refused")
            return carried_out and isinstance(self.asked.get(body.command), InterruptAgent)
        if isinstance(body, ev.ControlAnswered) and body.outcome == "admitted":
            return any(waiting.id == body.control and waiting.cuts for waiting in self.supervision.waiting)
        return False

    def is_late(self, body: ev.TurnMetrics, turn: int) -> bool:
        """Whether the worker's figures are those of a turn before `turn`, as far as they say."""
        return self.counts_turns and turn_ids.names_earlier(body.turn_id, turn)

    def duration_s(self, now: float) -> float:
        """Return the seconds from the call's start to its end, or to `now`."""
        if not self.started_at:
            return 0.0
        return max(0.0, (self.ended_at or now) - self.started_at)


def evolve(state: SessionState, record: Record) -> SessionState:
    """Return the state after one record."""
    envelope = record.envelope
    if record.channel in BRIDGE_CHANNELS:
        if envelope.index <= state.bridge_index:
            return state
        state = replace(state, bridge_index=envelope.index, line_epoch=max(state.line_epoch, envelope.epoch))
    elif record.channel in OWNER_CHANNELS:
        if envelope.index <= state.owner_index or (envelope.epoch < state.epoch and envelope.index > state.void_after):
            return state
        state = replace(state, owner_index=envelope.index, epoch=max(state.epoch, envelope.epoch))
    fold = _FOLDS.get(type(record.body))
    return state if fold is None else fold(state, record)


def fold(records: Iterable[Record], state: SessionState | None = None) -> SessionState:
    """Return the state after all `records`, which are in merged order (`unpod.core.replay.ordering.merge`)."""
    state = SessionState() if state is None else state
    for record in records:
        state = evolve(state, record)
    return state


def evolve_local(state: SessionState, event: LocalEvent) -> SessionState:
    """Return the state after something that is not stored."""
    if isinstance(event, TurnOpened):
        first, *rest = state.queue
        return replace(state, queue=tuple(rest), turn=turns.opened(first, event.at, withheld=state.paused))
    if isinstance(event, TurnResumed):
        queue = tuple(pending for pending in state.queue if pending.number != event.turn.number)
        return replace(state, queue=queue, turn=event.turn)
    turn = state.turn
    if turn is None or turn.number != event.turn:
        return state
    if isinstance(event, DeltaSent):
        turn = replace(
            turn,
            phase=turns.step(turn, "delta"),
            first_delta_at=turn.first_delta_at or event.at,
            last_delta_at=event.at,
            deltas=turn.deltas + 1,
            sent=turn.sent + event.text,
            voiced=turn.voiced or state.speaking,
        )
        return replace(state, turn=turn, quiet_since=event.at, silences=0)
    if isinstance(event, AdapterAsked):
        turn = replace(turn, phase=turns.step(turn, "ask"), asked_at=event.at)
    elif isinstance(event, ToolsRun):
        turn = replace(turn, bounded_tools=turn.bounded_tools + event.more, tool_at=event.at)
    else:
        turn = replace(turn, nodes=(event.from_node, event.to_node))
    return replace(state, turn=turn)


# --- one function for each kind of record that changes something ------------------------------------------------------


def _hello_acked(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.HelloAcked)
    return replace(state, negotiated=verbs.negotiated(body.negotiated_verbs))


def _call_started(state: SessionState, record: Record) -> SessionState:
    body, at = _body(record, ev.CallStarted), record.envelope.time
    return replace(state, session_id=body.session_id, started=body, started_at=at, timed_from=at, quiet_since=at)


def _user_text(state: SessionState, record: Record) -> SessionState:
    body, envelope = _body(record, ev.UserText), record.envelope
    state = replace(state, quiet_since=envelope.time, silences=0)
    if not body.is_final or state.ended is not None:
        return state
    number = state.turn_count + 1
    text, withheld = None if body.withheld else body.text, body.withheld or state.paused
    pending = PendingTurn(number, envelope.id, text, body.language_tag, envelope.time, withheld)
    queue = (*state.queue, pending)
    state = replace(state, supervision=supervision.said(state.supervision, "Caller", None if withheld else text))
    return replace(state, queue=queue, turn_count=number, metrics=metrics.on_turn(state.metrics))


def _user_interrupted(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.UserInterrupted)
    state = replace(
        state,
        quiet_since=record.envelope.time,
        silences=0,
        interruptions=state.interruptions + 1,
        speaking=False,
    )
    if state.turn is not None and state.turn.phase != "opened":
        return replace(state, turn=turns.interrupted(state.turn, body.heard_prefix))
    if state.turn is not None or state.queue or not state.history:
        return state
    # What was not kept must not be known, even by the session that has just heard it.
    private = body.withheld or state.paused
    if body.heard_prefix is None and not private:
        return state
    *before, last = state.history
    return replace(state, history=(*before, replace(last, heard=None if private else body.heard_prefix)))


def _state_changed(state: SessionState, record: Record) -> SessionState:
    body, turn = _body(record, ev.StateChanged), state.turn
    speaking = body.state == "speaking"
    state = _compare_counts(replace(state, tells_state=True), body.turn_id)
    if speaking and turn is not None and turn.sent:
        state = replace(state, turn=replace(turn, voiced=True))
    if speaking == state.speaking:
        return state
    return replace(state, speaking=speaking, quiet_since=record.envelope.time, silences=0)


def _compare_counts(state: SessionState, turn_id: object) -> SessionState:
    contradicts = turn_ids.contradicts(turn_id, state.turn_count)
    return replace(state, counts_turns=False) if contradicts else state


def _turn_metrics(state: SessionState, record: Record) -> SessionState:
    body, turn = _body(record, ev.TurnMetrics), state.turn
    state = replace(state, metrics=metrics.on_turn_metrics(state.metrics, body))
    state = _compare_counts(state, body.turn_id)
    if turn is None or turn.phase not in ("speaking", "ended") or state.is_late(body, turn.number):
        return state
    return replace(state, turn=replace(turn, metrics=body))


def _call_metric(state: SessionState, record: Record) -> SessionState:
    return replace(state, metrics=metrics.on_call_metric(state.metrics, _body(record, ev.CallMetric)))


def _call_ended(state: SessionState, record: Record) -> SessionState:
    if state.ended is not None:
        return state
    body, asked = _body(record, ev.CallEnded), next(filter(ends_session, state.asked.values()), None)
    if state.ending is None and isinstance(asked, EndSession):  # of some logs of 0.1 the claim of an end is missing
        state = replace(state, ending=asked.reason or "completed")
    return replace(state, ended=body, ended_at=record.envelope.time, speaking=False)


def _owner_changed(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.OwnerChanged)
    ends = state.reply_ends
    return replace(
        state,
        reply_ends={turn: end for turn, end in ends.items() if turn < body.unended} if body.unended else ends,
        epoch=max(state.epoch, body.epoch),
        void_after=body.last_owner_index,
        owner_index=min(state.owner_index, body.last_owner_index),
        takeovers=max(state.takeovers, body.takeover),
    )


def _reply_spoken(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.ReplySpoken)
    confirmed = body.turn if body.ended else 0
    return replace(state, confirmed=confirmed) if confirmed > state.confirmed else state


def _acknowledged(state: SessionState, record: Record) -> SessionState:
    body, at = _body(record, ev.CommandAcknowledged), record.envelope.time
    if body.outcome == "refused":
        return _refused(state, body.command, at)
    if body.outcome == "claimed":
        control = state.asked.get(body.command)
        return state if control is None else _ended_from_outside(state, body.command, control)
    if body.command in state.pausers:
        return replace(state, pausers=())
    if state.resuming and body.command == state.resuming and body.outcome in ("written", "delivered", "ignored"):
        return replace(state, paused=False, resuming="")
    return state


def _refused(state: SessionState, command: str, at: float) -> SessionState:
    """Go on as if it had not been asked for."""
    if command in state.pausers:
        left = tuple(pauser for pauser in state.pausers if pauser != command)
        state = replace(state, paused=bool(left), pausers=left)
    if state.ended is not None:
        return state
    if state.put_off is not None and command == state.put_off[0]:
        return replace(state, put_off=None)
    if command != state.ender or state.ending is None:
        return state
    ender, ending = state.put_off or (state.ender, None)
    return replace(state, ending=ending, ender=ender, last_turn=0, put_off=None, quiet_since=at, silences=0)


def _control_answered(state: SessionState, record: Record) -> SessionState:
    body, at = _body(record, ev.ControlAnswered), record.envelope.time
    if state.ended is not None:
        return state
    if body.outcome == "admitted" and body.body is not None:
        return _admitted(state, record, body.control, body.body)
    control = state.asked.get(body.control)
    if control is not None:
        state = replace(state, asked={name: kept for name, kept in state.asked.items() if name != body.control})
    if isinstance(control, SaySomething) and body.outcome == "applied":
        said = supervision.said(state.supervision, "Supervisor", control.text, by_supervisor=True)
        return replace(state, supervision=said, quiet_since=at, silences=0)
    return state


def _admitted(state: SessionState, record: Record, control_id: str, control: AnyControl) -> SessionState:
    """Take what the owner is to do, and note what the bridge is to do; only a pause counts at once: nothing is kept."""
    held, after = state.supervision.held, supervision.admitted(state.supervision, control_id, control)
    state = replace(state, supervision=after)
    if held and not after.held:
        state = replace(state, quiet_since=record.envelope.time, silences=0)
    if isinstance(control, OWNER_CONTROLS):
        return state
    state = replace(state, asked={**state.asked, control_id: control})
    match control:
        case PauseSessionRecording():
            pausers = (*state.pausers, control_id) if state.pausers or not state.paused else ()
            return replace(_pause(state, record), pausers=pausers)
        case ResumeSessionRecording():
            return replace(state, resuming=control_id) if state.paused else state
        case _:
            return state


def _ended_from_outside(state: SessionState, control_id: str, control: AnyControl) -> SessionState:
    """The worker is given what ends the session; it is given one such thing at a time."""
    if state.ended is not None or not ends_session(control):
        return state
    reason = (control.reason or "completed") if isinstance(control, EndSession) else "transferred"
    put_off = state.put_off or (None if state.ending is None else (state.ender, state.ending))
    return replace(state, ending=reason, ender=control_id, last_turn=0, put_off=put_off)


def _control_performed(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.ControlPerformed)
    return replace(state, supervision=supervision.performed(state.supervision, body.control))


def _turn_completed(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.TurnCompleted)
    turn = state.turn if state.turn is not None and state.turn.number != body.turn_id else None
    exchange = Exchange(body.turn_id, body.user_text, body.agent_text, body.heard_text, body.withheld)
    return replace(
        state,
        turn=turn,
        queue=tuple(pending for pending in state.queue if pending.number != body.turn_id),
        reply_ends={number: end for number, end in state.reply_ends.items() if number > body.turn_id},
        history=(*state.history, exchange),
        usage={number: usage for number, usage in state.usage.items() if number > body.turn_id},
        metrics=metrics.on_turn_completed(state.metrics, body),
    )


def _llm_called(state: SessionState, record: Record) -> SessionState:
    body = _body(record, ev.LLMCalled)
    former = state.usage.get(body.turn_id, turns.Usage())
    usage = turns.Usage(
        calls=former.calls + 1,
        tokens_in=former.tokens_in + body.tokens_in,
        tokens_out=former.tokens_out + body.tokens_out,
        cost=former.cost + (body.cost or 0.0),
        latency_ms=former.latency_ms + (body.latency_ms or 0.0),
        ttft_ms=body.ttft_ms if former.ttft_ms is None else former.ttft_ms,
        model=body.model or former.model,
        provider=body.provider or former.provider,
    )
    state = replace(state, usage={**state.usage, body.turn_id: usage}, metrics=metrics.on_llm_call(state.metrics, body))
    if state.turn is not None and state.turn.number == body.turn_id:
        return replace(state, turn=replace(state.turn, usage=usage))
    return state


def _tool_called(state: SessionState, record: Record) -> SessionState:
    body, turn = _body(record, ev.ToolCalled), state.turn
    used = ToolUse(body.name, body.arguments, body.call_id)
    state = replace(state, tools={**state.tools, body.turn_id: (*state.tools.get(body.turn_id, ()), used)})
    if turn is None or turn.number != body.turn_id:
        return state
    return replace(state, turn=turns.tool_called(turn, body, record.envelope.time))


def _tool_returned(state: SessionState, record: Record) -> SessionState:
    body, turn = _body(record, ev.ToolReturned), state.turn
    tools = tuple(
        replace(used, result=body.result, returned=True) if used.call_id == body.call_id else used
        for used in state.tools.get(body.turn_id, ())
    )
    state = replace(state, tools={**state.tools, body.turn_id: tools})
    if turn is None or turn.number != body.turn_id:
        return state
    return replace(state, turn=turns.tool_returned(turn, body, record.envelope.time))


def _silence(state: SessionState, _: Record) -> SessionState:
    return replace(state, silences=state.silences + 1)


def _entrypoint_failed(state: SessionState, _: Record) -> SessionState:
    return replace(state, failed=True)


def _call_completed(state: SessionState, _: Record) -> SessionState:
    return replace(state, completed=True)


def _session_finished(state: SessionState, record: Record) -> SessionState:
    return replace(state, finished=True, failed=state.failed or _body(record, ev.SessionFinished).failed)


def _owner_appointed(state: SessionState, record: Record) -> SessionState:
    return replace(state, runner_id=_body(record, ev.OwnerAppointed).runner)


def _say(state: SessionState, record: Record) -> SessionState:
    return replace(state, quiet_since=record.envelope.time, silences=0)


def _end_reply(state: SessionState, record: Record) -> SessionState:
    body, at, turn = _body(record, cmd.EndReply), record.envelope.time, state.turn
    ends = {**state.reply_ends, body.turn: body}
    last_turn = state.last_turn if state.last_turn > body.turn else 0
    state = replace(state, quiet_since=at, silences=0, reply_ends=ends, last_turn=last_turn)
    if turn is None or turn.number != body.turn or turn.part != body.part or not turn.owes_end:
        return state
    cut = turn.interrupted or body.reason == "interrupted"
    turn = replace(turn, phase=turns.step(turn, "end"), ended_at=at, end_reason=body.reason, interrupted=cut)
    return replace(state, turn=turn)


def _end_call(state: SessionState, record: Record) -> SessionState:
    body = _body(record, cmd.EndCall)
    if state.ending is not None:
        return state
    last_turn = 0 if body.turn in state.reply_ends else body.turn
    return replace(state, ending=body.reason, ender=record.envelope.id, last_turn=last_turn)


def _transfer(state: SessionState, record: Record) -> SessionState:
    if _body(record, cmd.Transfer).mode == "warm" or state.ending is not None:
        return state
    return replace(state, ending="transferred", ender=record.envelope.id)


def _pause(state: SessionState, _: Record) -> SessionState:
    turn = None if state.turn is None else replace(state.turn, withheld=True)
    return replace(state, paused=True, resuming="", pausers=(), turn=turn)


def _resume(state: SessionState, record: Record) -> SessionState:
    return replace(state, resuming=record.envelope.id) if state.paused else state


_FOLDS: dict[type[object], Callable[[SessionState, Record], SessionState]] = {
    ev.HelloAcked: _hello_acked,
    ev.CallStarted: _call_started,
    ev.UserText: _user_text,
    ev.UserInterrupted: _user_interrupted,
    ev.StateChanged: _state_changed,
    ev.TurnMetrics: _turn_metrics,
    ev.CallMetric: _call_metric,
    ev.CallEnded: _call_ended,
    ev.OwnerAppointed: _owner_appointed,
    ev.OwnerChanged: _owner_changed,
    ev.CommandAcknowledged: _acknowledged,
    ev.ReplySpoken: _reply_spoken,
    ev.ControlAnswered: _control_answered,
    ev.TurnCompleted: _turn_completed,
    ev.LLMCalled: _llm_called,
    ev.ToolCalled: _tool_called,
    ev.ToolReturned: _tool_returned,
    ev.SilenceNoticed: _silence,
    ev.EntrypointFailed: _entrypoint_failed,
    ev.ControlPerformed: _control_performed,
    ev.CallCompleted: _call_completed,
    ev.SessionFinished: _session_finished,
    cmd.Say: _say,
    cmd.EndReply: _end_reply,
    cmd.EndCall: _end_call,
    cmd.Transfer: _transfer,
    cmd.PauseRecording: _pause,
    cmd.ResumeRecording: _resume,
}


def _body(record: Record, kind: type[T]) -> T:
    body = record.body
    assert isinstance(body, kind)  # noqa: S101 - the table above has just looked it up by its type
    return body
