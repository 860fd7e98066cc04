"""Where a takeover goes on: what becomes of the turn that the former owner had open, and of a call that is over.

The open turn is the first text that has no `run.turn.completed`. Its reply may be ended already (it then only waits for
its figures), not begun (its text goes to the brain as if nothing had happened), or cut: spoken in part. How far is in
the bridge's takeover record; what is unknown is not repeated.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import turns
from unpod.core.codec import Record
from unpod.core.decide import report_hooks, turn_fields
from unpod.core.decision import (
    Append,
    AskBrain,
    Decision,
    Finish,
    FireHooks,
    MarkInterrupted,
    SendDelta,
    Settings,
    Step,
)
from unpod.core.past import Past
from unpod.core.state import BrainAsked, DeltaSent, SessionState, TurnResumed
from unpod.core.turns import PendingTurn, Turn

OnResume = Literal["continue", "apologise", "repeat"]


class Capabilities(Struct, frozen=True, kw_only=True):
    """What the session has to go on with: a brain, and one that can go on in the middle of a reply."""

    has_brain: bool
    can_continue: bool


def resume(state: SessionState, past: Past, now: float, settings: Settings, can: Capabilities) -> Decision:
    """Return how the new owner goes on, once the past is folded."""
    if state.ended is not None:
        return Decision(tuple(_over(state, past, state.ended.reason, now)))
    if state.dropped:
        return Decision(tuple(_finish(past, "transferred")))
    return Decision(tuple(_open_turn(state, past, now, settings, can))) if state.queue else Decision()


def _open_turn(state: SessionState, past: Past, now: float, settings: Settings, can: Capabilities) -> list[Step]:
    pending = state.queue[0]
    takeover = past.takeover or ev.OwnerChanged(epoch=0)
    spoken = takeover if takeover.turn == pending.number else ev.OwnerChanged(epoch=takeover.epoch)
    turn = _turn(state, pending, spoken, now)
    if turn.phase == "ended":
        return [TurnResumed(turn)]
    if state.ending is not None:
        return [TurnResumed(turn), *_end(turn, "ended")]
    if past.skip and past.skip == pending.cause:
        return _poisoned(turn)
    if not can.has_brain or turn.user_text is None:
        return [TurnResumed(turn), *_end(turn, "unanswered")]
    return _go_on(turn, spoken, now, settings, can)


def owner_hooks(record: Record, past: Past) -> list[FireHooks]:
    """Return the hooks that were due when a former owner wrote a record."""
    body, takeover = record.body, past.takeover
    if isinstance(body, ev.TurnCompleted):
        return [FireHooks("turn_complete", kwargs=turn_fields(body), turn=body.turn_id)]
    if isinstance(body, (ev.LLMCalled, ev.ToolCalled, ev.ToolReturned)):
        return [report_hooks(body)]
    if isinstance(body, ev.SilenceNoticed):
        return [FireHooks("silence", (body.seconds,))]
    if isinstance(body, ev.AdapterFailed):
        return [FireHooks("error", (body.code, body.error, "error", "adapter"))]
    if isinstance(body, cmd.EndReply) and takeover is not None and takeover.turn == body.turn and takeover.text:
        return [FireHooks("agent_turn", (takeover.text,), turn=body.turn)]
    return []


def _turn(state: SessionState, pending: PendingTurn, spoken: ev.OwnerChanged, now: float) -> Turn:
    """Return the open turn as far as the log knows it."""
    turn = turns.opened(pending, pending.at, withheld=state.paused)
    turn = replace(turn, part=spoken.part, sent=spoken.text or "", usage=state.usage.get(pending.number, turns.Usage()))
    end = state.reply_ends.get(pending.number)
    if end is None:
        return turn
    cut = end.reason == "interrupted"
    return replace(turn, phase="ended", part=end.part, ended_at=now, end_reason=end.reason, interrupted=cut)


def _go_on(turn: Turn, spoken: ev.OwnerChanged, now: float, settings: Settings, can: Capabilities) -> list[Step]:
    text = turn.user_text or ""
    if not spoken.chars or settings.on_resume == "repeat":
        again = replace(turn, part=turn.part + 1 if spoken.chars else turn.part, sent="")
        return [TurnResumed(again), BrainAsked(turn.number, now), AskBrain(turn.number, text, turn.language)]
    following = replace(turn, part=turn.part + 1)
    if settings.on_resume == "continue" and can.can_continue and spoken.text:
        question = AskBrain(turn.number, text, turn.language, said=spoken.text)
        return [TurnResumed(following), BrainAsked(turn.number, now), question]
    return _apologise(following, spoken, now, settings)


def _apologise(turn: Turn, spoken: ev.OwnerChanged, now: float, settings: Settings) -> list[Step]:
    cut = turns.interrupted(turn, spoken.text)
    steps: list[Step] = [TurnResumed(cut), BrainAsked(turn.number, now)]
    if spoken.text:
        steps.append(MarkInterrupted(spoken.text))
    phrase = settings.resume_apology
    if phrase:
        steps += [DeltaSent(turn.number, phrase, now), SendDelta(turn.number, turn.part, 1, phrase)]
    end = cmd.EndReply(
        turn=turn.number, part=turn.part, deltas=int(bool(phrase)), chars=len(phrase), reason="interrupted"
    )
    return [*steps, Append(end, cause=f"{turn.cause}:{turn.part}")]


def _poisoned(turn: Turn) -> list[Step]:
    return [
        TurnResumed(turn),
        Append(ev.HookPoisoned(input=turn.cause)),
        *_end(turn, "failed"),
        FireHooks(
            "error", ("poisoned_input", "this text took its process down twice; it is passed over", "error", "session")
        ),
    ]


def cut_reply(pending: PendingTurn, part: int) -> Append:
    """Return the end of a reply that a command of the new owner cuts off."""
    return Append(cmd.EndReply(turn=pending.number, part=part, reason="ended"), cause=f"{pending.cause}:{part}")


def _end(turn: Turn, reason: cmd.ReplyEndReason) -> list[Step]:
    end = cmd.EndReply(turn=turn.number, part=turn.part, deltas=turn.deltas, chars=0, reason=reason)
    return [Append(end, cause=f"{turn.cause}:{turn.part}")]


def _over(state: SessionState, past: Past, reason: str, now: float) -> list[Step]:
    """A call that has ended replays to its end: its turns are closed, and `run()` returns."""
    steps: list[Step] = []
    for pending in state.queue:
        takeover = past.takeover
        spoken = takeover if takeover is not None and takeover.turn == pending.number else ev.OwnerChanged(epoch=0)
        steps.append(Append(turns.completed(_turn(state, pending, spoken, now), now)))
    return [*steps, *_finish(past, reason)]


def _finish(past: Past, reason: str) -> list[Step]:
    told = past.reruns("call_end", past.bridge_index, replay=None)
    return [FireHooks("call_end", (reason,)), Finish(reason)] if told else [Finish(reason)]
