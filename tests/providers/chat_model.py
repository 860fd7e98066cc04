"""A chat model of LangChain's that says what a `FakeModel` says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from unpod.adapters import ToolCall
from unpod.testing import FakeModel


class PlayedChatModel(BaseChatModel):
    played: Any
    counts: bool = True

    @property
    def model(self) -> FakeModel:
        assert isinstance(self.played, FakeModel)
        return self.played

    @property
    def _llm_type(self) -> str:
        return "played"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:  # noqa: ANN401 - LangChain's
        return {"ls_provider": "played", "ls_model_name": "tiny", "ls_model_type": "chat"}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - LangChain's
        return self

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:  # noqa: ANN401 - LangChain's
        raise NotImplementedError

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,  # noqa: ANN401 - LangChain's
        **kwargs: Any,  # noqa: ANN401 - LangChain's
    ) -> AsyncIterator[ChatGenerationChunk]:
        prompt = [{"role": message.type, "content": message.content} for message in messages]
        async with aclosing(self.model.answer(prompt)) as pieces:
            async for piece in pieces:
                yield ChatGenerationChunk(message=_chunk(piece))
        usage = UsageMetadata(input_tokens=21, output_tokens=5, total_tokens=26)
        last = AIMessageChunk(content="", usage_metadata=usage if self.counts else None, chunk_position="last")
        yield ChatGenerationChunk(message=last)


def _chunk(piece: str | ToolCall) -> AIMessageChunk:
    if isinstance(piece, str):
        return AIMessageChunk(content=piece)
    assert isinstance(piece.arguments, dict)
    return AIMessageChunk(content="", tool_calls=[{"name": piece.name, "args": piece.arguments, "id": piece.call_id}])
