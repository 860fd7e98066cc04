"""The loop: take what has happened, fold it, decide, carry it out.

All that changes a session goes through `decide`, which runs to its end without giving up control: a decision always
sees the state it was made for. Only hooks have to be waited for, so they are queued with the inputs and run by the
loop, one event after the other. What comes in while the loop has nothing to do is handled at once, without it. Speech
does not wait for hooks: pieces of a reply and barge-ins pass them.

A session begins by going through its past (`Replay`); for a new call there is none.
"""

from __future__ import annotations

import asyncio
import contextvars
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
from unpod.core.commands import AnyCommand
from unpod.core.decide import decide, follow_up
from unpod.core.ephemeral_events import AdapterStands, LocalEvent, ToolsRun
from unpod.core.live import Again
from unpod.core.positions import Positions
from unpod.core.replay.history import History, Point
from unpod.core.state import evolve, evolve_local, fold
from unpod.core.timers import due
from unpod.errors import Fenced, LogError
from unpod.session.adapter_scope import AdapterScope
from unpod.session.deadline import Deadline
from unpod.session.hook_runner import HookRunner, describe
from unpod.session.inbox import Inbox
from unpod.session.issuing import Issuing
from unpod.session.kernel import CORE, SessionKernel
from unpod.session.outcomes import CommandHandle
from unpod.session.ownership import Ownership
from unpod.session.replay import Replay
from unpod.session.reply_stream import ReplyStream
from unpod.session.resend_buffer import ResendBuffer
from unpod.session.scope import Scope
from unpod.session.settings import SessionSettings
from unpod.session.steps import Steps
from unpod.session.work_queue import End, HooksDue, Item
from unpod.user_code import cancelled

logger = logging.getLogger("unpod.session")

SETTLED_S = 0.5
"""How many seconds the watermark waits for another record to carry it; then it is stored by itself (`run.settled`)."""


_Doing = d.AskAdapter | d.StopAdapter | d.MarkInterrupted | d.Nudge | d.Finish


