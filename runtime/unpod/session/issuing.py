"""What the developer's code asks for: each command by an id derived from who asks, and on what cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from unpod.core import codec
from unpod.core.commands import AnyCommand
from unpod.core.decision import Verb
from unpod.core.envelope import OVERHEAD, VERSION
from unpod.core.events import tag_of
from unpod.errors import LogError, ProtocolViolation
from unpod.session.kernel import SessionKernel
from unpod.session.outcomes import CommandHandle
from unpod.session.pace import Pace
from unpod.session.replay import Replay
from unpod.session.scope import Scope, current

OVER: Final = "the call is over"
MANY_RECORDS: Final = 1_000
"""How many records may wait for the log before verbs wait, too: half of what a writer takes."""


class Issuing:
    """Issues the commands of one session's code; what was done before a takeover is not done again."""

    def __init__(self, kernel: SessionKernel) -> None:
        self._kernel = kernel
        self.replay: Replay | None = None
        """The replay, until it is over."""
        self._pace = Pace()
        self._turn: asyncio.Lock | None = None  # most sessions never wait
        self._late = 0

    def perform(self, command: AnyCommand, decide: Callable[[Verb, str, Scope], None]) -> CommandHandle:
        """Have it decided on a command, and carried out, in this tick.

        Raises:
            RecordTooLarge: it cannot be stored.
            TypeError: something in it has the wrong type.
        """
        _check(command)
        kernel, replay = self._kernel, self.replay
        scope, outcomes = current(kernel.main), kernel.outcomes
        session, verb = kernel.ownership.session_id, tag_of(command)
        identifier = scope.peek(session, verb)
        if self._is_known(identifier, verb, scope):
            return outcomes.of(identifier, command)
        if kernel.heard_end:  # it is new, and comes up while the past is replayed: nobody performs it any more
            scope.command_id(session, verb)
            return outcomes.known("ignored", OVER)
        if replay is not None and replay.suppresses(command, scope):
            return outcomes.known("ignored", "this part of the call was over before the takeover")
        before = kernel.outbox.last_command
        decide(Verb(command), scope.cause, scope)
        if scope.peek(session, verb) != identifier:  # its id was used up: the command was stored
            return outcomes.of(identifier, command)
        if kernel.outbox.last_command > before:
            return outcomes.known("written", "the reply was ended, which is all that this worker can do")
        return outcomes.known("ignored", "there was nothing to be done")

    def note_new(self, what: str, scope: Scope) -> None:
        """Record that the code does something new, where a former runner had come to the end of its handler."""
        if self.replay is not None:
            self.replay.note_new(what, scope)

    async def room(self) -> None:
        """Return once there is room for more: a flood has to wait, one call must not fill the log of all calls.

        Who waits does so in order.
        """
        if self._kernel.outbox.backlog >= MANY_RECORDS:
            with suppress(LogError):
                await self._kernel.outbox.flush()
        if (self._turn is None or not self._turn.locked()) and not self._wait_s():
            return
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            while wait_s := self._wait_s():
                await self._kernel.clock.sleep(wait_s)

    async def late(self) -> None:
        """Count a verb that came after the call's end as if it were written: a loop of them has to wait as well."""
        self._late += OVERHEAD
        await self.room()

    def _wait_s(self) -> float:
        return self._pace.wait_s(self._kernel.outbox.written + self._late, self._kernel.clock.now())

    def _is_known(self, command_id: str, verb: str, scope: Scope) -> bool:
        """Whether the log knows this command; its id is used up with that."""
        past = self._kernel.past
        if past is None or command_id not in past.commands:
            return False
        scope.command_id(self._kernel.ownership.session_id, verb)
        if self.replay is not None:
            self.replay.knows(command_id)
        return True


def _check(command: AnyCommand) -> None:
    """Refuse a command that nobody could read once it is written: here its author learns of it."""
    verb, problem = tag_of(command), "it does not come back from JSON as it is"
    try:
        if codec.decode("cmd", verb, VERSION, codec.encode(command)) == command:
            return
    except ProtocolViolation as error:
        problem = str(error.__cause__)
    msg = f"{verb}: {problem}"
    raise TypeError(msg)
