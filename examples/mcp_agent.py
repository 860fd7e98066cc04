"""A model with the tools of an MCP server: a command here (mcp_server.py); a URL would be streamable HTTP.

pip install "unpod[openai,mcp]"; export OPENAI_API_KEY=...; unpod dev examples/mcp_agent.py
"""

import os
import sys
from pathlib import Path

from unpod import AgentRunner, CallContext
from unpod.adapters import MCPAdapter, MCPServer, OpenAIAdapter

SERVER = MCPServer(command=(sys.executable, str(Path(__file__).with_name("mcp_server.py"))), connect_s=20)


async def handle_call(ctx: CallContext) -> None:
    brain = OpenAIAdapter(os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), instructions="You sell pizza, on the phone.")
    ctx.session.dialog_machine = MCPAdapter(brain, SERVER)
    await ctx.session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="mcp-agent")

if __name__ == "__main__":
    runner.start()
