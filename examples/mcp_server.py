"""An MCP server with one tool, for mcp_agent.py."""

from mcp.server import MCPServer

server = MCPServer("pizzeria")


@server.tool()
def price_of(pizza: str) -> float:
    """Say what a pizza costs, in euros."""
    return {"margherita": 8.5, "funghi": 9.5}[pizza]


if __name__ == "__main__":
    server.run("stdio")
