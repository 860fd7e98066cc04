"""Two providers: the second answers when the first fails, or says nothing for two seconds.

pip install "unpod[openai,anthropic]"; export OPENAI_API_KEY=... ANTHROPIC_API_KEY=...
unpod dev examples/fallback_agent.py
"""

import os

from unpod import AgentRunner, CallContext
from unpod.adapters import AnthropicAdapter, FallbackAdapter, OpenAIAdapter

INSTRUCTIONS = "You answer the phone of a small pizzeria, in one or two short sentences."


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = FallbackAdapter(
        [
            OpenAIAdapter(os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), instructions=INSTRUCTIONS),
            AnthropicAdapter(os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"), instructions=INSTRUCTIONS),
        ],
        first_token_s=2.0,
    )
    await ctx.session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="fallback-agent")

if __name__ == "__main__":
    runner.start()
