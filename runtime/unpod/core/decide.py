"""What happens next: the only place that chooses.

`decide(state, given, now, settings)` is told what has just happened (`given`: a record of the bridge, already folded,
or one of the local inputs below) and answers with a `Decision`: steps in order, each something to store (`Append`),
something too frequent to store (a `LocalEvent`), or something to do (an effect). It never waits and never fails on
input from outside. The driver carries the steps out and folds what it stores, so that a decision always sees its past.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import metrics, own_hooks, timers, turns
from unpod.core.codec import Record
from unpod.core.decision import (
    NOTHING,
    AdapterFinished,
    AdapterRaised,
    AdapterReported,
    AdapterSpoke,
    Append,
    AskAdapter,
    Decision,
    EntrypointReturned,
    Finish,
    FireHooks,
    Given,
    MarkInterrupted,
    Nudge,
    SendDelta,
    Settings,
    Step,
    StopAdapter,
    TimeReached,
    TurnHooksReturned,
    Verb,
)
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, TurnOpened
from unpod.core.state import SessionState, evolve_local
from unpod.core.supervision import Waiting, note_for
from unpod.core.turns import Turn


def decide(state: SessionState, given: Given, now: float, settings: Settings) -> Decision:
    """Return what happens next, now that `given` has happened."""
    if isinstance(given, Record):
        rule = _ON_RECORD.get(type(given.body))
        steps = [] if rule is None else rule(state, given, now, settings)
    else:
        steps = _ON_INPUT[type(given)](state, given, now, settings)
    return Decision(tuple(steps)) if steps else NOTHING


def follow_up(state: SessionState, now: float, settings: Settings) -> Decision:
    """Return what is due without anything having happened: the next waiting turn, or the summary of an ended call.

    A turn whose reply has ended is complete when the next text waits.

    The driver asks after each decision, until there is nothing.
    """
    turn = state.turn
    if turn is not None:
        waits = turn.phase == "ended" and state.queue and not state.over
        return Decision(tuple(complete(turn, now))) if waits else NOTHING
    if state.ended is not None and not state.queue and not state.completed:
        return Decision((Append(summary(state, settings)),))
    if not state.queue or state.over:
        return NOTHING
    first = state.queue[0]
    return Decision((TurnOpened(now), FireHooks("user_turn", (first.text or "",), turn=first.number)))


# --- rules for the bridge's records -----------------------------------------------------------------------------------


def _call_started(_: SessionState, __: Record, ___: float, ____: Settings) -> list[Step]:
    return [FireHooks("call_start")]


def _user_text(state: SessionState, given: Record, _: float, __: Settings) -> list[Step]:
    body = given.body
    if not isinstance(body, ev.UserText) or body.is_final or state.over:
        return []
    return [FireHooks("user_partial", (body.text,))]


def _user_interrupted(state: SessionState, given: Record, now: float, settings: Settings) -> list[Step]:
    body = given.body
    heard = body.heard_prefix if isinstance(body, ev.UserInterrupted) else None
    turn, steps = state.turn, list[Step]()
    if turn is not None and turn.replying:
        steps += [_stopped(turn, heard), *_end_reply(turn, "interrupted")]
        return [*steps, FireHooks("interruption"), *_agent_turn(turn)]
    if heard is not None:
        steps.append(MarkInterrupted(heard))
    elif not state.over:
        steps.append(Nudge(settings.interruption_note))
    return [*steps, FireHooks("interruption"), *complete_in_full(state, now)]


def _worker_error(state: SessionState, given: Record, _: float, __: Settings) -> list[Step]:
    body = given.body
    if not isinstance(body, ev.WorkerError):
        return []
    end = _end(state, "error") if body.severity == "fatal" else []
    return [*end, FireHooks("error", (body.code, body.message, body.severity, body.source))]


def _call_metric(_: SessionState, given: Record, __: float, ___: Settings) -> list[Step]:
    return [FireHooks("metric", (given,))]


def _turn_metrics(state: SessionState, given: Record, now: float, _: Settings) -> list[Step]:
    turn = state.turn
    if turn is None or turn.metrics is not given.body:
        return [FireHooks("metric", (given,))]
    return complete_in_full(state, now)


def _state_changed(state: SessionState, given: Record, now: float, _: Settings) -> list[Step]:
    return [FireHooks("state", (given,)), *complete_in_full(state, now)]


def _call_ended(state: SessionState, given: Record, now: float, _: Settings) -> list[Step]:
    body, turn = given.body, state.turn
    if not isinstance(body, ev.CallEnded) or state.ended is not body:
        return []
    steps: list[Step] = []
    if turn is not None:
        if turn.replying:
            steps.append(StopAdapter(turn.number))
            if turn.sent:
                steps.append(FireHooks("agent_turn", (turn.sent,), turn=turn.number))
        steps += complete(turn, now)
    for pending in state.queue:
        steps += complete(turns.opened(pending, pending.at, withheld=state.paused), now)
    return [*steps, FireHooks("call_end", (body.reason,)), Finish(body.reason)]


def _control_answered(state: SessionState, given: Record, _: float, __: Settings) -> list[Step]:
    body = given.body
    if not isinstance(body, ev.ControlAnswered) or body.outcome != "admitted" or body.body is None:
        return []
    if state.ended is not None:
        return []
    return [
        step for waiting in state.supervision.waiting if waiting.id == body.control for step in fulfil(state, waiting)
    ]


def _acknowledged(state: SessionState, given: Record, _: float, __: Settings) -> list[Step]:
    """Do our part of what the bridge has carried out for somebody outside; tell of a transfer that was refused."""
    body = given.body
    if not isinstance(body, ev.CommandAcknowledged) or state.ended is not None:
        return []
    if body.outcome == "claimed":
        return _close_turn(state) if body.command in state.asked and state.ender == body.command else []
    if body.outcome == "refused":
        refused = body.verb == "transfer" and state.ender == body.command
        return [FireHooks("error", ("transfer_refused", body.reason, "error", "transport"))] if refused else []
    return _cut(state) if state.is_cut_by(body) else []


def fulfil(state: SessionState, waiting: Waiting) -> list[Step]:
    """Return what is left to do for an admitted control, after its fold, and the word that it is done."""
    if waiting.refusal:
        return [Append(ev.ControlPerformed(control=waiting.id, outcome="failed", reason=waiting.refusal))]
    steps = _cut(state) if waiting.cuts else []
    note = note_for(state.supervision, waiting.control)
    if note:
        steps.append(Nudge(note))
    return [*steps, Append(ev.ControlPerformed(control=waiting.id))]


# --- rules for local inputs -------------------------------------------------------------------------------------------


def _turn_hooks_returned(state: SessionState, given: Given, now: float, _: Settings) -> list[Step]:
    turn = state.turn
    if not isinstance(given, TurnHooksReturned) or turn is None or turn.number != given.turn or turn.phase != "opened":
        return []
    if state.over:
        return []
    if not given.has_adapter or turn.user_text is None or turn.is_blank or state.supervision.held:
        return _end_reply(turn, "unanswered")
    return [AdapterAsked(turn.number, now), AskAdapter(turn.number, turn.user_text, turn.language)]


def _adapter_spoke(state: SessionState, given: Given, now: float, settings: Settings) -> list[Step]:
    turn = _replying(state, given)
    if turn is None or not isinstance(given, AdapterSpoke) or not given.text:
        return []
    if len(turn.sent) + len(given.text) > settings.max_reply_chars:
        limit = f"a reply of more than {settings.max_reply_chars} characters"
        return [StopAdapter(turn.number), *_fail(state, turn, ("reply_too_long", limit), now, settings)]
    delta = SendDelta(turn.number, turn.part, turn.deltas + 1, given.text)
    return [DeltaSent(turn.number, given.text, now), delta]


def _adapter_finished(state: SessionState, given: Given, _: float, __: Settings) -> list[Step]:
    turn = _replying(state, given)
    if turn is None or not isinstance(given, AdapterFinished):
        return []
    closing = given.complete and state.ending is None
    end: list[Step] = [Append(cmd.EndCall(reason="completed"))] if closing else []
    reply_end = _end_reply(turn, "done" if turn.sent else "empty", closing=closing)
    return [*reply_end, *_agent_turn(turn), *end]


def _adapter_raised(state: SessionState, given: Given, now: float, settings: Settings) -> list[Step]:
    turn = _replying(state, given)
    if turn is None or not isinstance(given, AdapterRaised):
        return []
    return _fail(state, turn, (given.code, given.error), now, settings)


def _adapter_reported(state: SessionState, given: Given, _: float, __: Settings) -> list[Step]:
    if not isinstance(given, AdapterReported):
        return []
    fact = given.fact
    if isinstance(fact, ev.LLMCalled) and state.has_withheld:
        # The model was shown the whole conversation, the withheld part of it too.
        fact = replace(fact, withheld=True)
    return [Append(fact), own_hooks.report(fact)]


def _time_reached(state: SessionState, _: Given, now: float, settings: Settings) -> list[Step]:
    reached = timers.reached(state, settings, now)
    steps: list[Step] = []
    if "max_duration" in reached:
        return _end(state, "max_duration")
    turn = state.turn
    if turn is not None and "metrics" in reached:
        steps += complete(turn, now)
    if turn is not None and "reply" in reached:
        why = "adapter_timeout", "the adapter did not answer in time"
        steps += [StopAdapter(turn.number), *_fail(state, turn, why, now, settings)]
    if "silence" in reached:
        noticed = ev.SilenceNoticed(seconds=timers.silence_s(state, settings))
        steps += [Append(noticed), own_hooks.silence(noticed)]
    return steps


def _verb(state: SessionState, given: Given, _: float, __: Settings) -> list[Step]:
    if not isinstance(given, Verb) or state.over:
        return []
    command = given.command
    if isinstance(command, cmd.EndCall):
        return _end_when_said(state, command.reason)
    if isinstance(command, cmd.Interrupt):
        return _interrupt(state)
    if isinstance(command, cmd.Transfer) and command.mode == "cold":
        return [] if state.ending is not None else [*_close_turn(state), Append(command)]
    return [Append(command)]


def _entrypoint_returned(state: SessionState, given: Given, _: float, __: Settings) -> list[Step]:
    error = given.error if isinstance(given, EntrypointReturned) else None
    steps: list[Step] = [] if error is None else [Append(ev.EntrypointFailed(error=error))]
    return [*steps, *_end(state, "error" if error is not None or state.failed else "completed")]


# --- parts of decisions -----------------------------------------------------------------------------------------------


def _replying(state: SessionState, given: Given) -> Turn | None:
    """Return the open reply that an input of the adapter belongs to; a late input of a former turn belongs to none."""
    turn = state.turn
    if turn is None or not isinstance(given, (AdapterSpoke, AdapterFinished, AdapterRaised)):
        return None
    return turn if turn.number == given.turn and turn.replying and not state.over else None


def _end_reply(turn: Turn, reason: cmd.ReplyEndReason, *, closing: bool = False) -> list[Step]:
    """End the reply. Its id hangs on turn and part alone, so that whoever ends it, it is one command."""
    chars = len(turn.sent) - turn.said
    end = cmd.EndReply(
        turn=turn.number, part=turn.part, deltas=turn.deltas, chars=chars, reason=reason, closing=closing
    )
    return [Append(end, cause=f"{turn.cause}:{turn.part}")]


def _agent_turn(turn: Turn) -> tuple[FireHooks, ...]:
    """Tell of a reply whose end has just been stored."""
    return own_hooks.agent_turn(turn.number, turn.sent)


def _fail(state: SessionState, turn: Turn, why: tuple[str, str], now: float, settings: Settings) -> list[Step]:
    """End the reply of an adapter that has failed, so that its caller is not left with half a sentence, or with none.

    Where the call is to end with this reply, nothing is said: the caller is not to say it again.
    """
    spoken, phrase = list[Step](), settings.adapter_apology
    if phrase and state.ending is None:
        said = DeltaSent(turn.number, phrase if not turn.sent or turn.sent[-1].isspace() else f" {phrase}", now)
        turn = evolve_local(state, said).turn or turn
        spoken = [said, SendDelta(turn.number, turn.part, turn.deltas, said.text)]
    ends = settings.on_adapter_error == "end" and state.ending is None
    failed = ev.AdapterFailed(turn_id=turn.number, code=why[0], error=why[1])
    steps = [*spoken, *_end_reply(turn, "failed", closing=ends), *_agent_turn(turn)]
    steps += [Append(failed), own_hooks.failure(failed)]
    return [*steps, Append(cmd.EndCall(reason="error"), cause=turn.cause)] if ends else steps


def complete_in_full(state: SessionState, now: float) -> list[Step]:
    """Complete the open turn if nothing that its row needs is still to come; see docs/adr/0003."""
    turn = state.turn
    if turn is None or turn.phase != "ended" or turn.metrics is None or state.speaking or state.awaits_voice:
        return []
    return complete(turn, now)


def complete(turn: Turn, now: float) -> list[Step]:
    """Complete a turn, and tell of it."""
    fact = turns.completed(turn, now)
    return [Append(fact), own_hooks.turn_complete(fact)]


def summary(state: SessionState, settings: Settings) -> ev.CallCompleted:
    """Return all that the row of an ended call needs."""
    started, ended = state.started, state.ended
    figures = metrics.snapshot(state.metrics, state.duration_s(state.ended_at))
    kept = state.metrics
    metadata = {} if started is None else started.metadata
    direction = metadata.get("direction")
    return ev.CallCompleted(
        call_id=state.session_id,
        agent_id=(started.agent_id if started is not None else None) or settings.agent_id,
        runner_id=state.runner_id,
        reason="lost" if ended is None else ended.reason,
        direction=direction if isinstance(direction, str) and direction else "inbound",
        started_at=state.started_at,
        ended_at=state.ended_at,
        duration_s=figures.duration_s,
        turns=figures.turns,
        interruptions=state.interruptions,
        avg_stt_ms=figures.avg_stt_ms if kept.stt else None,
        avg_llm_ms=figures.avg_llm_ms if kept.llm else None,
        avg_tts_ms=figures.avg_tts_ms if kept.tts else None,
        stt_p95_ms=figures.stt_p95_ms if kept.stt else None,
        llm_p95_ms=figures.llm_p95_ms if kept.llm else None,
        tts_p95_ms=figures.tts_p95_ms if kept.tts else None,
        tokens_in=figures.tokens_in,
        tokens_out=figures.tokens_out,
        cost_voice=figures.cost.voice,
        cost_llm=figures.cost.llm,
        model=figures.active_llm or None,
        takeovers=state.takeovers,
    )


def _close_turn(state: SessionState) -> list[Step]:
    """Stop the reply that is open, or about to be, and end it."""
    turn = state.turn
    if turn is None or not turn.owes_end:
        return []
    if not turn.replying:
        return _end_reply(turn, "ended")
    return [StopAdapter(turn.number), *_end_reply(turn, "ended"), *_agent_turn(turn)]


def _end(state: SessionState, reason: str) -> list[Step]:
    """End the call now; an end that waits for the open reply has not to wait any more."""
    if state.over:
        return []
    return [*_close_turn(state), *([] if state.ending is not None else [Append(cmd.EndCall(reason=reason))])]


def _end_when_said(state: SessionState, reason: str) -> list[Step]:
    """End the call once the reply that is open has come to its end; none is begun for that."""
    turn = state.turn
    if state.ending is not None or turn is None or not turn.replying:
        return [] if state.ending is not None else _end(state, reason)
    return [Append(cmd.EndCall(reason=reason, turn=turn.number))]


def _cut(state: SessionState) -> list[Step]:
    """End the reply that is open, where somebody outside wants it to stop."""
    turn = state.turn
    if turn is None or not turn.replying:
        return []
    return [_stopped(turn), *_end_reply(turn, "interrupted"), *_agent_turn(turn)]


def _stopped(turn: Turn, heard: str | None = None) -> StopAdapter:
    """Stop the adapter in mid-reply; of a reply of which nothing was said there is nothing to tell it."""
    told = bool(turn.sent) or turn.untold
    return StopAdapter(turn.number, mark=told, heard=heard if told else None)


def _interrupt(state: SessionState) -> list[Step]:
    turn = state.turn
    playing: list[Step] = [Append(cmd.Interrupt())] if "agent.interrupt" in state.negotiated else []
    if turn is None or not turn.replying:
        return playing
    return [_stopped(turn), *playing, *_end_reply(turn, "interrupted"), *_agent_turn(turn)]


_Rule = Callable[[SessionState, Record, float, Settings], list[Step]]
_ON_RECORD: dict[type[object], _Rule] = {
    ev.CallStarted: _call_started,
    ev.UserText: _user_text,
    ev.UserInterrupted: _user_interrupted,
    ev.WorkerError: _worker_error,
    ev.CallMetric: _call_metric,
    ev.TurnMetrics: _turn_metrics,
    ev.StateChanged: _state_changed,
    ev.CallEnded: _call_ended,
    ev.CommandAcknowledged: _acknowledged,
    ev.ControlAnswered: _control_answered,
}

_ON_INPUT: dict[type[object], Callable[[SessionState, Given, float, Settings], list[Step]]] = {
    TurnHooksReturned: _turn_hooks_returned,
    AdapterSpoke: _adapter_spoke,
    AdapterFinished: _adapter_finished,
    AdapterRaised: _adapter_raised,
    AdapterReported: _adapter_reported,
    TimeReached: _time_reached,
    Verb: _verb,
    EntrypointReturned: _entrypoint_returned,
}
