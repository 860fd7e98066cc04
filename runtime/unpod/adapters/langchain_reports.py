"""What happens inside a Runnable, by LangChain's callbacks: model calls and tools."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler

from unpod.adapters.metering import Meter, MeteredUsage, Price
from unpod.adapters.pieces import Piece, ToolCall, ToolResult, plain


class Reports(AsyncCallbackHandler):
    """Collects the reports of one run."""

    def __init__(self, price: Price | None) -> None:
        self._price = price
        self._pieces: list[Piece] = []
        self._meters: dict[UUID, Meter] = {}
        self._calls: list[dict[str, object]] = []
        self._tools: dict[UUID, tuple[str, str]] = {}

    def take(self) -> list[Piece]:
        """Return what tools have done since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def calls(self) -> list[dict[str, object]]:
        """Return the figures of all model calls, those included that were broken off after their first words."""
        return [*self._calls, *(meter.fields() for meter in self._meters.values() if meter.answered)]

    # --- LangChain's names --------------------------------------------------------------------------------------------

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[Any]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> None:
        """Begin a model call."""
        chars = sum(len(str(message.content)) for batch in messages for message in batch)
        self._begin(run_id, chars, metadata or {})

    async def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> None:
        """Begin a call of a model that completes text."""
        self._begin(run_id, sum(map(len, prompts)), metadata or {})

    async def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401
        """See a piece."""
        if run_id in self._meters:
            self._meters[run_id].see(token if isinstance(token, str) else str(token or ""))

    async def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401
        """End a model call."""
        meter = self._meters.pop(run_id, None)
        if meter is None:
            return
        message = getattr(response.generations[0][0], "message", None) if response.generations else None
        meter.usage = _usage(getattr(message, "usage_metadata", None))
        named = (getattr(message, "response_metadata", None) or {}).get("model_name")
        meter.model = named if isinstance(named, str) and named else meter.model
        self._calls.append(meter.fields())

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401
        """Keep the figures of a call that failed after its first words, of no other."""
        meter = self._meters.pop(run_id, None)
        if meter is not None and meter.answered:
            self._calls.append(meter.fields())

    async def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> None:
        """Report that a tool is used."""
        name = str((serialized or {}).get("name") or kwargs.get("name") or "tool")
        call_id = str(kwargs.get("tool_call_id") or run_id)
        self._tools[run_id] = name, call_id
        self._pieces.append(ToolCall(name, plain(inputs if inputs is not None else input_str), call_id))

    async def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401
        """Report what a tool has returned."""
        name, call_id = self._tools.pop(run_id, ("tool", str(run_id)))
        self._pieces.append(ToolResult(name, plain(getattr(output, "content", output)), call_id))

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ANN401
        """Report that a tool has failed."""
        name, call_id = self._tools.pop(run_id, ("tool", str(run_id)))
        self._pieces.append(ToolResult(name, {"error": type(error).__name__}, call_id))

    def _begin(self, run_id: UUID, chars: int, metadata: dict[str, Any]) -> None:
        self._meters[run_id] = Meter(
            model=str(metadata.get("ls_model_name") or "unknown"),
            provider=str(metadata.get("ls_provider") or "langchain"),
            prompt_chars=chars,
            price=self._price,
        )


def _usage(counted: Any) -> MeteredUsage | None:  # noqa: ANN401 - a dict of LangChain's, or nothing
    if not counted:
        return None
    details = counted.get("input_token_details") or {}
    return MeteredUsage(
        tokens_in=counted.get("input_tokens") or 0,
        tokens_out=counted.get("output_tokens") or 0,
        cached=details.get("cache_read") or 0,
        cache_write=details.get("cache_creation") or 0,
    )
