"""Going through the past: the developer's code runs again, against what the log says it did.

Hooks run again by the rules of `core.replay.history`; commands that the log knows are not sent again, steps return
what they returned. What is new and belongs to something unsettled is done now: it is the half that a crash cut off.
What is new and belongs to something settled comes from changed code; it is suppressed and recorded, so that no caller
is greeted twice. What was left out of something settled is recorded as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from unpod.adapters.pieces import told
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core import own_hooks
from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.decision import AskAdapter, FireHooks, Step
from unpod.core.ephemeral_events import TurnResumed
from unpod.core.events import tag_of
from unpod.core.replay.history import History, Point
from unpod.core.replay.resume import Present, Trace, cut_reply, resume, spoken_of
from unpod.core.state import Exchange, SessionState, evolve
from unpod.core.timers import restarted
from unpod.session.hook_runner import HookRunner
from unpod.session.kernel import Replayed, SessionKernel
from unpod.session.scope import Scope
from unpod.user_code import bounded, is_theirs

if TYPE_CHECKING:
    from unpod.adapters.adapter import AdapterView
    from unpod.adapters.pieces import ChatMessage, UsedTool

logger = logging.getLogger("unpod.session")

NOT_RECORDED: Final = "(Something was said here that was not recorded.)"
RESTORE_S: Final = 5.0
"""How long an adapter may take to take up the conversation."""


class Replay:
    """One session's way through its past. For a new call there is none, and it ends as soon as `run()` is called."""

    def __init__(self, kernel: SessionKernel, hook_runner: HookRunner, past: History, since: float) -> None:
        self._kernel = kernel
        self._hook_runner = hook_runner
        self._past = past
        self._since = since
        self._length = len(past.prefix) + len(past.records)
        self._trace = Trace(kernel.state, past.records, kernel.settings)
        self._texts = {**{reply.turn: reply.text for reply in past.told if reply.text}, **self._trace.texts}
        self._at = 0
        self._folded = 0
        self._scopes = [kernel.main]
        self._used: set[str] = set()
        self.was_needed = bool(past.records)
        if past.records:
            kernel.replayed = Replayed(self._trace.state, past.bridge_index, kernel.state.started_at)

    @property
    def end(self) -> Record | None:
        """The record that had ended the call for this session before its runner died, or None."""
        return self._trace.end

    def summary(self, now: float) -> ev.ReplayCompleted:
        """Return how long it has taken, from before the log was read to `now`."""
        return ev.ReplayCompleted(records=self._length, duration_ms=max(now - self._since, 0.0) * 1_000)

    def knows(self, command_id: str) -> None:
        """Take note that the code has asked for a command that the log knows."""
        self._used.add(command_id)

    def suppresses(self, command: cmd.AnyCommand, scope: Scope) -> bool:
        """Whether a command that the log does not know must not be sent: its place in the call is long gone."""
        if self._kernel.replayed is None:
            return False
        verb = tag_of(command)
        if isinstance(command, cmd.Interrupt):  # what was playing then is over
            if verb_is_sent(self._trace.state):
                scope.command_id(self._kernel.ownership.session_id, verb)
            return True
        if not self._is_settled(scope):
            self._close_turn(command)
            return False
        scope.command_id(self._kernel.ownership.session_id, verb)
        self._diverged(scope, found=verb)
        return True

    def note_new(self, what: str, scope: Scope) -> None:
        """Record that the code does something which is no command, and new, in something settled."""
        if self._kernel.replayed is not None and self._is_settled(scope):
            self._diverged(scope, found=what)

    def _is_settled(self, scope: Scope) -> bool:
        return not scope.loose and self._past.is_settled(scope.cause)

    def _diverged(self, scope: Scope, *, found: str) -> None:
        missing = [verb for id_, verb in self._past.asked(scope.cause, scope.handler) if id_ not in self._used]
        expected = f"{missing[0]} by {scope.handler}" if missing else ""
        logger.warning(
            "session %s: %s by %s is new to the log%s: the code has changed",
            self._kernel.ownership.session_id,
            found,
            scope.handler,
            f", which has {missing[0]}" if missing else "",
        )
        fact = ev.Diverged(expected=expected[:200], found=f"{found} by {scope.handler}"[:200])
        self._kernel.record(fact, scope.cause)

    def _close_turn(self, command: cmd.AnyCommand) -> None:
        """End the reply that was open before a command that ends the call for this session."""
        ends = isinstance(command, cmd.EndCall) or (isinstance(command, cmd.Transfer) and command.mode == "cold")
        state = self._trace.state
        if not ends or not state.queue or state.over or state.queue[0].number in state.reply_ends:
            return
        first = state.queue[0]
        self._kernel.append(cut_reply(first, spoken_of(first, self._past)))

    # --- going through ------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Run the code's hooks through the past."""
        if self.was_needed:
            logger.info("session %s: going through its past again", self._kernel.ownership.session_id)
        for record in self._past.prefix:
            if isinstance(record.body, ev.CallStarted):
                await self._fire(FireHooks("call_start"), record.envelope.id, Point(record.envelope.index))
        for record, (heard, pending) in zip(self._past.records, self._trace.due, strict=True):
            self._at += 1
            envelope = record.envelope
            if self._kernel.replayed is not None:
                self._kernel.replayed.now = envelope.time
            own = record.channel in OWNER_CHANNELS
            for fire in own_hooks.of_record(record, self._texts) if own else heard:
                await self._fire(fire, envelope.id, Point(envelope.index, own=own))
            if pending is not None:
                point = self._past.point(pending.cause) or Point(0)
                fire = FireHooks("user_turn", (pending.text or "",), turn=pending.number)
                await self._fire(fire, pending.cause, point)
        self._miss()

    def _fold(self) -> None:
        """Have the state as it was at this record, for a hook that runs: the whole past is folded already."""
        records = self._past.records
        for record in records[self._folded : self._at]:
            self._kernel.state = evolve(self._kernel.state, record)
        self._folded = self._at

    async def _fire(self, fire: FireHooks, cause: str, point: Point) -> None:
        kernel = self._kernel

        def runs(replay: bool | None) -> bool:  # noqa: FBT001 - as `Runs` has it
            return self._past.reruns(fire.event, point, replay=replay)

        if cause in self._past.poisoned or not kernel.hooks.has(fire.event, runs):
            return
        self._fold()
        kernel.watermark.begin(point)
        await self._hook_runner.run(
            fire,
            cause=cause,
            timeout_s=kernel.settings.hook_wait_s(fire.event),
            returned=partial(kernel.watermark.returned, point),
            runs=runs,
            begun=self._scopes.append,
        )

    def _miss(self) -> None:
        """Record what the log has of handlers that were settled, and that the code has not asked for again."""
        for scope in self._scopes:
            if not self._past.is_settled(scope.cause):
                continue
            for command_id, verb in self._past.asked(scope.cause, scope.handler):
                if command_id not in self._used:
                    logger.warning(
                        "session %s: %s by %s is in the log, and the code does not ask for it again: it has changed",
                        self._kernel.ownership.session_id,
                        verb,
                        scope.handler,
                    )
                    self._kernel.record(ev.Diverged(expected=f"{verb} by {scope.handler}"[:200]), scope.cause)

    # --- on to the present --------------------------------------------------------------------------------------------

    async def go_live(self, view: AdapterView | None) -> tuple[Step, ...]:
        """Leave the past behind, and return how to go on; `view` is the adapter."""
        kernel, past, replayed = self._kernel, self._past, self._kernel.replayed
        if replayed is None:
            return ()
        state, kernel.replayed = replayed.end, None
        for record in replayed.written:
            state = evolve(state, record)
        now = kernel.now()
        kernel.state = state = restarted(state, now, kernel.settings)
        present = Present(
            now=now,
            settings=kernel.settings,
            has_adapter=view is not None,
            can_continue=view is not None and view.can_continue,
        )
        steps = resume(state, self._trace, past, present).steps
        if view is not None:
            history = _messages([*state.history, *_last_words(steps)], past)
            await _restore(view, history, state.supervision.notes)
        return steps


