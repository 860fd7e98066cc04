"""The wire of OpenAI's chat completions, as superdialog's machines use it: what a model says, in the engine's form."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from typing import Any, Literal

import litellm
from tests.providers.openai_wire import OpenAIWire
from tests.providers.served import Json

from unpod.adapters import ToolCall


async def let_go() -> None:
    """Close what the engines leave open: a client for each model call of one, and litellm's for all of the other."""
    cache: Any = getattr(litellm, "in_memory_llm_clients_cache")  # noqa: B009 - not exported, and all there is
    for client in list(cache.cache_dict.values()):
        close = getattr(client, "aclose", None) or getattr(client, "close", None)
        closed = None if close is None else close()
        if inspect.isawaitable(closed):
            await closed
    cache.flush_cache()
    gc.collect()  # a client that nobody holds begins to close itself
    this = asyncio.current_task()
    closing = [task for task in asyncio.all_tasks() if task is not this and "aclose" in repr(task.get_coro())]
    await asyncio.gather(*closing, return_exceptions=True)
    await asyncio.sleep(0)  # transports that are closed say so in the next tick


class MachineWire(OpenAIWire):
    """Text is what is said while the machine stays; a `ToolCall` names the edge that it takes, with its slots."""

    def __init__(self, engine: Literal["toolcall", "llm"]) -> None:
        super().__init__()
        self.engine = engine

    def whole(self, said: list[str | ToolCall]) -> Json:
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny-2025",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.text(said)}}
            ],
            "usage": self.usage,
        }

    def streamed(self, said: list[str | ToolCall]) -> list[bytes]:
        edges = [piece for piece in said if isinstance(piece, ToolCall)]
        stay = ToolCall("__stay_on_node__", {"brief_response": self.text(said)}, "c1")
        return [*self.head(), *self.piece(edges[0] if edges else stay, 0), *self.end(tools=True)]

    def text(self, said: list[str | ToolCall]) -> str:
        spoken = "".join(piece for piece in said if isinstance(piece, str))
        if self.engine == "toolcall":
            return spoken
        edges = [piece for piece in said if isinstance(piece, ToolCall)]
        found = {
            "criteria_met": {},
            "all_required_met": True,
            "recommended_edge_id": edges[0].name if edges else None,
            "extracted_slots": edges[0].arguments if edges else {},
            "response": spoken,
        }
        return json.dumps(found)
