"""Where a takeover goes on: what becomes of the turn that the former owner had open, and of a call that is over.

The open turn is the first text that has no `run.turn.completed`. Its reply may be ended already (it then only waits for
its figures), not begun (its text goes to the adapter as if nothing had happened), or cut: spoken in part, until its
owner died, or the caller cut in and its owner died before it had said so. The bridge's takeover record says how far it
came. Where the bridge died as well, that record says of which replies nobody knows how far they came (`unsure_until`):
these count as spoken in part, however little is known of it, and what is unknown is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import own_hooks, turns
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.decide import complete, complete_in_full, decide, fulfil
from unpod.core.decision import (
    Append,
    AskAdapter,
    Decision,
    Finish,
    FireHooks,
    MarkInterrupted,
    SendDelta,
    Settings,
    Step,
)
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, TurnResumed
from unpod.core.replay.history import History
from unpod.core.state import SessionState, evolve
from unpod.core.turns import PendingTurn, Turn

OnResume = Literal["continue", "apologise", "repeat"]


class Present(Struct, frozen=True, kw_only=True):
    """What the session has to go on with: perhaps an adapter, and one that can go on in the middle of a reply."""

    now: float
    settings: Settings
    has_adapter: bool
    can_continue: bool


class Trace:
    """What a first look through the past has found; `state` is its end.

    `interruption` and `figures` belong to the turn that is open at the end; `stray` are the ids of figures that
    belonged to no turn when they came; `texts` is what was sent of each reply; `fatal` is the worker's word that it
    cannot go on.
    """

    def __init__(self, state: SessionState, records: Iterable[Record], settings: Settings) -> None:
        self.state = state
        self.due: list[tuple[list[FireHooks], PendingTurn | None]] = []
        """Of each record what hooks were due, where it is the bridge's, and the text whose turn had come with it."""
        self.interruption: ev.UserInterrupted | None = None
        self.figures: ev.TurnMetrics | None = None
        self.fatal: Record | None = None
        self.end: Record | None = None
        """The record of the call's end."""
        self.stray: set[str] = set()
        self.texts: dict[int, str] = {}
        self.voiced = False
        """Whether the worker was speaking since something of the open turn's reply had left."""
        self._turn = 0
        self._spoken = 0
        self._unanswered = False
        opened = 0
        for record in records:
            if self._unanswered and record.channel in OWNER_CHANNELS:
                self._answer(record)
            self._look_at(record)
            self.state = state = evolve(self.state, record)
            if isinstance(record.body, ev.TurnMetrics):  # folded first: they may contradict the count of texts
                self._take_figures(record, record.body)
            elif state.is_cut_by(record.body) and self._turn:
                self.interruption = ev.UserInterrupted()
                self._unanswered = self._turn not in state.reply_ends
            first = state.queue[0] if state.queue and not state.over and state.queue[0].number > opened else None
            opened = opened if first is None else first.number
            self.due.append((self._hooks(record, settings), first))
            self._next_turn()

    def _hooks(self, record: Record, settings: Settings) -> list[FireHooks]:
        """Return the hooks that were due at a record of the bridge, but for those of the call's end: they come last."""
        if record.channel not in BRIDGE_CHANNELS or isinstance(record.body, ev.CallEnded):
            return []
        if isinstance(record.body, ev.TurnMetrics) and record.envelope.id not in self.stray:
            return []
        steps = decide(self.state, record, record.envelope.time, settings).steps
        return [step for step in steps if isinstance(step, FireHooks)]

    def _next_turn(self) -> None:
        number = self.state.queue[0].number if self.state.queue else 0
        if number != self._turn:
            self._turn, self.interruption, self.figures, self._unanswered = number, None, None, False
            self.voiced = False
        elif self.state.speaking and self._has_begun():
            self.voiced = True

    def _answer(self, record: Record) -> None:
        """Take the owner's answer to an interruption; if it ends no open reply, earlier speech was cut."""
        body = record.body
        if isinstance(body, cmd.EndReply) and body.turn == self._turn:
            self._unanswered = False
            if body.reason != "interrupted":
                self.interruption = None
        elif record.envelope.epoch == self.state.epoch:
            self._unanswered, self.interruption = False, None

    def _look_at(self, record: Record) -> None:
        match record.body:
            case ev.UserInterrupted() as body if self._turn:
                self.interruption = body
                self._unanswered = self._turn not in self.state.reply_ends
            case ev.ReplySpoken() as body if body.chars:
                self._spoken = body.turn
            case ev.TurnCompleted() as body:
                self.texts[body.turn_id] = body.agent_text or ""
            case ev.WorkerError(severity="fatal"):
                self.fatal = self.fatal or record
            case ev.CallEnded() if self.end is None:
                self.end = record
            case _:
                return

    def _take_figures(self, record: Record, body: ev.TurnMetrics) -> None:
        """Figures belong to the open turn once something of its reply was spoken, or it was ended."""
        if self._has_begun() and not self.state.is_late(body, self._turn):
            self.figures = body
        else:
            self.stray.add(record.envelope.id)

    def _has_begun(self) -> bool:
        """Whether something of the open turn's reply was spoken, or it was ended."""
        return bool(self._turn) and (self._turn == self._spoken or self._turn in self.state.reply_ends)


def resume(state: SessionState, trace: Trace, past: History, present: Present) -> Decision:
    """Return how the new owner goes on, once it has gone through the past.

    `state` has what it wrote meanwhile, too. Hooks that are not `own` are due at `trace.end`.
    """
    if state.ended is not None:
        return Decision(tuple(_over(state, trace, past, present.now)))
    steps = _open_turn(state, trace, past, present) if state.queue else []
    for waiting in state.supervision.waiting:
        steps += fulfil(replace(state, turn=None), waiting)
    return Decision((*steps, *_due_end(state, trace)))


def cut_reply(pending: PendingTurn, spoken: ev.OwnerChanged) -> Append:
    """Return the end of a reply that a command of the new owner cuts off."""
    return _end(turns.opened(pending, pending.at, withheld=False), _part(pending, spoken), "ended")


def spoken_of(pending: PendingTurn, past: History) -> ev.OwnerChanged:
    """Return how far the reply to a text was spoken when this owner began, as far as anybody knows.

    A bridge that has taken over the call may know less than the log: receipts count what was spoken, and an earlier
    owner's starting point has the words, if nothing was spoken since.
    """
    takeover, number = past.takeover, pending.number
    if takeover is None:
        return ev.OwnerChanged(epoch=0)
    spoken = takeover
    if takeover.turn != number:
        spoken = ev.OwnerChanged(epoch=0, turn=number, unsure_until=takeover.unsure_until, unended=takeover.unended)
    if spoken.text is not None:
        return spoken
    told = [reply for reply in past.told if reply.turn == number]
    receipts = [receipt.chars for receipt in past.receipts if receipt.turn == number]
    spoken = replace(spoken, chars=max([spoken.chars, *receipts, *(reply.chars for reply in told)]))
    known = next((reply for reply in reversed(told) if reply.text and reply.chars == spoken.chars), None)
    return spoken if known is None else replace(spoken, part=max(spoken.part, known.part), text=known.text)


def _part(pending: PendingTurn, spoken: ev.OwnerChanged) -> int:
    """Return the part that a reply is at: one more than was spoken where that has an end which was not carried out."""
    return spoken.part + (0 < spoken.unended <= pending.number)


def _is_begun(spoken: ev.OwnerChanged) -> bool:
    """Whether a reply was begun, or may have been."""
    return spoken.chars > 0 or 0 < spoken.turn <= spoken.unsure_until


def _is_untold(spoken: ev.OwnerChanged, end: cmd.EndReply | None) -> bool:
    """Whether something of a reply was spoken, or may have been, and nobody knows its words; of a long one, not all."""
    if spoken.text is not None:
        return len(spoken.text) < max(spoken.chars, 0 if end is None else end.chars)
    return _is_begun(spoken) if end is None else end.chars > 0 or end.part > 0


# --- the open turn ----------------------------------------------------------------------------------------------------


def _open_turn(state: SessionState, trace: Trace, past: History, present: Present) -> list[Step]:
    pending = state.queue[0]
    spoken = spoken_of(pending, past)
    turn = _turn(state, trace, spoken, present.now)
    if turn.phase == "ended":
        return [TurnResumed(turn), *complete_in_full(replace(state, turn=turn), present.now)]
    if state.over:
        return [TurnResumed(turn), _end(turn, turn.part, "ended")]
    if pending.cause in past.poisoned:
        return _poisoned(turn)
    mute = not present.has_adapter or (turn.is_blank and not turn.sent)
    if turn.interrupted and not mute:
        return _cut_by_caller(turn)
    if mute or state.supervision.held:
        return [TurnResumed(turn), _end(turn, turn.part, "unanswered" if mute or not turn.sent else "interrupted")]
    return _go_on(turn, spoken, present)


def _turn(state: SessionState, trace: Trace, spoken: ev.OwnerChanged, now: float) -> Turn:
    """Return the open turn as far as the log knows it."""
    pending, text = state.queue[0], spoken.text or ""
    turn = replace(
        turns.opened(pending, pending.at, withheld=state.paused),
        part=_part(pending, spoken),
        sent=text,
        said=len(text),
        usage=state.usage.get(pending.number, turns.Usage()),
        metrics=trace.figures,
        voiced=trace.voiced,
    )
    end, cut = state.reply_ends.get(pending.number), trace.interruption
    turn = replace(turn, untold=_is_untold(spoken, end))
    # Of a reply of which nothing was spoken the caller has not cut anything: it is asked for again.
    if cut is not None and (end is not None or _is_begun(spoken)):
        turn = turns.interrupted(turn, cut.heard_prefix)
    if end is None:
        return turn
    return replace(
        turn,
        phase="ended",
        part=end.part,
        ended_at=now,
        end_reason=end.reason,
        interrupted=turn.interrupted or end.reason == "interrupted",
    )


