"""What the adapter's tools may use of the call, while it answers one turn."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from unpod.adapters.call_scope import Attempt
from unpod.adapters.pieces import Piece, ToolCall, plain
from unpod.core.events import StepCompleted
from unpod.core.ids import step_id
from unpod.core.replay.history import ADAPTER_STATE
from unpod.session.kernel import SessionKernel
from unpod.session.steps import Steps


class AdapterScope:
    """The call, as the tools of one reply see it (`adapters.call_scope.CallScope`)."""

    def __init__(
        self,
        kernel: SessionKernel,
        steps: Steps,
        cause: str,
        context: Mapping[str, object],
        *,
        report: Callable[[Piece], None],
        begin_tool: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self.context = context
        self._kernel = kernel
        self._steps = steps
        self._cause = cause
        self._report = report
        self._begin_tool = begin_tool
        called = () if kernel.past is None else kernel.past.tools.get(cause, ())
        self.earlier: Sequence[ToolCall] = [ToolCall(fact.name, fact.arguments, fact.call_id) for fact in called]

    def is_reported(self, call: ToolCall) -> bool:
        """Whether the log has the result of one of the earlier calls."""
        return self._kernel.past is not None and (self._cause, call.call_id) in self._kernel.past.tools_done

    async def step(self, name: str, attempt: Attempt) -> object:
        """Do something once in all processes that ever own the call; see `Session.step`."""

        async def function(idempotency_key: str) -> object:
            return await attempt(idempotency_key)

        return await self._steps.run(name, function, (), {})

    @property
    def saved(self) -> object:
        """What the adapter last saved on an earlier turn in another process."""
        states = () if self._kernel.past is None else self._kernel.past.adapter_states
        return next((value for cause, value in reversed(states) if cause != self._cause), None)

    def save(self, state: object) -> None:
        """Store what the adapter needs in another process; not where it may hold what was said off the record."""
        kernel = self._kernel
        if kernel.ending.lost is None and not kernel.state.has_withheld:
            identifier = step_id(kernel.ownership.session_id, self._cause, "brain", ADAPTER_STATE, kernel.outbox.index)
            kernel.record(StepCompleted(step=identifier, name=ADAPTER_STATE, value=plain(state)), self._cause)

    def report(self, piece: Piece) -> None:
        """Record what comes about after the reply has been cut."""
        if self._kernel.ending.lost is None:
            self._report(piece)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a tool, which is finished though the caller cuts in."""
        self._begin_tool(work)
