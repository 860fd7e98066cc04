"""What the developer's code asks for: each command by an id derived from who asks, and on what cause."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from unpod.core import codec
from unpod.core.commands import AnyCommand
from unpod.core.decision import Verb
from unpod.core.envelope import OVERHEAD, VERSION
from unpod.core.events import tag_of
from unpod.errors import LogError, ProtocolViolation
from unpod.session.outcomes import CommandHandle
from unpod.session.pace import Pace
from unpod.session.scope import Scope, current

if TYPE_CHECKING:
    from unpod.session.driver import Driver

OVER: Final = "the call is over"
MANY_RECORDS: Final = 1_000
"""How many records may wait for the log before verbs wait, too: half of what a writer takes."""


class Issuing:
    """The commands of one session's code. What was done before a takeover is not done again."""

    def __init__(self, driver: Driver) -> None:
        self._driver: Driver = weakref.proxy(driver)  # which holds this
        self._pace = Pace()
        self._turn: asyncio.Lock | None = None  # most sessions never wait
        self._late = 0

    def perform(self, command: AnyCommand) -> CommandHandle:
        """Decide on a command, and carry it out in this tick.

        Raises:
            RecordTooLarge: it cannot be stored.
            TypeError: something in it has the wrong type.
        """
        _check(command)
        driver = self._driver
        scope, replay = current(driver.main), driver.replay
        outcomes, session, verb = driver.outcomes, driver.ownership.session_id, tag_of(command)
        identifier = scope.peek(session, verb)
        if self._is_known(identifier, verb, scope):
            return outcomes.of(identifier, command)
        if driver.heard_end:  # it is new, and comes up while the past is replayed: nobody performs it any more
            scope.command_id(session, verb)
            return outcomes.known("ignored", OVER)
        if replay is not None and replay.suppresses(command, scope):
            return outcomes.known("ignored", "its place in the call is gone through already")
        before = driver.journal.last_command
        driver.decide(Verb(command), scope.cause, scope)
        if scope.peek(session, verb) != identifier:  # it was used: for the record of this command
            return outcomes.of(identifier, command)
        if driver.journal.last_command > before:
            return outcomes.known("written", "the reply was ended, which is all that this worker can do")
        return outcomes.known("ignored", "there was nothing to be done")

    async def room(self) -> None:
        """Return once there is room for more: a flood has to wait, one call must not fill the log of all calls.

        Who waits does so in order.
        """
        if self._driver.journal.backlog >= MANY_RECORDS:
            with suppress(LogError):
                await self._driver.journal.flush()
        if (self._turn is None or not self._turn.locked()) and not self._wait_s():
            return
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            while wait_s := self._wait_s():
                await self._driver.ownership.clock.sleep(wait_s)

    async def late(self) -> None:
        """Count a verb that came after the call's end as if it were written: a loop of them has to wait as well."""
        self._late += OVERHEAD
        await self.room()

    def _wait_s(self) -> float:
        return self._pace.wait_s(self._driver.journal.written + self._late, self._driver.ownership.clock.now())

    def _is_known(self, command_id: str, verb: str, scope: Scope) -> bool:
        """Whether the log knows this command; its id is used up with that."""
        past = self._driver.past
        if past is None or command_id not in past.commands:
            return False
        scope.command_id(self._driver.ownership.session_id, verb)
        if self._driver.replay is not None:
            self._driver.replay.knows(command_id)
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
