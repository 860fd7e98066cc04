"""The loop: take what has happened, fold it, decide, carry it out.

All that changes a session goes through `_decide`, which runs to its end without giving up control: a decision always
sees the state it was made for. Hooks are the one thing that waits, so they are put in line with the inputs and run by
the loop, one event's after the other's. Speech does not wait for hooks: pieces of a reply and barge-ins pass them.

A session begins by going through its past (`Rehearsal`); for a new call there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

from unpod.adapters.view import AdapterView
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.commands import AnyCommand, Command, EndReply
from unpod.core.decide import decide, due, follow_up
from unpod.core.events import tag_of
from unpod.core.ids import command_id
from unpod.core.live import Again, Delta
from unpod.core.past import Past
from unpod.core.state import BrainAsked, DeltaSent, SessionState, TurnOpened, TurnResumed, evolve, evolve_local, fold
from unpod.core.subjects import Subjects
from unpod.errors import Fenced, LogError
from unpod.ports import Bus, Clock, EventLog, Timer
from unpod.session.hook_runner import HookRunner, describe
from unpod.session.hooks import Hooks
from unpod.session.inbox import Inbox
from unpod.session.journal import Journal
from unpod.session.rehearsal import Rehearsal
from unpod.session.scope import Scope, current, main_scope
from unpod.session.settings import SessionSettings
from unpod.session.settling import Settling
from unpod.session.turn_stream import TurnStream

logger = logging.getLogger("unpod.session")

CORE = "core"
"""The handler name of what the session does by itself."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a session runs: what it needs of the outside, and as whom it writes."""

    log: EventLog
    bus: Bus
    clock: Clock
    subjects: Subjects
    agent_id: str
    session_id: str
    runner_id: str
    epoch: int
    until_seq: int


@dataclass(frozen=True, slots=True)
class _HooksDue:
    """Hooks in line: what to run, the id of what caused it, and the index of the input that they settle."""

    fire: d.FireHooks
    cause: str
    index: int


_Item = Record | _HooksDue | d.Finish


