"""A real MCP server, made with the `mcp` package; run as a file it speaks stdio."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from mcp.server import MCPServer


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
    make().run("stdio")
