"""What the brain's tools may use of the call, while it answers one turn."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unpod.adapters.call_scope import Attempt
from unpod.adapters.pieces import Piece, ToolCall, plain
from unpod.core.events import StepCompleted
from unpod.core.ids import step_id
from unpod.core.replay.history import BRAIN_STATE
from unpod.session.steps import Steps

if TYPE_CHECKING:
    from unpod.session.driver import Driver


class AdapterScope:
    """The call, as the tools of one reply see it (`adapters.call_scope.CallScope`)."""

    def __init__(self, driver: Driver, cause: str, turn: int, context: Mapping[str, object]) -> None:
        self.context = context
        self._driver = driver
        self._turn = turn
        self._cause = cause
        called = () if driver.past is None else driver.past.tools.get(cause, ())
        self.earlier: Sequence[ToolCall] = [ToolCall(fact.name, fact.arguments, fact.call_id) for fact in called]

    def is_reported(self, call: ToolCall) -> bool:
        """Whether the log has the result of one of the earlier calls."""
        return self._driver.past is not None and (self._cause, call.call_id) in self._driver.past.tools_done

    async def step(self, name: str, attempt: Attempt) -> object:
        """Do something once in all processes that ever own the call; see `Session.step`."""

        async def function(idempotency_key: str) -> object:
            return await attempt(idempotency_key)

        return await Steps(self._driver).run(name, function, (), {})

    @property
    def saved(self) -> object:
        """What the brain last saved on an earlier turn in another process."""
        states = () if self._driver.past is None else self._driver.past.brain_states
        return next((value for cause, value in reversed(states) if cause != self._cause), None)

    def save(self, state: object) -> None:
        """Store what the brain needs in another process; not where it may hold what was said off the record."""
        driver = self._driver
        if driver.ending.lost is None and not driver.state.has_withheld:
            identifier = step_id(driver.ownership.session_id, self._cause, "brain", BRAIN_STATE, driver.journal.index)
            driver.record(StepCompleted(step=identifier, name=BRAIN_STATE, value=plain(state)), self._cause)

    def report(self, piece: Piece) -> None:
        """Record what comes about after the reply has been cut."""
        if self._driver.ending.lost is None:
            self._driver.brain.report(piece, self._turn)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a tool, which is finished though the caller cuts in."""
        self._driver.begin_tool(self._turn, work)
