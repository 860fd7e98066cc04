"""A local server for the management clients: it records requests, and answers all with the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Server:
    """Records requests, and answers all with the same."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    drop: int = 0
    stall: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def says(self, body: object, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(body).encode()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.seen.append(
            Seen(
                request.method,
                request.raw_path.partition("?")[0],
                dict(request.query),
                request.headers,
                json.loads(raw) if raw else None,
            )
        )
        if self.drop:
            self.drop -= 1
            assert request.transport is not None
            request.transport.abort()
        if self.stall:
            await asyncio.Event().wait()
        return web.Response(status=self.status, body=self.body, content_type=self.content_type, headers=self.headers)


async def start(server: Server) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner
