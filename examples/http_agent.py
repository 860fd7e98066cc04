"""A service of your own behind HTTP: it gets one POST per turn, and streams its answer.

export BRAIN_URL=https://brain.example/turn BRAIN_TOKEN=...; unpod dev examples/http_agent.py
"""

import os

from unpod import AgentRunner, CallContext
from unpod.adapters import HTTPAdapter

URL = os.environ.get("BRAIN_URL", "http://127.0.0.1:8000/turn")
TOKEN = os.environ.get("BRAIN_TOKEN", "")


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = HTTPAdapter(
        URL,
        headers={"Authorization": f"Bearer {TOKEN}"} if TOKEN else None,
        history=True,  # the body has the conversation, so that the server need not keep any
    )
    await ctx.session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="http-agent")

if __name__ == "__main__":
    runner.start()
