"""The view of a dialog adapter that a session's driver uses, the same for all adapters.

Who stops an adapter: the driver runs each reply in a task of its own, `async with aclosing(view.open(...)) as pieces`,
and cancels that task. Waiting in the adapter, the cancellation is raised right there; waiting elsewhere, `aclosing`
closes the iterator. Either way `open` closes the adapter's own iterator before it returns, so that by the time the task
is over the adapter's `finally` has run and its provider is told.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import asdict

from unpod.adapters.characters import Characters
from unpod.adapters.memory import HEARD_UNKNOWN
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult, llm_call, storable
from unpod.adapters.protocol import DialogAdapter, accepted_options, problem_with
from unpod.adapters.wrapping import wrapped
from unpod.errors import AdapterError
from unpod.user_code import is_theirs

HEARD: Final = "The caller cut in on your last reply; of it they heard: {heard}"
HEARD_NOTHING: Final = "The caller cut in on your last reply before they heard anything of it."

logger = logging.getLogger("unpod.adapters")


def check_adapter(found: object) -> AdapterView:
    """Return the view of a dialog adapter, or of what `wrapping` knows how to make one of.

    Raises:
        TypeError: it is none; the text says what is missing and how to mend it.
    """
    adapter = wrapped(found)
    problem = problem_with(adapter)
    if problem is not None or not isinstance(adapter, DialogAdapter):
        raise TypeError(f"dialog_machine: {problem}")
    return AdapterView(adapter)


class AdapterView:
    """An adapter as the driver sees it, whatever of the optional parts it has; make it with `check_adapter`."""

    def __init__(self, adapter: DialogAdapter) -> None:
        self.adapter = adapter
        self.name = type(adapter).__name__
        self._options = accepted_options(adapter.stream)
        goes_on: Callable[..., object] | None = getattr(adapter, "continue_reply", None)
        self._options_to_go_on = frozenset[str]() if goes_on is None else accepted_options(goes_on)
        self._callback_registered = False

    @property
    def can_continue(self) -> bool:
        """Whether the adapter can go on in the middle of a reply that another process had begun."""
        return callable(getattr(self.adapter, "continue_reply", None))

    async def open(
        self, text: str, *, context: Mapping[str, object], language: str | None, said: str = ""
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply to `text`, never an empty piece; close it (module docstring) to stop the adapter.

        With `said`, which needs `can_continue`, only what comes after it.

        Raises:
            AdapterError: the adapter's stream is no stream, or yields what is no piece.
            Exception: whatever the adapter raises, as it is.
        """
        source = await self._start(text, {"context": dict(context), "language": language}, said)
        iterator = aiter(source)
        characters = Characters()
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task else 0
        try:
            async for raw in iterator:
                if task and task.cancelling() > cancelled_before:
                    break
                piece = self._piece(raw)
                if isinstance(piece, str):
                    piece = characters.take(piece)
                if piece != "":
                    yield piece
            if task and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError  # the adapter has swallowed it, and would have talked on
            if rest := characters.end():
                yield rest
        finally:
            await self._close(iterator)
            if iterator is not source:
                await self._close(source)

    async def mark_interrupted(self, heard: str | None) -> None:
        """Tell the adapter what the caller heard of the last reply, None where nobody knows."""
        await self._call("mark_interrupted", heard)

    async def tell_cut(self, heard: str | None, note: str = HEARD_UNKNOWN) -> None:
        """Tell the adapter that its reply was cut in on; one without `mark_interrupted` gets a note for its next turn.

        That is `note` where nobody knows what the caller heard.
        """
        if callable(getattr(self.adapter, "mark_interrupted", None)):
            await self.mark_interrupted(heard)
        elif heard is None:
            await self.assist(note)
        else:
            await self.assist(HEARD.format(heard=heard) if heard else HEARD_NOTHING)

    async def assist(self, note: str) -> None:
        """Give the adapter a note for its next turn."""
        await self._call("assist", note)

    def is_complete(self) -> bool:
        """Return whether the adapter has said the last that it has to say on this call."""
        found: object = getattr(self.adapter, "is_complete", False)
        answer = found() if callable(found) else found
        if inspect.isawaitable(answer):
            _dispose(answer)
            raise AdapterError(f"{self.name}.is_complete returned an awaitable; it must not be async")
        return bool(answer)

    @property
    def nodes(self) -> tuple[str | None, str | None]:
        """Where the dialog stands, and where it came from, as far as the adapter's `state` says so."""
        try:
            state: object = getattr(self.adapter, "state", None)
            found = (state.get("node_id"), state.get("from_node")) if isinstance(state, Mapping) else ()
        except Exception as error:  # noqa: BLE001 - a reply does not fail for what is only shown
            logger.debug("%s.state cannot be read: %s", self.name, type(error).__name__)
            found = ()
        node, before = [node if isinstance(node, str) and node else None for node in found] or (None, None)
        return node, before

    @property
    def has_restore(self) -> bool:
        """Whether the adapter can take up a conversation; if not, tell it in one `assist`."""
        return callable(getattr(self.adapter, "restore", None))

    async def restore(self, history: Sequence[ChatMessage]) -> None:
        """Give the adapter the conversation so far; without effect where it has no `restore`."""
        await self._call("restore", list(history))

    def register_llm_callback(self, callback: Callable[..., object]) -> None:
        """Let the adapter report its model calls as `callback(**fields)`, fields as in `LLMCall`.

        An adapter may report an object with these attributes in place of them, and await what it gets back. A second
        registration is ignored. A report that does not fit is logged and dropped: it must not fail the adapter.
        """
        register: Any = getattr(self.adapter, "register_llm_callback", None)
        if register is None or self._callback_registered:
            return
        self._callback_registered = True
        name = self.name  # the adapter keeps `report`, which must not keep this view alive

        def report(data: object = None, /, **fields: object) -> _Reported:
            given = {field: getattr(data, field, None) for field in LLMCall.__struct_fields__} | fields
            try:
                call = llm_call(given)
            except AdapterError as error:
                logger.warning("%s reported a model call that does not fit: %s", name, error)
            else:
                callback(**asdict(call))
            return _REPORTED

        register(report)

    async def _start(self, text: str, offered: dict[str, object], said: str) -> AsyncIterable[object]:
        goes_on: Callable[..., object] | None = getattr(self.adapter, "continue_reply", None) if said else None
        started: object
        if goes_on is not None:
            started = goes_on(text, said, **{name: offered[name] for name in self._options_to_go_on})
        else:
            started = self.adapter.stream(text, **{name: offered[name] for name in self._options})
        if inspect.isawaitable(started):
            started = await started
        if isinstance(started, AsyncIterable):
            return started
        _dispose(started)
        raise AdapterError(
            f"{self.name}.stream() returned {_a(started)}, no async iterator; write it as `async def` with `yield`",
            code="bad_stream",
        )

    async def _close(self, source: object) -> None:
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        if close is None:
            return
        try:
            answer: object = close()
            if inspect.isawaitable(answer):
                await answer
        except BaseException as error:  # what ended the reply is what counts, and it is on its way already
            if not is_theirs(error):
                raise
            logger.warning("%s: closing its stream failed: %s", self.name, type(error).__name__)

    def _piece(self, raw: object) -> Piece:
        if isinstance(raw, ToolCall | ToolResult | LLMCall):
            return storable(raw)
        text = raw if isinstance(raw, str) else getattr(raw, "text", _NOTHING)
        if text is None:
            return ""  # a chunk that carries something else than text
        if isinstance(text, str):
            return str(text)
        raise AdapterError(
            f"{self.name}.stream() yielded {_a(raw)}; a piece is str, ToolCall, ToolResult, LLMCall or has a `.text`",
            code="bad_piece",
        )

    async def _call(self, method: str, argument: object) -> None:
        found: Any = getattr(self.adapter, method, None)
        if found is None:
            return
        answer: object = found(argument)
        if inspect.isawaitable(answer):
            await answer


class _Reported:
    """What a report is answered with: it can be awaited, and need not be."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_REPORTED = _Reported()
_NOTHING = object()


def _a(value: object) -> str:
    return f"an object of type {type(value).__name__}"


def _dispose(value: object) -> None:
    """Close a coroutine or generator that will not run, so that Python does not warn of it."""
    if inspect.iscoroutine(value) or inspect.isgenerator(value):
        value.close()