class Driver:
    """One session at work. `attach`, then `run` (or not), then `finish`."""

    def __init__(self, ownership: Ownership, settings: SessionSettings) -> None:
        self.kernel = kernel = SessionKernel(ownership, settings)
        self.ownership = ownership = kernel.ownership
        self.context = ReplyContext(
            call_id=ownership.session_id,
            session_id=ownership.session_id,
            direction="inbound",
            user_number="",
            instructions=None,
            data={},
            turn_number=0,
        )
        self.reply_stream = ReplyStream(self._on_adapter, self._on_adapter_stands, ownership.session_id)
        self.adapter: DialogMachine | None = None
        """The adapter, as it was given."""
        self._hook_runner = HookRunner(
            ownership.session_id, kernel.hooks, self._on_trouble, lambda: kernel.state.private
        )
        self.inbox = Inbox(
            ownership, on_record=self._on_record, on_again=self._on_again, on_rewritten=kernel.ending.begin_again
        )
        self._deadline = Deadline(kernel.clock, self._on_time)
        self._replies = ResendBuffer()
        self.issuing = Issuing(kernel)
        self.steps = Steps(kernel, self.issuing)
        self._running = False
        self._idle = False
        self._arming = False
        self._warned = False
        self._settled_alarm = Deadline(kernel.clock, self._say_settled)
        self._clock_alarm = Deadline(kernel.clock, self._check_clock)
        self._clock_check: asyncio.Task[None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def attach(self, positions: Positions | None = None) -> None:
        """Read the log, by its `positions` if they are known, fold what no owner has acted on yet, and listen.

        Raises:
            Fenced: another runner owns the session already.
            LogError: the log cannot be read; it may be tried again.
        """
        kernel = self.kernel
        since = kernel.clock.now()
        records = await self.inbox.open(self.ownership.until_seq, positions)
        past = History(records, self.ownership.epoch)
        kernel.outcomes.begin(records)
        if past.superseded or kernel.ending.lost is not None:
            raise kernel.ending.lost or Fenced("a newer owner has been appointed")
        if self.inbox.owned_at:
            kernel.clock.begin(self.inbox.owned_at)
        self._clock_alarm.set(kernel.clock.now() + kernel.settings.clock_check_s)
        kernel.past = past
        kernel.state = fold(past.prefix)
        kernel.outbox.begin(past.owner_index, past.settled)
        kernel.work_queue.begin_with(past.later)
        self.issuing.replay = Replay(kernel, self._hook_runner, past, since)

    @property
    def live(self) -> bool:
        """Whether the replay is over, and what comes in is handled."""
        return self._running

    async def run(self) -> str:
        """Handle what comes in until the call is over, and return the reason of its end."""
        kernel = self.kernel
        if kernel.ending.reason is None and not self._running:
            await self._begin(hooks=True)
            while kernel.ending.reason is None:
                self._idle = not kernel.work_queue.items
                try:
                    await self._next()
                finally:
                    self._idle = False
        return kernel.ending.reason or "lost"

    async def _begin(self, *, hooks: bool) -> None:
        """Replay the past, with its hooks or without, and take part in the call from there."""
        kernel = self.kernel
        replay, past = self.issuing.replay, kernel.past
        assert replay is not None  # noqa: S101 - `attach` comes first
        assert past is not None  # noqa: S101
        if hooks:
            await replay.play()
        steps = await replay.go_live(self.reply_stream.view)
        self.issuing.replay = None
        self._running = True
        self.reply_stream.inside = contextvars.copy_context()
        first = kernel.state.queue[0].cause if kernel.state.queue else CORE
        self._carry_out(steps, first, kernel.clock.now(), due=None if replay.end is None else End(replay.end, past))
        for pending in kernel.state.queue:
            point = past.point(pending.cause)
            if point is not None:
                kernel.work_queue.await_turn(pending.number, point)
        kernel.watermark.start()
        past.forget()
        self._decide(None, CORE)
        if replay.was_needed and kernel.ending.lost is None:
            kernel.record(replay.summary(kernel.clock.now()), CORE)

    async def finish(self, error: BaseException | None) -> None:
        """End what is still open once the entrypoint has returned, or raised `error`, and release everything."""
        kernel = self.kernel
        try:
            if kernel.ending.abandoned or kernel.past is None:
                return
            if not self._running and kernel.ending.lost is None:
                await self._begin(hooks=False)
            if (error is not None and not kernel.state.failed) or not kernel.state.over:
                self.decide(d.EntrypointReturned(None if error is None else describe(error)), CORE)
            async with asyncio.timeout(kernel.settings.end_timeout_s) as limit:
                while kernel.work_queue.items or not (kernel.state.completed or kernel.ending.lost):
                    await self._next()
                    if not (
                        kernel.work_queue.items or kernel.state.over
                    ):  # the last command was a transfer, and it was refused
                        self.decide(d.EntrypointReturned(), CORE)
                        limit.reschedule(asyncio.get_running_loop().time() + kernel.settings.end_timeout_s)
            await self._hook_runner.over(0.0 if kernel.ending.lost else kernel.settings.hook_grace_s)
            await self.reply_stream.over(0.0 if kernel.ending.lost else kernel.settings.hook_grace_s)
            if kernel.ending.lost is None:
                kernel.record(ev.SessionFinished(failed=kernel.ending.has_failed(kernel.state)), CORE)
                async with asyncio.timeout(kernel.settings.end_timeout_s):
                    await kernel.outbox.flush()
        except TimeoutError:
            logger.warning("session %s: the call's end was not heard of; letting go", self.ownership.session_id)
        except LogError as failure:
            kernel.ending.lost = kernel.ending.lost or failure
        finally:
            await self._close()

    def release(self) -> None:
        """Let go of the developer's code, and of what refers back to this: what is left is freed with its last user.

        To be called when nothing of the call will run any more. Verbs may still be used, and reach nobody.
        """
        self.adapter = self.issuing.replay = None
        self.kernel.hooks.clear()
        self.reply_stream.release()
        self._hook_runner.release()
        self.inbox.release()
        self._deadline.release()
        self._settled_alarm.release()
        self._clock_alarm.release()

    async def _close(self) -> None:
        kernel = self.kernel
        kernel.outcomes.over()
        self._deadline.close()
        self._settled_alarm.close()
        self._clock_alarm.close()
        if self._clock_check is not None:
            await cancelled([self._clock_check])
        await cancelled(kernel.chores)
        await self.reply_stream.close()
        await self._hook_runner.close()
        await self.inbox.close()
        await kernel.outbox.close()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def perform(self, command: AnyCommand) -> CommandHandle:
        """Decide on a command that the developer's code asks for, and carry it out in this tick.

        Raises:
            RecordTooLarge: it cannot be stored.
        """
        return self.issuing.perform(command, self.decide)

    def _begin_tool(self, turn: int, work: Coroutine[object, object, None]) -> None:
        """Run a tool of the adapter's, while the time-out of the reply stands still."""
        self._tools_run(turn, 1)
        self.reply_stream.begin_tool(work, partial(self._tools_run, turn, -1))

    def _tools_run(self, turn: int, more: int) -> None:
        kernel = self.kernel
        kernel.state = evolve_local(kernel.state, ToolsRun(turn, more, kernel.clock.now()))
        self._arm()

    def use_adapter(self, adapter: DialogMachine | None) -> None:
        """Take another adapter, from the next turn on.

        Raises:
            TypeError: it is none; the text says what is missing.
        """
        self.reply_stream.use(None if adapter is None else check_adapter(adapter))
        self.adapter = adapter

    def set(self, **changes: float | str | None) -> None:
        """Change settings of this session."""
        kernel = self.kernel
        kernel.settings = replace(kernel.settings, **changes)
        self._arm()

    def _on_record(self, record: Record) -> None:
        kernel = self.kernel
        body, turn = record.body, kernel.state.turn
        if isinstance(body, ev.OwnerChanged) and body.epoch > self.ownership.epoch:
            kernel.ending.fence()
            return
        if isinstance(body, ev.CallEnded):
            kernel.heard_end = True
            self.reply_stream.look()
            kernel.outcomes.over()
        if isinstance(body, ev.CommandAcknowledged):
            kernel.outcomes.take(body)
        if isinstance(body, ev.ReplySpoken):
            self._replies.spoken(body)
        if isinstance(body, ev.UserInterrupted) and turn is not None and turn.replying:
            self.reply_stream.cut()
        elif isinstance(body, ev.CallEnded):
            self._hook_runner.hurry(kernel.settings.hook_wait_s("call_end"))
        kernel.work_queue.items.append(record)
        self._go_on()

    def _on_adapter(self, given: d.Given, error: BaseException | None) -> None:
        kernel = self.kernel
        if error is not None:
            logger.error(
                "session %s: the adapter failed: %s",
                self.ownership.session_id,
                type(error).__name__,
                exc_info=None if kernel.state.private else error,
            )
        turn = kernel.state.turn
        self.decide(given, turn.cause if turn is not None else CORE)

    def _on_adapter_stands(self, told: AdapterStands) -> None:
        self.kernel.state = evolve_local(self.kernel.state, told)

    def _on_time(self) -> None:
        if self._running:
            self.decide(d.TimeReached(), CORE)

    def _on_again(self, again: Again) -> None:
        kernel = self.kernel
        if again.epoch == self.ownership.epoch:
            for delta in self._replies.again(again, kernel.clock.now()):
                kernel.outbox.resend(delta)

    def _on_trouble(self, fact: ev.HookFailed, cause: str) -> None:
        kernel = self.kernel
        if kernel.ending.lost is None and not (kernel.past is not None and kernel.past.has_failed(fact, cause)):
            kernel.record(fact, cause)

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _next(self) -> None:
        queue = self.kernel.work_queue
        if not queue.items:
            await queue.woken()
        elif hooks := self._handle(queue.items.popleft()):
            await self._run_hooks(hooks)

    def _go_on(self) -> None:
        """Handle what is in line; where the loop is at something, or has to wait for it, that is left to the loop."""
        kernel = self.kernel
        items = kernel.work_queue.items
        if self._idle and items:
            self._idle = False
            while items and kernel.ending.reason is None:
                if hooks := self._handle(items.popleft()):
                    items.appendleft(hooks)
                    break
            self._idle = True
        if items:
            kernel.work_queue.wake()

    def _handle(self, item: Item) -> HooksDue | None:
        """Do what need not be waited for, and return what has to be: hooks that somebody has registered."""
        kernel = self.kernel
        if isinstance(item, Record):
            self._take(item)
        elif isinstance(item, d.Finish):
            kernel.ending.finish(item.reason)
        elif kernel.hooks.has(item.fire.event, item.runs):
            return item
        else:
            self._returned(item.fire.event, item.point)
            self._hooks_over(item, kernel.outbox.last_command)
        return None

    def _take(self, record: Record) -> None:
        kernel = self.kernel
        turns, paused = kernel.state.turn_count, kernel.state.paused
        point = Point(record.envelope.index)
        kernel.watermark.begin(point)  # until the hooks that it is due to are in line
        kernel.state = evolve(kernel.state, record)
        if kernel.state.paused and not paused:  # from outside; what waits for the log was written before that
            kernel.outbox.withhold_waiting()
        if kernel.state.turn_count > turns:
            kernel.work_queue.await_turn(kernel.state.turn_count, point)
        self._decide(record, record.envelope.id)
        kernel.watermark.returned(point)

    def decide(self, given: d.Given, cause: str, scope: Scope | None = None) -> None:
        """Decide, carry it all out in this tick, and go on until nothing is left to do; hooks are put in line."""
        self._decide(given, cause, scope)
        self._go_on()

    def _decide(self, given: d.Given | None, cause: str, scope: Scope | None = None) -> None:
        kernel = self.kernel
        now = kernel.clock.now()
        if given is not None and (steps := decide(kernel.state, given, now, kernel.settings).steps):
            self._carry_out(steps, cause, now, scope)
        while self._running and (steps := follow_up(kernel.state, now, kernel.settings).steps):
            turn = kernel.state.turn
            self._carry_out(steps, turn.cause if turn is not None else cause, now)
        if not self._arming:
            self._arm()

    def _carry_out(
        self,
        steps: Sequence[d.Step],
        cause: str,
        now: float,
        scope: Scope | None = None,
        *,
        due: End | None = None,
    ) -> None:
        """Do what was decided; in a takeover, `due` is where hooks were due that tell of no record written now."""
        stored: Record | None = None
        for step in steps:
            if isinstance(step, d.Append):
                stored = self.kernel.append(step, cause, scope, now)
            elif isinstance(step, LocalEvent):
                self.kernel.state = evolve_local(self.kernel.state, step)
            elif isinstance(step, d.FireHooks):
                self._line_up(step, stored, cause, due)
            elif isinstance(step, d.SendDelta):
                self._replies.keep(self.kernel.outbox.delta(step.turn, step.part, step.n, step.text), now)
            else:
                self._perform(step, cause)

    def _perform(self, step: _Doing, cause: str) -> None:
        kernel = self.kernel
        match step:
            case d.AskAdapter():
                context: ReplyContext = {**self.context, "turn_number": step.turn}
                self.reply_stream.ask(step, cause, context, self._adapter_scope(cause, step.turn, context))
            case d.StopAdapter():
                self.reply_stream.stop(mark=step.mark, heard=step.heard, note=kernel.settings.interruption_note)
            case d.MarkInterrupted():
                self.reply_stream.mark_interrupted(step.heard)
            case d.Nudge():
                self.reply_stream.nudge(step.note)
            case d.Finish():
                kernel.work_queue.items.append(step)
            case _:
                assert_never(step)

    def _adapter_scope(self, cause: str, turn: int, context: ReplyContext) -> AdapterScope:
        return AdapterScope(
            self.kernel,
            self.steps,
            cause,
            context,
            report=partial(self.reply_stream.report, turn=turn),
            begin_tool=partial(self._begin_tool, turn),
        )

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _line_up(self, fire: d.FireHooks, stored: Record | None, cause: str, due: End | None) -> None:
        kernel = self.kernel
        if fire.event == "user_turn" and kernel.state.turn is not None:
            kernel.work_queue.line_up_turn(fire, kernel.state.turn.cause)
        else:
            kernel.work_queue.line_up(fire, stored, cause, Point(kernel.state.bridge_index), due)

    async def _run_hooks(self, hooks: HooksDue) -> None:
        kernel = self.kernel
        fire = hooks.fire
        before = kernel.outbox.last_command
        await self._hook_runner.run(
            fire,
            cause=hooks.cause,
            timeout_s=kernel.settings.hook_wait_s(fire.event),
            returned=partial(self._returned, fire.event, hooks.point),
            runs=hooks.runs,
        )
        self._hooks_over(hooks, before)

    def _hooks_over(self, hooks: HooksDue, before: int) -> None:
        """Go on after hooks, or where there are none; `before` is the index of the newest command before they ran."""
        kernel, fire = self.kernel, hooks.fire
        if fire.event == "user_turn":
            # A barge-in that came while the hooks of a text ran was on an earlier reply: it is taken before that text's
            # begins.
            for record in kernel.work_queue.through_interruptions():
                self._take(record)
            has_adapter = self.reply_stream.view is not None
            if not (has_adapter or kernel.over) and kernel.outbox.last_command == before:
                self._warn_of_no_adapter()
            self._decide(d.TurnHooksReturned(fire.turn, has_adapter=has_adapter), hooks.cause)

    def _warn_of_no_adapter(self) -> None:
        """Tell a developer once why nobody answers: no adapter, and no hook that would have done anything instead."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "session %s: nobody answers the caller: "
                "assign an adapter to session.dialog_machine before session.run()",
                self.ownership.session_id,
            )

    def _returned(self, event: str, point: Point | None) -> None:
        kernel = self.kernel
        if point is None:
            return
        kernel.watermark.returned(point)
        if self._running and kernel.hooks.has(event) and not self._settled_alarm.is_set:
            self._settled_alarm.set(kernel.clock.now() + SETTLED_S)

    def _say_settled(self) -> None:
        """Store the watermark, unless another record has carried it meanwhile."""
        kernel = self.kernel
        if kernel.ending.lost is None and kernel.watermark.has_news(kernel.state.bridge_index, kernel.outbox.index):
            kernel.record(ev.Settled(), CORE)

    # --- small things -------------------------------------------------------------------------------------------------

    def _check_clock(self) -> None:
        self._clock_check = asyncio.get_running_loop().create_task(self._compare_clock(), name="unpod-clock")

    async def _compare_clock(self) -> None:
        """Put the clock right by the session's newest record: a machine that was suspended is behind."""
        kernel = self.kernel
        ownership = self.ownership
        try:
            newest = await ownership.log.newest([ownership.subjects.call(ownership.agent_id, ownership.session_id).all])
        except LogError as error:
            logger.debug("the log cannot be read: %s", type(error).__name__)
            newest = None
        if newest and kernel.clock.correct(newest[-1].time_ns / 1e9):
            logger.info("session %s: this process's clock was behind the log's", ownership.session_id)
            self._deadline.set(None)  # it was set by the clock as it was
            self._arm()
        self._clock_alarm.set(kernel.clock.now() + kernel.settings.clock_check_s)

    def _arm(self) -> None:
        """Have the timers set before the event loop's next turn, once for all that happens in this one."""
        if self._running and not self._arming:
            self._arming = True
            asyncio.get_running_loop().call_soon(self._rearm)

    def _rearm(self) -> None:
        self._arming = False
        self._deadline.set(due(self.kernel.state, self.kernel.settings))
