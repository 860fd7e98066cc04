"""A real MCP server, made with the `mcp` package; as a file it speaks stdio, or HTTP at the port that it is given."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

CANCELLED = asyncio.Event()
"""A call of `waits` was cancelled."""


def make() -> MCPServer:
    server = MCPServer("pizzeria")

    @server.tool()
    def price_of(pizza: str) -> dict[str, object]:
        """Say what a pizza costs."""
        return {"pizza": pizza, "euros": 8 + len(pizza), "from": os.environ.get("PIZZERIA", "nowhere")}

    @server.tool()
    def fails() -> str:
        """Fail."""
        raise ValueError("the oven is cold")

    @server.tool()
    def pid() -> int:
        """Say which process this is."""
        return os.getpid()

    @server.tool()
    async def more(ctx: Context) -> bool:
        """Offer one tool more."""

        def extra() -> str:
            return "extra"

        server.add_tool(extra)
        await ctx.notify_tools_changed()
        return True

    @server.tool()
    async def waits() -> None:
        """Take for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            CANCELLED.set()

    return server


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """Serve streamable HTTP on a free port of this machine, and yield its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        make().streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1, lifespan="on"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await serving
        listener.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvicorn.run(make().streamable_http_app(), port=int(sys.argv[1]), log_level="warning")
    else:
        make().run("stdio")
