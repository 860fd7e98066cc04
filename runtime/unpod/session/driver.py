"""The loop: take what has happened, fold it, decide, carry it out.

All that changes a session goes through `decide`, which runs to its end without giving up control: a decision always
sees the state it was made for. Hooks are the one thing that waits, so they are put in line with the inputs and run by
the loop, one event's after the other's. Speech does not wait for hooks: pieces of a reply and barge-ins pass them.

A session begins by going through its past (`Replay`); for a new call there is none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import assert_never

from msgspec.structs import replace

from unpod.adapters.adapter import check_adapter
from unpod.adapters.protocol import ReplyContext
from unpod.adapters.wrapping import DialogMachine
from unpod.core import decision as d
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.commands import AnyCommand, Command, EndReply
from unpod.core.decide import decide, follow_up
from unpod.core.ephemeral_events import (
    BrainAsked,
    BrainStands,
    DeltaSent,
    LocalEvent,
    ToolsRun,
    TurnOpened,
    TurnResumed,
)
from unpod.core.events import tag_of
from unpod.core.ids import command_id
from unpod.core.live import Again
from unpod.core.positions import Positions
from unpod.core.replay.history import History, Point
from unpod.core.state import SessionState, evolve, evolve_local, fold
from unpod.core.timers import due
from unpod.errors import Fenced, LogError
from unpod.session.adapter_scope import AdapterScope
from unpod.session.deadline import Deadline
from unpod.session.ending import Ending
from unpod.session.hook_runner import HookRunner, describe
from unpod.session.hooks import Hooks
from unpod.session.inbox import Inbox
from unpod.session.issuing import Issuing
from unpod.session.log_time import SessionClock
from unpod.session.outbox import Outbox
from unpod.session.outcomes import CommandHandle, Outcomes
from unpod.session.ownership import Ownership
from unpod.session.replay import Replay
from unpod.session.reply_stream import ReplyStream
from unpod.session.resend_buffer import ResendBuffer
from unpod.session.scope import Scope, main_scope
from unpod.session.settings import SessionSettings
from unpod.session.watermark import Watermark
from unpod.session.work_queue import End, HooksDue, WorkQueue
from unpod.user_code import cancelled

logger = logging.getLogger("unpod.session")

CORE = "core"
"""The handler name of what the session does by itself."""
SETTLED_S = 0.5
"""How long the next record may keep us from saying that hooks have returned."""


_Doing = LocalEvent | d.AskBrain | d.StopBrain | d.MarkInterrupted | d.Nudge | d.SendDelta | d.Finish


class Driver:
    """One session at work. `attach`, then `run` (or not), then `finish`."""

    def __init__(self, ownership: Ownership, settings: SessionSettings) -> None:
        self.clock = SessionClock(ownership.clock)
        self.ownership = ownership = dataclasses.replace(ownership, clock=self.clock)
        self.settings = replace(settings, agent_id=ownership.agent_id)
        self.state = SessionState()
        self.hooks = Hooks()
        self.main = main_scope()
        self.context = ReplyContext(
            call_id=ownership.session_id,
            session_id=ownership.session_id,
            direction="inbound",
            user_number="",
            instructions=None,
            data={},
            turn_number=0,
        )
        self.brain = ReplyStream(self._on_brain, self._on_brain_stands, ownership.session_id)
        self.adapter: DialogMachine | None = None
        """The brain, as it was given."""
        self.past: History | None = None
        self.chores: set[asyncio.Task[object]] = set()
        """What the developer's code has spawned."""
        self.watermark = Watermark()
        self._work_queue = WorkQueue(self.hooks, self.watermark)
        self.outcomes = Outcomes(self.clock)
        self.ending = Ending(ownership, self._work_queue.wake, on_lost=self.outcomes.over)
        self.journal = Outbox(ownership, on_failure=self.ending.lose)
        self.hook_runner = HookRunner(ownership.session_id, self.hooks, self._on_trouble, lambda: self.state.private)
        self.inbox = Inbox(
            ownership, on_record=self._on_record, on_again=self._on_again, on_rewritten=self.ending.begin_again
        )
        self._deadline = Deadline(ownership.clock, self._on_time)
        self._replies = ResendBuffer()
        self.replay: Replay | None = None
        """The way through the past, until the present has begun."""
        self.issuing = Issuing(self)
        self._running = False
        self._warned = False
        self.heard_end = False
        """Whether the bridge has said that the call is over, though that may come after all that is replayed."""
        self._settled_alarm = Deadline(ownership.clock, self._say_settled)
        self._clock_alarm = Deadline(ownership.clock, self._check_clock)
        self._clock_check: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def attach(self, positions: Positions | None = None) -> None:
        """Read the log, by its `positions` if they are known, fold what no owner has acted on yet, and listen.

        Raises:
            Fenced: another runner owns the session already.
            LogError: the log cannot be read; it may be tried again.
        """
        since = self.ownership.clock.now()
        records = await self.inbox.open(self.ownership.until_seq, positions)
        past = History(records, self.ownership.epoch)
        self.outcomes.begin(records)
        if past.superseded or self.ending.lost is not None:
            raise self.ending.lost or Fenced("a newer owner has been appointed")
        if self.inbox.owned_at:
            self.clock.begin(self.inbox.owned_at)
        self._clock_alarm.set(self._now() + self.settings.clock_check_s)
        self.past = past
        self.state = fold(past.prefix)
        self.journal.begin(past.owner_index, past.settled)
        self._work_queue.begin_with(past.later)
        self.replay = Replay(self, past, since)

    @property
    def replaying(self) -> bool:
        """Whether what happens now has happened before, in another process."""
        return self.replay is not None and self.replay.replaying

    @property
    def live(self) -> bool:
        """Whether the past is gone through, and what comes in is handled."""
        return self._running

    @property
    def over(self) -> bool:
        """Whether the call is over, which may be known before `run` takes note of it, but not while it is replayed."""
        return self.state.over or (self.heard_end and not self.replaying)

    def now(self) -> float:
        """Return the log's time: of the record that is replayed, or the present."""
        at = None if self.replay is None else self.replay.now
        return self.ownership.clock.now() if at is None else at

    async def run(self) -> str:
        """Handle what comes in until the call is over, and return the reason of its end."""
        if self.ending.reason is None and not self._running:
            await self._begin(hooks=True)
            while self.ending.reason is None:
                await self._next()
        return self.ending.reason or "lost"

    async def _begin(self, *, hooks: bool) -> None:
        """Go through the past, with its hooks or without, and on to the present."""
        replay, past = self.replay, self.past
        assert replay is not None  # noqa: S101 - `attach` comes first
        assert past is not None  # noqa: S101
        if hooks:
            await replay.play()
        steps = await replay.go_live()
        self.replay = None
        self._running = True
        first = self.state.queue[0].cause if self.state.queue else CORE
        self._carry_out(steps, first, due=None if replay.end is None else End(replay.end, past))
        for pending in self.state.queue:
            point = past.point(pending.cause)
            if point is not None:
                self._work_queue.await_turn(pending.number, point)
        self.watermark.start()
        past.forget()
        self._follow_up(CORE)
        if replay.was_needed and self.ending.lost is None:
            self.record(replay.summary(self._now()), CORE)

    async def finish(self, error: BaseException | None) -> None:
        """End what is still open once the entrypoint has returned, or raised `error`, and release everything."""
        try:
            if self.ending.abandoned or self.past is None:
                return
            if not self._running and self.ending.lost is None:
                await self._begin(hooks=False)
            if (error is not None and not self.state.failed) or not self.state.over:
                self.decide(d.EntrypointReturned(None if error is None else describe(error)), CORE)
            async with asyncio.timeout(self.settings.end_timeout_s) as limit:
                while self._work_queue or not (self.state.completed or self.ending.lost):
                    await self._next()
                    if not (self._work_queue or self.state.over):  # its last word was a transfer, which was refused
                        self.decide(d.EntrypointReturned(), CORE)
                        limit.reschedule(asyncio.get_running_loop().time() + self.settings.end_timeout_s)
            await self.hook_runner.over(0.0 if self.ending.lost else self.settings.hook_grace_s)
            await self.brain.over(0.0 if self.ending.lost else self.settings.hook_grace_s)
            if self.ending.lost is None:
                self._append(d.Append(ev.SessionFinished(failed=self.ending.has_failed(self.state))), CORE, None)
                async with asyncio.timeout(self.settings.end_timeout_s):
                    await self.journal.flush()
        except TimeoutError:
            logger.warning("session %s: the call's end was not heard of; letting go", self.ownership.session_id)
        except LogError as failure:
            self.ending.lost = self.ending.lost or failure
        finally:
            await self._close()

    def release(self) -> None:
        """Let go of the developer's code, and of what refers back to this: what is left is freed with its last user.

        To be called when nothing of the call will run any more. Verbs may still be used, and reach nobody.
        """
        self.adapter = self.replay = None
        self.hooks.clear()
        self.brain.release()
        self.hook_runner.release()
        self.inbox.release()
        self._deadline.release()
        self._settled_alarm.release()
        self._clock_alarm.release()

    async def _close(self) -> None:
        self.outcomes.over()
        self._deadline.close()
        self._settled_alarm.close()
        self._clock_alarm.close()
        if self._clock_check is not None:
            await cancelled([self._clock_check])
        await cancelled(self.chores)
        await self.brain.close()
        await self.hook_runner.close()
        await self.inbox.close()
        await self.journal.close()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def perform(self, command: AnyCommand) -> CommandHandle:
        """Decide on a command that the developer's code asks for, and carry it out in this tick.

        Raises:
            RecordTooLarge: it cannot be stored.
        """
        return self.issuing.perform(command)

    def note_new(self, what: str, scope: Scope) -> None:
        """Record that the code does something new, where a former runner had come to the end of its handler."""
        if self.replay is not None:
            self.replay.note_new(what, scope)

    def record(self, fact: ev.SessionEvent, cause: str) -> None:
        """Store a fact."""
        self._append(d.Append(fact), cause, None)

    def append(self, step: d.Append) -> None:
        """Store what a decision says."""
        self._append(step, CORE, None)

    def begin_tool(self, turn: int, work: Coroutine[object, object, None]) -> None:
        """Run a tool of the brain's, while the time-out of the reply stands still."""
        self._tools_run(turn, 1)
        self.brain.begin_tool(work, partial(self._tools_run, turn, -1))

    def _tools_run(self, turn: int, more: int) -> None:
        self.state = evolve_local(self.state, ToolsRun(turn, more, self._now()))
        self._rearm()

    def use_brain(self, adapter: DialogMachine | None) -> None:
        """Take another brain, from the next turn on.

        Raises:
            TypeError: it is none; the text says what is missing.
        """
        self.brain.use(None if adapter is None else check_adapter(adapter))
        self.adapter = adapter

    def set(self, **changes: float | str | None) -> None:
        """Change settings of this session."""
        self.settings = replace(self.settings, **changes)
        self._rearm()

    def _on_record(self, record: Record) -> None:
        body, turn = record.body, self.state.turn
        if isinstance(body, ev.OwnerChanged) and body.epoch > self.ownership.epoch:
            self.ending.fence()
            return
        if isinstance(body, ev.CallEnded):
            self.heard_end = True
            self.brain.look()
            self.outcomes.over()
        if isinstance(body, ev.CommandAcknowledged):
            self.outcomes.take(body)
        if isinstance(body, ev.ReplySpoken):
            self._replies.spoken(body)
        if isinstance(body, ev.UserInterrupted) and turn is not None and turn.replying:
            self.brain.cut()
        elif isinstance(body, ev.CallEnded):
            self.hook_runner.hurry(self.settings.hook_wait_s("call_end"))
        self._work_queue.add(record)

    def _on_brain(self, given: d.Given, error: BaseException | None) -> None:
        if error is not None:
            logger.error(
                "session %s: the brain failed: %s",
                self.ownership.session_id,
                type(error).__name__,
                exc_info=None if self.state.private else error,
            )
        turn = self.state.turn
        self.decide(given, turn.cause if turn is not None else CORE)

    def _on_brain_stands(self, told: BrainStands) -> None:
        self.state = evolve_local(self.state, told)

    def _on_time(self) -> None:
        if self._running:
            self.decide(d.TimeReached(), CORE)

    def _on_again(self, again: Again) -> None:
        if again.epoch == self.ownership.epoch:
            for delta in self._replies.again(again, self.ownership.clock.now()):
                self.journal.resend(delta)

    def _on_trouble(self, fact: ev.HookFailed, cause: str) -> None:
        if self.ending.lost is None and not (self.past is not None and self.past.has_failed(fact, cause)):
            self.record(fact, cause)

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _next(self) -> None:
        match await self._work_queue.next(self._rearm):
            case None:
                return
            case HooksDue() as hooks:
                await self._run_hooks(hooks)
            case d.Finish(reason=reason):
                self.ending.finish(reason)
            case record:
                self._take(record)

    def _take(self, record: Record) -> None:
        turns, paused = self.state.turn_count, self.state.paused
        point = Point(record.envelope.index)
        self.watermark.begin(point)  # until the hooks that it is due to are in line
        self.state = evolve(self.state, record)
        if self.state.paused and not paused:  # from outside; what waits for the log was written before that
            self.journal.withhold_waiting()
        if self.state.turn_count > turns:
            self._work_queue.await_turn(self.state.turn_count, point)
        self.decide(record, record.envelope.id)
        self.watermark.returned(point)

    def decide(self, given: d.Given, cause: str, scope: Scope | None = None) -> None:
        """Decide, carry it all out in this tick, and go on until nothing is left to do; hooks are put in line."""
        self._carry_out(decide(self.state, given, self._now(), self.settings).steps, cause, scope)
        self._follow_up(cause)

    def _follow_up(self, cause: str) -> None:
        while self._running and (steps := follow_up(self.state, self._now(), self.settings).steps):
            turn = self.state.turn
            self._carry_out(steps, turn.cause if turn is not None else cause)
        self._rearm()

    def _carry_out(
        self,
        steps: Sequence[d.Step],
        cause: str,
        scope: Scope | None = None,
        *,
        due: End | None = None,
    ) -> None:
        """Do what was decided; in a takeover, hooks that tell of nothing that is written now were due at `due`."""
        stored: Record | None = None
        for step in steps:
            if isinstance(step, d.Append):
                stored = self._append(step, cause, scope)
            elif isinstance(step, d.FireHooks):
                self._line_up(step, stored, cause, due)
            else:
                self._perform(step, cause)

    def _perform(self, step: _Doing, cause: str) -> None:
        match step:
            case TurnOpened() | TurnResumed() | BrainAsked() | BrainStands() | DeltaSent() | ToolsRun():
                self.state = evolve_local(self.state, step)
            case d.SendDelta():
                delta = self.journal.delta(step.turn, step.part, step.n, step.text)
                self._replies.keep(delta, self.ownership.clock.now())
            case d.AskBrain():
                context: ReplyContext = {**self.context, "turn_number": step.turn}
                self.brain.ask(step, cause, context, AdapterScope(self, cause, step.turn, context))
            case d.StopBrain():
                self.brain.stop(mark=step.mark, heard=step.heard, note=self.settings.interruption_note)
            case d.MarkInterrupted():
                self.brain.mark_interrupted(step.heard)
            case d.Nudge():
                self.brain.nudge(step.note)
            case d.Finish():
                self._work_queue.add(step)
            case _:
                assert_never(step)

    def _append(self, step: d.Append, cause: str, scope: Scope | None) -> Record:
        body, session = step.body, self.ownership.session_id
        identifier = ""
        if step.cause:
            scope, identifier = None, command_id(session, step.cause, CORE, tag_of(body), 0)
        elif isinstance(body, Command):
            identifier = (scope or Scope(cause, CORE)).command_id(session, tag_of(body))
        if isinstance(body, EndReply) and body.reason == "empty":
            logger.warning("session %s, turn %d: the brain had nothing to say", session, body.turn)
        record = self._write(body, cause, identifier, scope)
        if self.replay is None:
            self.state = evolve(self.state, record)
        else:
            self.replay.keep(record)
        if isinstance(body, ev.TurnCompleted):
            self._work_queue.turn_over(body.turn_id)
        return record

    def _write(self, body: ev.SessionEvent | AnyCommand, cause: str, identifier: str, scope: Scope | None) -> Record:
        seen = self.state.bridge_index if self.replay is None else self.replay.seen
        return self.journal.append(
            body,
            cause=cause,
            seen=seen,
            settled=self.watermark.say(seen, self.journal.index),
            hidden=self.state.private or (self.replay is not None and self.replay.paused),
            handler="" if scope is None else scope.handler,
            command_id=identifier,
        )

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _line_up(self, fire: d.FireHooks, stored: Record | None, cause: str, due: End | None) -> None:
        if fire.event == "user_turn" and self.state.turn is not None:
            self._work_queue.line_up_turn(fire, self.state.turn.cause)
        else:
            self._work_queue.line_up(fire, stored, cause, Point(self.state.bridge_index), due)

    async def _run_hooks(self, hooks: HooksDue) -> None:
        fire = hooks.fire
        before = self.journal.last_command
        await self.hook_runner.run(
            fire,
            cause=hooks.cause,
            timeout_s=self.settings.hook_wait_s(fire.event),
            returned=partial(self._returned, fire.event, hooks.point),
            runs=hooks.runs,
        )
        if fire.event == "user_turn":
            # A barge-in that came while the hooks of a text ran is not one on the reply to that text.
            for record in self._work_queue.through_interruptions():
                self._take(record)
            has_brain = self.brain.view is not None
            if not (has_brain or self.over) and self.journal.last_command == before:
                self._warn_of_no_brain()
            self.decide(d.TurnHooksReturned(fire.turn, has_brain=has_brain), hooks.cause)

    def _warn_of_no_brain(self) -> None:
        """Tell a developer once why nobody answers: no brain, and no hook that would have done anything instead."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "session %s: nobody answers the caller: assign a brain to session.dialog_machine before session.run()",
                self.ownership.session_id,
            )

    def _returned(self, event: str, point: Point | None) -> None:
        if point is None:
            return
        self.watermark.returned(point)
        if self._running and self.hooks.has(event) and not self._settled_alarm.is_set:
            self._settled_alarm.set(self._now() + SETTLED_S)

    def _say_settled(self) -> None:
        """Say that hooks have returned, where no other record has done so since."""
        if self.ending.lost is None and self.watermark.has_news(self.state.bridge_index, self.journal.index):
            self.record(ev.Settled(), CORE)

    # --- small things -------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.ownership.clock.now()

    def _check_clock(self) -> None:
        self._clock_check = asyncio.get_running_loop().create_task(self._compare_clock(), name="unpod-clock")

    async def _compare_clock(self) -> None:
        """Put the clock right by the session's newest record: a machine that was suspended is behind."""
        ownership = self.ownership
        try:
            newest = await ownership.log.newest([ownership.subjects.call(ownership.agent_id, ownership.session_id).all])
        except LogError as error:
            logger.debug("the log cannot be read: %s", type(error).__name__)
            newest = None
        if newest and self.clock.correct(newest[-1].time_ns / 1e9):
            logger.info("session %s: this process's clock was behind the log's", ownership.session_id)
            self._deadline.set(None)  # it was set by the clock as it was
            self._rearm()
        self._clock_alarm.set(self._now() + self.settings.clock_check_s)

    def _rearm(self) -> None:
        if self._running:
            self._deadline.set(due(self.state, self.settings))