def verb_is_sent(state: SessionState) -> bool:
    """Whether an interruption by the code is a command on this call."""
    return "agent.interrupt" in state.negotiated


def _last_words(steps: tuple[Step, ...]) -> list[Exchange]:
    """Return the open turn as the adapter's memory must have it, where its reply is not gone on with."""
    if any(isinstance(step, AskAdapter) for step in steps):
        return []
    for step in steps:
        turn = step.turn if isinstance(step, TurnResumed) else None
        if turn is not None and (turn.sent or turn.interrupted or turn.phase == "ended"):
            return [Exchange(turn.number, turn.user_text, turn.sent, turn.heard, turn.withheld)]
    return []


async def _restore(view: AdapterView, messages: list[ChatMessage], notes: Sequence[str]) -> None:
    """Give the adapter its memory back, and what it was told from outside; a failure of its own code is logged."""
    if not messages and not notes:
        return

    async def tell() -> None:
        if messages and view.has_restore:
            await view.restore(messages)
        elif messages:
            lines = [f"{message['role']}: {told(message)}" for message in messages]
            await view.assist("The conversation so far:\n" + "\n".join(lines))
        for note in notes:
            await view.assist(note)

    try:
        await bounded(tell(), RESTORE_S, "unpod-adapter-restore")
    except BaseException as error:
        if not is_theirs(error):
            raise
        logger.error("the adapter could not take up the conversation: %s", type(error).__name__)  # noqa: TRY400


def _messages(history: list[Exchange], past: History) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for exchange in history:
        if exchange.withheld:
            messages.append({"role": "system", "content": NOT_RECORDED})
            continue
        if exchange.user and exchange.user.strip():
            messages.append({"role": "user", "content": exchange.user})
        heard = exchange.agent if exchange.heard is None else exchange.heard
        tools = [_tool(call, result) for call, result in past.used.get(exchange.turn, ())]
        if tools:
            messages.append({"role": "assistant", "content": heard or "", "tools": tools})
        elif heard:
            messages.append({"role": "assistant", "content": heard})
    return messages


def _tool(call: ev.ToolCalled, result: ev.ToolReturned | None) -> UsedTool:
    used: UsedTool = {"name": call.name, "arguments": call.arguments, "call_id": call.call_id}
    return used if result is None else {**used, "result": result.result}
