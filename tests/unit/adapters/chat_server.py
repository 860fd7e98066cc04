"""A local endpoint that speaks the wire of chat completions: server-sent events over HTTP, by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]

USAGE: Json = {
    "prompt_tokens": 21,
    "completion_tokens": 5,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 8},
}


@dataclass
class ChatServer:
    """What it shall do with the next requests, and what it has seen."""

    pieces: list[str] = field(default_factory=lambda: ["Hel", "lo", " there"])
    usage: Json | None = field(default_factory=lambda: dict(USAGE))
    status: int = 200
    error: Json = field(default_factory=dict)
    hang_up_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    raw: bytes | None = None
    requests: list[Json] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up_on: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.keys.append(request.headers.get("Authorization", ""))
        if self.status != 200:
            return web.json_response({"error": self.error}, status=self.status)
        if self.raw is not None:
            return web.Response(body=self.raw, content_type="text/event-stream")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for sent in range(len(self.pieces) + 1):
            if sent == self.hang_up_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if sent == self.error_after:
                await self._send(
                    response, {"error": {"message": "overloaded: your prompt was ...", "code": "overloaded"}}
                )
                return response
            if sent == self.stall_after:
                await self._stall()
            if sent < len(self.pieces):
                await self._send(response, _chunk({"content": self.pieces[sent]}))
        await self._send(response, _chunk({}, finish_reason="stop"))
        if self.usage is not None:
            await self._send(response, {**_chunk({}), "choices": [], "usage": self.usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stall(self) -> None:
        self.stalled.set()
        try:
            await asyncio.Event().wait()
        finally:  # aiohttp cancels the handler when the client closes its connection
            self.hung_up_on.set()

    async def _send(self, response: web.StreamResponse, event: Json) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def _chunk(delta: Json, finish_reason: str | None = None) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny-2025",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


@asynccontextmanager
async def chat_server() -> AsyncIterator[ChatServer]:
    """Run a server on a free port of this machine."""
    server = ChatServer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        await runner.cleanup()
