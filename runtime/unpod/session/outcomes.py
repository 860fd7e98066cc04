"""What becomes of the commands that the developer's code has asked for.

The bridge says it in the log, and the session hears it as it comes, beside its loop: so a hook, which the loop waits
for, may wait for it. A takeover that goes through the past again finds there what became of a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Literal
from weakref import WeakValueDictionary

from msgspec import Struct

from unpod.core.codec import Record
from unpod.core.commands import AnyCommand, Transfer
from unpod.core.events import CallEnded, CommandAcknowledged, OwnerChanged
from unpod.ports import Clock

OutcomeStatus = Literal["written", "delivered", "ignored", "refused", "unknown"]


class Outcome(Struct, frozen=True):
    """What became of a command.

    `written`: handed to the speech worker's socket. `delivered`: the worker has it, and has not refused it. `ignored`:
    there was nothing to be done. `refused`: it cannot be done, and `reason` says why. `unknown`: nobody can tell; it is
    not repeated.
    """

    status: OutcomeStatus
    reason: str = ""


_UNHEARD = Outcome("unknown", "nothing was heard of it before the call, or this runner's part in it, was over")


class CommandHandle:
    """A command that was asked for; what becomes of it may be waited for, and need not be."""

    __slots__ = ("__weakref__", "_clock", "_heard", "_outcome", "_till_the_end", "_waiting")

    def __init__(self, clock: Clock, outcome: Outcome | None = None, *, till_the_end: bool = False) -> None:
        self._clock = clock
        self._outcome = outcome
        self._heard: Outcome | None = None
        self._till_the_end = till_the_end
        self._waiting: list[asyncio.Future[Outcome]] = []

    def __repr__(self) -> str:
        return f"<CommandHandle {'pending' if self._outcome is None else self._outcome.status}>"

    async def outcome(self, *, timeout_s: float | None = None) -> Outcome:
        """Return what became of it once that is known, which is at the end of the call at the latest.

        Of a cold transfer it is known when the worker has refused it, or when the call is over.

        Raises:
            TimeoutError: it is not known after `timeout_s`; it may still be done, and waited for again.
        """
        if self._outcome is not None:
            return self._outcome
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        timer = None if timeout_s is None else self._clock.call_later(timeout_s, partial(_give_up, waiting, timeout_s))
        try:
            return await waiting
        finally:
            self._waiting.remove(waiting)
            if timer is not None:
                timer.cancel()

    def hear(self, outcome: Outcome) -> None:
        """Take the bridge's word."""
        self._heard = outcome
        if not self._till_the_end or outcome.status in ("ignored", "refused"):
            self._settle(outcome)

    def over(self) -> None:
        """Nothing more will be heard of it."""
        self._settle(self._heard or _UNHEARD)

    def _settle(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(outcome)


class Outcomes:
    """What has become of one session's commands; a handle that nobody holds is not kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recorded: dict[str, Outcome] = {}
        self._pending: WeakValueDictionary[str, CommandHandle] = WeakValueDictionary()
        self._over = False

    def begin(self, records: Iterable[Record]) -> None:
        """Take what stands in the log."""
        for record in records:
            match record.body:
                case CommandAcknowledged() as body if body.outcome != "claimed":
                    self._recorded[body.command] = Outcome(body.outcome, body.reason)
                case OwnerChanged(unsettled=unsettled):
                    for each in unsettled:
                        if each.outcome != "none" and each.outcome != "claimed":  # noqa: PLR1714 - mypy narrows it so
                            self._recorded.setdefault(each.command, Outcome(each.outcome))
                case CallEnded():
                    self._over = True
                case _:
                    pass

    def of(self, command_id: str, command: AnyCommand) -> CommandHandle:
        """Return the handle of a command that is in the log, or on its way there."""
        is_cold = isinstance(command, Transfer) and command.mode == "cold"
        handle = CommandHandle(self._clock, till_the_end=is_cold)
        if (recorded := self._recorded.get(command_id)) is not None:
            handle.hear(recorded)
        if self._over:
            handle.over()
        else:
            self._pending[command_id] = handle
        return handle

    def known(self, status: OutcomeStatus, reason: str) -> CommandHandle:
        """Return the handle of what is settled already."""
        return CommandHandle(self._clock, Outcome(status, reason))

    def take(self, body: CommandAcknowledged) -> None:
        """Take a receipt of the bridge."""
        handle = self._pending.get(body.command)
        if handle is not None and body.outcome != "claimed":
            handle.hear(Outcome(body.outcome, body.reason))

    def over(self) -> None:
        """Nothing more will be heard."""
        self._over = True
        for handle in list(self._pending.values()):
            handle.over()
        self._pending.clear()


def _give_up(waiting: asyncio.Future[Outcome], timeout_s: float) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError(f"what became of the command is not known after {timeout_s} s"))