def _go_on(turn: Turn, spoken: ev.OwnerChanged, present: Present) -> list[Step]:
    text, now, policy = turn.user_text, present.now, present.settings.on_resume
    following, apology = replace(turn, part=turn.part + 1), present.settings.adapter_apology
    if apology and turn.sent.endswith(apology):  # its adapter had failed, and that was the last piece of the reply
        return [TurnResumed(turn), _end(turn, turn.part, "failed"), *own_hooks.agent_turn(turn.number, turn.sent)]
    if text is None:  # it was withheld, and nobody knows it any more
        return _apologise(following, spoken, present)
    begun = _is_begun(spoken)
    if not begun or policy == "repeat":
        again = replace(turn, part=turn.part + 1 if begun else turn.part, sent="", said=0, untold=False)
        return [TurnResumed(again), AdapterAsked(turn.number, now), AskAdapter(turn.number, text, turn.language)]
    if policy == "continue" and present.can_continue and spoken.text:
        question = AskAdapter(turn.number, text, turn.language, said=spoken.text)
        return [TurnResumed(following), AdapterAsked(turn.number, now), question]
    return _apologise(following, spoken, present)


def _apologise(turn: Turn, spoken: ev.OwnerChanged, present: Present) -> list[Step]:
    """Say that something went wrong, and ask the caller to go on; `turn` has the part that this is said in."""
    cut, phrase, now = turns.interrupted(turn, spoken.text), present.settings.resume_apology, present.now
    steps: list[Step] = [TurnResumed(cut), AdapterAsked(turn.number, now)]
    if spoken.text:
        steps.append(MarkInterrupted(spoken.text))
    if phrase:
        steps += [DeltaSent(turn.number, phrase, now), SendDelta(turn.number, turn.part, 1, phrase)]
    end = cmd.EndReply(
        turn=turn.number, part=turn.part, deltas=int(bool(phrase)), chars=len(phrase), reason="interrupted"
    )
    steps.append(Append(end, cause=f"{turn.cause}:{turn.part}"))
    return [*steps, *own_hooks.agent_turn(turn.number, turn.sent + phrase)]


def _cut_by_caller(turn: Turn) -> list[Step]:
    """End a reply that the caller has cut off, as its former owner would have."""
    end = _end(turn, turn.part, "interrupted")
    steps: list[Step] = [TurnResumed(turn), end, *own_hooks.agent_turn(turn.number, turn.sent)]
    return steps if turn.heard is None else [*steps, MarkInterrupted(turn.heard)]


def _poisoned(turn: Turn) -> list[Step]:
    message = "this text took its process down twice; it is passed over"
    return [
        TurnResumed(turn),
        _end(turn, turn.part, "failed"),
        Append(ev.HookPoisoned(input=turn.cause)),
        FireHooks("error", ("poisoned_input", message, "error", "session"), own=True),
    ]


def _end(turn: Turn, part: int, reason: cmd.ReplyEndReason) -> Append:
    """Return the end of a reply of which this owner has sent nothing."""
    end = cmd.EndReply(turn=turn.number, part=part, reason=reason)
    return Append(end, cause=f"{turn.cause}:{part}")


# --- the end of the call ----------------------------------------------------------------------------------------------


def _due_end(state: SessionState, trace: Trace) -> list[Step]:
    """End a call that the former owner had to end, and died before it did; the command has the id it would have had."""
    if state.ending is not None:
        return []
    if trace.fatal is not None:
        return [Append(cmd.EndCall(reason="error"), cause=trace.fatal.envelope.id)]
    end = state.reply_ends.get(state.queue[0].number) if state.queue else None
    if end is not None and end.closing:
        reason = "error" if end.reason == "failed" else "completed"
        return [Append(cmd.EndCall(reason=reason), cause=state.queue[0].cause)]
    return []


def _over(state: SessionState, trace: Trace, past: History, now: float) -> list[Step]:
    """A call that has ended replays to its end: its turns are completed, and `run()` returns."""
    steps: list[Step] = []
    for pending in state.queue:
        turn = turns.opened(pending, pending.at, withheld=state.paused)
        if pending is state.queue[0]:
            turn = _turn(state, trace, spoken_of(pending, past), now)
            if turn.phase != "ended" and turn.sent:
                steps.append(FireHooks("agent_turn", (turn.sent,), turn=turn.number))
        steps += complete(turn, now)
    reason = "lost" if state.ended is None else state.ended.reason
    return [*steps, FireHooks("call_end", (reason,)), Finish(reason)]