class Driver:
    """One session at work. `attach`, then `run` (or not), then `finish`."""

    def __init__(self, seat: Seat, settings: SessionSettings) -> None:
        self.seat = seat
        self.settings = replace(settings, agent_id=seat.agent_id)
        self.state = SessionState()
        self.hooks = Hooks()
        self.main = main_scope()
        self.context: Mapping[str, object] = {}
        self.brain = TurnStream(self._on_brain)
        self.past: Past | None = None
        self.chores: set[asyncio.Task[object]] = set()
        """What the developer's code has spawned."""
        self.lost: LogError | None = None
        self.on_fenced: Callable[[], object] | None = None
        call = seat.subjects.call(seat.agent_id, seat.session_id)
        self.journal = Journal(
            seat.log,
            seat.bus,
            seat.clock,
            call,
            session_id=seat.session_id,
            epoch=seat.epoch,
            source=f"/unpod/runner/{seat.runner_id}",
            on_failure=self._on_log_failure,
        )
        self.hook_runner = HookRunner(seat.session_id, self.hooks, self._on_trouble, lambda: self.state.paused)
        self._inbox = Inbox(seat.log, seat.bus, seat.subjects, call, on_record=self._on_record, on_again=self._on_again)
        self.settling = Settling()
        self._items: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._deltas: list[Delta] = []
        self._rehearsal: Rehearsal | None = None
        self._running = False
        self._abandoned = False
        self._reason: str | None = None
        self._texts: dict[int, int] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Read the log, fold what no owner has acted on yet, and listen from there on.

        Raises:
            LogError: the log cannot be read.
        """
        records = await self._inbox.open(self.seat.until_seq)
        self.past = past = Past(records, self.seat.epoch)
        self.state = fold(past.prefix)
        self.journal.begin(past.owner_index)
        self._items.extendleft(reversed(past.later))
        self._rehearsal = Rehearsal(self, past)
        # Nothing is settled before `run()` has been called.
        self.settling.begin(1)

    @property
    def replaying(self) -> bool:
        """Whether what happens now has happened before, in another process."""
        return self._rehearsal is not None and self._rehearsal.replaying

    def now(self) -> float:
        """Return the log's time: of the record that is replayed, or the present."""
        at = None if self._rehearsal is None else self._rehearsal.now
        return self.seat.clock.now() if at is None else at

    async def run(self) -> str:
        """Handle what comes in until the call is over, and return the reason of its end."""
        if self._reason is None and not self._running:
            await self._begin(hooks=True)
            while self._reason is None:
                await self._next()
        return self._reason or "lost"

    async def _begin(self, *, hooks: bool) -> None:
        """Go through the past, with its hooks or without, and on to the present."""
        rehearsal = self._rehearsal
        assert rehearsal is not None  # noqa: S101 - `attach` comes first
        if hooks:
            await rehearsal.play()
        steps = await rehearsal.go_live()
        self._rehearsal = None
        self._running = True
        self.settling.returned(1)
        for step in steps:
            self._carry_out(step, self.state.turn.cause if self.state.turn is not None else CORE, None, 0)
        self._follow_up(CORE)

    async def finish(self, error: BaseException | None) -> None:
        """End what is still open once the entrypoint has returned, or raised `error`, and release everything."""
        try:
            if self._abandoned or self.past is None:
                return
            if not self._running and self.lost is None:
                await self._begin(hooks=False)
            if error is not None or not self.state.over:
                self._decide(d.EntrypointReturned(None if error is None else describe(error)), CORE)
            async with asyncio.timeout(self.settings.end_timeout_s):
                while self._items or not (self.state.completed or self.lost):
                    await self._next()
                if self.lost is None:
                    self._append(d.Append(ev.SessionFinished(failed=self.failed)), CORE, None)
                    await self.journal.flush()
        except TimeoutError:
            logger.warning("session %s: the call's end was not heard of; letting go", self.seat.session_id)
        except LogError as failure:
            self.lost = self.lost or failure
        finally:
            await self._close()

    @property
    def fenced(self) -> bool:
        """Whether another runner owns the session now."""
        return isinstance(self.lost, Fenced)

    @property
    def failed(self) -> bool:
        """Whether the call counts as failed: its entrypoint raised, or it ended with `error` or `lost`."""
        reason = self.state.ended.reason if self.state.ended is not None else self.state.ending
        return self.state.failed or self.lost is not None or reason in ev.FAILED_REASONS

    @property
    def reason(self) -> str:
        """The reason of the call's end, as far as it is known."""
        if self._reason is not None:
            return self._reason
        return self.state.ended.reason if self.state.ended is not None else self.state.ending or "lost"

    def abandon(self) -> None:
        """Let go of the call at once, without a word to the log."""
        self._abandoned = True
        self._finish("cancelled")

    async def _close(self) -> None:
        self._set_timer(None)
        for chore in self.chores:
            chore.cancel()
        await asyncio.gather(*self.chores, return_exceptions=True)
        await self.brain.close()
        await self.hook_runner.close()
        await self._inbox.close()
        await self.journal.close()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def perform(self, command: AnyCommand) -> None:
        """Decide on a command that the developer's code asks for, and carry it out in this tick."""
        scope = current(self.main)
        if self._rehearsal is None or not self._rehearsal.suppresses(command, scope):
            self._decide(d.Verb(command), scope.cause, scope)

    def record(self, fact: ev.SessionEvent, cause: str) -> None:
        """Store a fact."""
        self._append(d.Append(fact), cause, None)

    def append(self, step: d.Append) -> None:
        """Store what a decision says."""
        self._append(step, CORE, None)

    def use_brain(self, view: AdapterView | None) -> None:
        """Take another brain, from the next turn on."""
        self.brain.use(view)

    def set(self, **changes: float | str | None) -> None:
        """Change settings of this session."""
        self.settings = replace(self.settings, **changes)
        self._rearm()

    def _on_record(self, record: Record) -> None:
        turn = self.state.turn
        if isinstance(record.body, ev.UserInterrupted) and turn is not None and turn.replying:
            self.brain.cut()
        self._items.append(record)
        self._wake.set()

    def _on_brain(self, given: d.Given, error: BaseException | None) -> None:
        if error is not None:
            logger.error(
                "session %s: the brain failed: %s",
                self.seat.session_id,
                type(error).__name__,
                exc_info=None if self.state.paused else error,
            )
        turn = self.state.turn
        self._decide(given, turn.cause if turn is not None else CORE)

    def _on_time(self) -> None:
        self._timer = self._timer_at = None
        if self._running:
            self._decide(d.TimeReached(), CORE)

    def _on_again(self, again: Again) -> None:
        if again.epoch != self.seat.epoch:
            return
        for delta in self._deltas:
            if (delta.turn, delta.part) == (again.turn, again.part) and delta.n >= again.first:
                self.journal.resend(delta)

    def _on_trouble(self, fact: ev.HookFailed, cause: str) -> None:
        if self.lost is None:
            self.record(fact, cause)

    def _on_log_failure(self, error: LogError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if isinstance(error, Fenced):
            logger.warning("session %s: another runner owns it now", self.seat.session_id)
            self.abandon()
            if self.on_fenced is not None:
                self.on_fenced()
            return
        logger.error("session %s: nothing more can be written: %s", self.seat.session_id, error)
        self._finish("error")

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _next(self) -> None:
        if not self._items:
            self._rearm()
            self._wake.clear()
            await self._wake.wait()
        if not self._items:
            return
        item = self._items.popleft()
        if isinstance(item, _HooksDue):
            await self._run_hooks(item)
        elif isinstance(item, d.Finish):
            self._finish(item.reason)
        else:
            self._take(item)

    def _take(self, record: Record) -> None:
        self.state = evolve(self.state, record)
        index, body = record.envelope.index, record.body
        if isinstance(body, ev.UserText) and body.is_final:
            # It is settled once its `user_turn` hooks have returned, and they run when its turn has come.
            self._texts[self.state.turn_count] = index
            self.settling.begin(index)
        self._decide(record, record.envelope.id)

    def _decide(self, given: d.Given, cause: str, scope: Scope | None = None) -> None:
        """Decide, carry it all out in this tick, and go on until nothing is left to do; hooks are put in line."""
        for step in decide(self.state, given, self._now(), self.settings).steps:
            self._carry_out(step, cause, scope, self.state.bridge_index)
        self._follow_up(cause)

    def _follow_up(self, cause: str) -> None:
        while self._running and (steps := follow_up(self.state, self._now(), self.settings).steps):
            for step in steps:
                turn = self.state.turn
                self._carry_out(step, turn.cause if turn is not None else cause, None, self.state.bridge_index)
        self._rearm()

    def _carry_out(self, step: d.Step, cause: str, scope: Scope | None, index: int) -> None:
        match step:
            case d.Append():
                self._append(step, cause, scope)
            case TurnOpened() | TurnResumed() | BrainAsked() | DeltaSent():
                self.state = evolve_local(self.state, step)
            case d.SendDelta():
                self._send(step)
            case d.FireHooks():
                self._line_up(step, cause, index)
            case d.AskBrain():
                self.brain.ask(step, cause, {**self.context, "turn_number": step.turn})
            case d.StopBrain():
                self.brain.stop(mark=step.mark, heard=step.heard)
            case d.MarkInterrupted():
                self.brain.mark_interrupted(step.heard)
            case d.Nudge():
                self.brain.nudge(step.note)
            case d.Finish():
                self._items.append(step)
                self._wake.set()
            case _:
                assert_never(step)

    def _append(self, step: d.Append, cause: str, scope: Scope | None) -> None:
        body, session = step.body, self.seat.session_id
        identifier = ""
        if step.cause:
            identifier = command_id(session, step.cause, CORE, tag_of(body), 0)
        elif isinstance(body, Command):
            identifier = (scope or Scope(cause, CORE)).command_id(session, tag_of(body))
        if isinstance(body, EndReply) and body.reason == "empty":
            logger.warning("session %s, turn %d: the brain had nothing to say", session, body.turn)
        seen = self.state.bridge_index if self._rehearsal is None else self._rehearsal.seen
        record = self.journal.append(
            body,
            cause=cause,
            seen=seen,
            settled=self.settling.say(seen),
            hidden=self.state.paused or (self._rehearsal is not None and self._rehearsal.paused),
            command_id=identifier,
        )
        if self._rehearsal is None:
            self.state = evolve(self.state, record)
        else:
            self._rehearsal.keep(record)

    def _send(self, step: d.SendDelta) -> None:
        if self._deltas and (self._deltas[0].turn, self._deltas[0].part) != (step.turn, step.part):
            self._deltas = []
        self._deltas.append(self.journal.delta(step.turn, step.part, step.n, step.text))

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _line_up(self, fire: d.FireHooks, cause: str, index: int) -> None:
        is_turn = fire.event == "user_turn"
        if not is_turn and not self.hooks.has(fire.event):
            return
        if is_turn:
            index = self._texts.pop(fire.turn, 0)
        elif index:
            self.settling.begin(index)
        self._items.append(_HooksDue(fire, cause, index))
        self._wake.set()

    async def _run_hooks(self, hooks: _HooksDue) -> None:
        fire = hooks.fire
        await self.hook_runner.run(
            fire,
            cause=hooks.cause,
            timeout_s=self.settings.hook_timeout_s,
            returned=lambda: self._returned(hooks.index),
        )
        if fire.event == "user_turn":
            self._decide(d.TurnHooksReturned(fire.turn, has_brain=self.brain.view is not None), hooks.cause)

    def _returned(self, index: int) -> None:
        if index:
            self.settling.returned(index)

    # --- small things -------------------------------------------------------------------------------------------------

    def _finish(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
        self._wake.set()

    def _now(self) -> float:
        return self.seat.clock.now()

    def _rearm(self) -> None:
        if self._running:
            self._set_timer(due(self.state, self.settings))

    def _set_timer(self, at: float | None) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self.seat.clock.call_later(max(0.0, at - self._now()), self._on_time)
