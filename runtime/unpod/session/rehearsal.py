"""Going through the past: the developer's code runs again, against what the log says it did.

Hooks run again by the rules of `core.past`; commands that the log knows are not sent again, steps return what they
returned. What is new and belongs to something unsettled is done now: it is the half that a crash cut off. What is new
and belongs to something settled comes from changed code; it is suppressed and recorded, so that no caller is greeted
twice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.decide import decide
from unpod.core.decision import FireHooks, MarkInterrupted, Step
from unpod.core.events import tag_of
from unpod.core.past import Past
from unpod.core.resume import Capabilities, cut_reply, owner_hooks, resume
from unpod.core.state import Exchange, evolve
from unpod.session.scope import Scope

if TYPE_CHECKING:
    from unpod.adapters.pieces import ChatMessage
    from unpod.adapters.view import AdapterView
    from unpod.session.driver import Driver

logger = logging.getLogger("unpod.session")

NOT_RECORDED = "(Something was said here that was not recorded.)"


class Rehearsal:
    """One session's way through its past. For a new call there is none, and it ends as soon as `run()` is called."""

    def __init__(self, driver: Driver, past: Past) -> None:
        self._driver = driver
        self._past = past
        self._pending: list[Record] = []
        self._opened: set[int] = set()
        self.replaying = bool(past.records)
        self.now: float | None = driver.state.started_at if past.records else None
        """The time of the record that is gone through; None for a new call."""

    @property
    def seen(self) -> int:
        """What a record that is written meanwhile has seen: all of the past."""
        return self._past.bridge_index

    @property
    def paused(self) -> bool:
        """Whether a pause of the recording has been written meanwhile."""
        return any(isinstance(record.body, cmd.PauseRecording) for record in self._pending)

    def keep(self, record: Record) -> None:
        """Take a record that was written meanwhile: it comes after all of the past."""
        if self.replaying:
            self._pending.append(record)
        else:
            self._driver.state = evolve(self._driver.state, record)

    def suppresses(self, command: cmd.AnyCommand, scope: Scope) -> bool:
        """Whether a command that the code asks for must not be sent: it was, or its place in the call is long gone."""
        if not self.replaying:
            return False
        if isinstance(command, cmd.Interrupt):
            return True
        verb = tag_of(command)
        known = scope.peek(self._driver.seat.session_id, verb) in self._past.commands
        if not known and not self._past.is_settled(scope.cause):
            self._close_turn(command)
            return False
        scope.command_id(self._driver.seat.session_id, verb)
        if not known:
            logger.warning(
                "session %s: %s by %s is new to the log and not carried out: the code has changed",
                self._driver.seat.session_id,
                verb,
                scope.handler,
            )
            self._driver.record(ev.Diverged(found=f"{verb} by {scope.handler}"[:200]), scope.cause)
        return True

    def _close_turn(self, command: cmd.AnyCommand) -> None:
        """End the reply that was open before a command that ends the call for this session."""
        ends = isinstance(command, cmd.EndCall) or (isinstance(command, cmd.Transfer) and command.mode == "cold")
        state, takeover = self._driver.state, self._past.takeover
        if not ends or not state.queue:
            return
        first = state.queue[0]
        part = takeover.part if takeover is not None and takeover.turn == first.number else 0
        self._driver.append(cut_reply(first, part))

    async def play(self) -> None:
        """Run the code's hooks through the past."""
        if self.replaying:
            logger.info("session %s: going through its past again", self._driver.seat.session_id)
        for record in self._past.prefix:
            if isinstance(record.body, ev.CallStarted):
                await self._fire(FireHooks("call_start"), record.envelope.id, record.envelope.index)
        for record in self._past.records:
            await self._through(record)

    async def _through(self, record: Record) -> None:
        driver, envelope = self._driver, record.envelope
        driver.state = evolve(driver.state, record)
        self.now = envelope.time
        if record.channel in OWNER_CHANNELS:
            for fire in owner_hooks(record, self._past):
                await self._fire(fire, envelope.cause, envelope.seen)
        elif not isinstance(record.body, (ev.CallEnded, ev.TurnMetrics)):
            for step in decide(driver.state, record, envelope.time, driver.settings).steps:
                if isinstance(step, FireHooks):
                    await self._fire(step, envelope.id, envelope.index)
        await self._open_turn()

    async def _open_turn(self) -> None:
        """Run the hooks of the text that is next, once."""
        queue = self._driver.state.queue
        if not queue or queue[0].number in self._opened or queue[0].cause == self._past.skip:
            return
        pending = queue[0]
        self._opened.add(pending.number)
        position = self._past.index_of(pending.cause)
        await self._fire(FireHooks("user_turn", (pending.text or "",), turn=pending.number), pending.cause, position)

    async def _fire(self, fire: FireHooks, cause: str, position: int) -> None:
        driver, past = self._driver, self._past
        driver.settling.begin(position)
        await driver.hook_runner.run(
            fire,
            cause=cause,
            timeout_s=driver.settings.hook_timeout_s,
            returned=lambda: driver.settling.returned(position),
            runs=lambda replay: past.reruns(fire.event, position, replay=replay),
        )

    async def go_live(self) -> tuple[Step, ...]:
        """Leave the past behind, and return how to go on."""
        driver, past = self._driver, self._past
        for record in past.records:
            driver.state = evolve(driver.state, record)
        for record in self._pending:
            driver.state = evolve(driver.state, record)
        was, self.replaying, self.now = self.replaying, False, None
        if not was:
            return ()
        view = driver.brain.view
        can = Capabilities(has_brain=view is not None, can_continue=view is not None and view.can_continue)
        decision = resume(driver.state, past, driver.seat.clock.now(), driver.settings, can)
        if view is not None:
            await _restore(view, self._history(decision.steps))
        return decision.steps

    def _history(self, steps: tuple[Step, ...]) -> list[Exchange]:
        """Return what the brain's memory must hold: the completed turns, and a reply that is not gone on with."""
        state, takeover = self._driver.state, self._past.takeover
        history = list(state.history)
        if takeover is not None and state.queue and any(isinstance(step, MarkInterrupted) for step in steps):
            first = state.queue[0]
            history.append(Exchange(first.number, first.text, takeover.text, takeover.text))
        return history


async def _restore(view: AdapterView, history: list[Exchange]) -> None:
    """Give the brain its memory back; a failure of its own code is logged, and the call goes on."""
    if not history:
        return
    try:
        if view.has_restore:
            await view.restore(_messages(history))
        else:
            lines = [f"{message['role']}: {message['content']}" for message in _messages(history)]
            await view.assist("The conversation so far:\n" + "\n".join(lines))
    except Exception as error:  # noqa: BLE001 - the brain's own code
        logger.error("the brain could not take up the conversation: %s", type(error).__name__)  # noqa: TRY400


def _messages(history: list[Exchange]) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for exchange in history:
        if exchange.withheld:
            messages.append({"role": "system", "content": NOT_RECORDED})
            continue
        if exchange.user:
            messages.append({"role": "user", "content": exchange.user})
        heard = exchange.agent if exchange.heard is None else exchange.heard
        if heard:
            messages.append({"role": "assistant", "content": heard})
    return messages
