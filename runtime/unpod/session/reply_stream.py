"""The adapter against barge-in: one reply at a time, which can be stopped at once.

The first piece of a reply is handed on in the tick in which the adapter yields it; what follows closely is joined
(`coalescing`). A stream that is stopped hands on nothing more from that moment; its `aclose()`, and with it the end of
the work at the adapter's provider, follows at once in the background, and the adapter's memory is cut before it is
asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from contextvars import Context

from unpod.adapters.adapter import AdapterView
from unpod.adapters.call_scope import CallScope, in_call
from unpod.adapters.pieces import LLMCall, Piece, ToolCall, ToolResult
from unpod.core.decision import AdapterFinished, AdapterRaised, AdapterReported, AdapterSpoke, AskAdapter, Given
from unpod.core.ephemeral_events import AdapterStands
from unpod.core.events import LLMCalled, ToolCalled, ToolReturned
from unpod.errors import AdapterError
from unpod.session.coalescing import Coalescing
from unpod.session.scope import Scope, entered
from unpod.session.task_owner import belongs
from unpod.session.tracing import in_turn
from unpod.user_code import bounded, cancelled, is_theirs

logger = logging.getLogger("unpod.session")

CLOSE_TIMEOUT_S = 5.0


class ReplyStream:
    """The adapter of one session; `tell` is called on the event loop with each thing that the adapter does."""

    def __init__(
        self,
        tell: Callable[[Given, BaseException | None], None],
        stands: Callable[[AdapterStands], None],
        session_id: str = "",
    ) -> None:
        self._tell = tell
        self._stands = stands
        self._session = session_id
        self._view: AdapterView | None = None
        self._stream: asyncio.Task[None] | None = None
        self._asked: object = None
        self._chores: asyncio.Task[None] | None = None
        self._turn = 0
        self._node: str | None = None
        self._speech = Coalescing(self._speak)
        self._tools: set[asyncio.Task[None]] = set()
        self.inside: Context | None = None
        """The context variables that the adapter runs with: those of the developer's code when it called `run()`."""

    @property
    def view(self) -> AdapterView | None:
        """The adapter, or None where the session has none."""
        return self._view

    def use(self, view: AdapterView | None) -> None:
        """Take another adapter, from the next turn on."""
        self._view = view
        if view is not None:
            view.register_llm_callback(self._on_llm_call)

    def ask(
        self, question: AskAdapter, cause: str, context: Mapping[str, object], scope: CallScope | None = None
    ) -> None:
        """Start the reply to a turn; `scope` is what the adapter's tools may use of the call."""
        self._turn = question.turn
        self._speech = Coalescing(self._speak)
        self._asked = question
        inside = nullcontext() if scope is None else in_call(scope)
        self._stream = self._task(self._run(question, cause, context, inside), f"unpod-turn-{question.turn}")
        belongs(self._stream, self._session)

    def look(self) -> None:
        """Tell where in its dialog the adapter has come to on this turn."""
        if self._asked is not None and self._view is not None:
            node, before = self._view.nodes
            self._stands(AdapterStands(self._turn, before or self._node, node))

    def cut(self) -> None:
        """Hand on nothing more of the current reply, and cancel it at its provider."""
        self.look()
        stream, self._stream = self._stream, None
        self._asked = None
        self._speech.drop()
        if stream is not None and not stream.done():
            stream.cancel()
            self._later(self._closed(stream))

    def stop(self, *, mark: bool, heard: str | None, note: str) -> None:
        """Cut the reply; with `mark`, tell the adapter what was heard of it, as `AdapterView.tell_cut` does."""
        self.cut()
        if mark and self._view is not None:
            self._later(self._guarded("mark_interrupted", self._view.tell_cut(heard, note)))

    def mark_interrupted(self, heard: str | None) -> None:
        """Tell the adapter what the caller heard of its last reply."""
        if self._view is not None:
            self._later(self._guarded("mark_interrupted", self._view.mark_interrupted(heard)))

    def nudge(self, note: str) -> None:
        """Give the adapter a note for its next turn."""
        if self._view is not None:
            self._later(self._guarded("assist", self._view.assist(note)))

    def begin_tool(self, work: Coroutine[object, object, None], over: Callable[[], None]) -> None:
        """Run a tool of the adapter's, and call `over` when it is; a cut reply does not cancel it."""
        task = asyncio.get_running_loop().create_task(work, name="unpod-tool")
        belongs(task, self._session)
        self._tools.add(task)
        task.add_done_callback(self._tools.discard)
        task.add_done_callback(lambda _: over())
        task.add_done_callback(lambda _: work.close())  # one that is cancelled before it began is never awaited

    def report(self, piece: Piece, turn: int) -> None:
        """Hand on what an adapter has to report of a turn whose reply is over."""
        self._tell(_given(piece, turn), None)

    async def over(self, grace_s: float) -> None:
        """Return once all tools have returned, or after `grace_s`."""
        if self._tools:
            await asyncio.wait(tuple(self._tools), timeout=grace_s)

    async def close(self) -> None:
        """Cut the reply, cancel its tools, and wait for what is left to be done."""
        self.cut()
        await cancelled(tuple(self._tools))
        if self._chores is not None:
            await self._chores

    def release(self) -> None:
        """Let go of the adapter, and tell nobody anything any more."""
        self._view = self._stream = self._chores = self._asked = self.inside = None
        self._speech = Coalescing(_ignore_text)
        self._tell = self._stands = _ignore

    def _later(self, chore: Coroutine[object, object, None]) -> None:
        """Do one more thing after those that are under way; the next `ask` waits for all of them."""
        before = self._chores

        async def run() -> None:
            if before is not None:
                await before
            await chore

        self._chores = self._task(run(), "unpod-adapter-chores")

    def _task(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        inside = None if self.inside is None else self.inside.copy()
        return asyncio.get_running_loop().create_task(work, name=name, context=inside)

    async def _closed(self, stream: asyncio.Task[None]) -> None:
        done, _ = await asyncio.wait({stream}, timeout=CLOSE_TIMEOUT_S)
        if not done:
            logger.warning("the adapter's stream did not close within %.0f s after it was cancelled", CLOSE_TIMEOUT_S)

    async def _guarded(self, what: str, work: Coroutine[object, object, None]) -> None:
        try:
            await bounded(work, CLOSE_TIMEOUT_S, f"unpod-adapter-{what}")
        except BaseException as error:
            if not is_theirs(error):
                raise
            logger.error("the adapter's %s failed: %s", what, type(error).__name__, exc_info=error)  # noqa: TRY400

    async def _run(
        self, question: AskAdapter, cause: str, context: Mapping[str, object], inside: AbstractContextManager[None]
    ) -> None:
        view, turn = self._view, question.turn
        if self._chores is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self._chores)
        if view is None or self._asked is not question:
            return
        try:
            self._node, _ = view.nodes
            with entered(Scope(cause, "brain")), in_turn(self._session, turn), inside:
                stream = view.open(question.text, context=dict(context), language=question.language, said=question.said)
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        if self._asked is not question:
                            break
                        if isinstance(piece, str):
                            self._speech.add(piece)
                        else:
                            self._speech.flush()
                            self._tell(_given(piece, turn), None)
                        if self._asked is not question:
                            break
                complete = view.is_complete()
            self._flush(question)
        except BaseException as error:
            if not is_theirs(error):
                raise
            self._failed(question, error)
            return
        if self._asked is question:
            self.look()
            self._tell(AdapterFinished(turn, complete=complete), None)

    def _failed(self, question: AskAdapter, error: BaseException) -> None:
        self._flush(question)
        if self._asked is question:
            self.look()
            code = error.code if isinstance(error, AdapterError) else "adapter_error"
            self._tell(AdapterRaised(question.turn, code, f"{type(error).__name__}: {error}"[:500]), error)

    def _flush(self, question: AskAdapter) -> None:
        if self._asked is question:
            self._speech.flush()

    def _speak(self, text: str) -> None:
        self._tell(AdapterSpoke(self._turn, text), None)

    def _on_llm_call(self, **fields: object) -> None:
        self._speech.flush()
        self._tell(_given(LLMCall(**fields), self._turn), None)  # type: ignore[arg-type]


def _given(piece: Piece, turn: int) -> Given:
    """Return what a piece of an adapter's stream means."""
    if isinstance(piece, str):
        return AdapterSpoke(turn, piece)
    if isinstance(piece, ToolCall):
        return AdapterReported(
            ToolCalled(name=piece.name, call_id=piece.call_id, arguments=piece.arguments, turn_id=turn)
        )
    if isinstance(piece, ToolResult):
        return AdapterReported(ToolReturned(name=piece.name, call_id=piece.call_id, result=piece.result, turn_id=turn))
    return AdapterReported(LLMCalled(turn_id=turn, **{name: getattr(piece, name) for name in LLM_FIELDS}))


def _ignore(*_: object) -> None: ...


def _ignore_text(_: str) -> None: ...


LLM_FIELDS = tuple(name for name in LLMCalled.__struct_fields__ if name not in ("turn_id", "withheld"))
