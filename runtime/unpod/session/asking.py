"""What the developer's code asks for: each command by an id derived from who asks, and on what cause."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from unpod.core import codec
from unpod.core.commands import AnyCommand
from unpod.core.decision import Verb
from unpod.core.envelope import VERSION
from unpod.core.events import tag_of
from unpod.errors import LogError, ProtocolViolation
from unpod.session.scope import Scope, current

if TYPE_CHECKING:
    from unpod.session.driver import Driver

MANY_RECORDS: Final = 1_000
"""How many records may wait for the log before verbs wait, too: half of what a writer takes."""


class Asking:
    """The commands of one session's code. What was done before a takeover is not done again."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def perform(self, command: AnyCommand) -> None:
        """Decide on a command, and carry it out in this tick.

        Raises:
            RecordTooLarge: it cannot be stored.
            TypeError: something in it has the wrong type.
        """
        _check(command)
        driver = self._driver
        scope, rehearsal = current(driver.main), driver.rehearsal
        if self._is_known(command, scope):
            return
        if rehearsal is None or not rehearsal.suppresses(command, scope):
            driver.decide(Verb(command), scope.cause, scope)

    async def room(self) -> None:
        """Return once the log keeps up: a flood of commands has to wait, rather than to overrun the writer's bound."""
        if self._driver.journal.backlog >= MANY_RECORDS:
            with suppress(LogError):
                await self._driver.journal.flush()

    def _is_known(self, command: AnyCommand, scope: Scope) -> bool:
        """Whether the log knows this command; its id is used up with that."""
        past, session = self._driver.past, self._driver.seat.session_id
        if past is None or not past.commands:
            return False
        verb = tag_of(command)
        command_id = scope.peek(session, verb)
        if command_id not in past.commands:
            return False
        scope.command_id(session, verb)
        if self._driver.rehearsal is not None:
            self._driver.rehearsal.knows(command_id)
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
