"""An adapter at Anthropic.

pip install "unpod[anthropic]"; export ANTHROPIC_API_KEY=...; unpod dev examples/anthropic_agent.py
"""

import os

from unpod import AgentRunner, CallContext
from unpod.adapters import AnthropicAdapter

INSTRUCTIONS = (
    "You answer the phone of a small pizzeria. You are heard, not read: one or two short sentences, no markup."
)


def opening_hours(day: str) -> str:
    """Say when the pizzeria is open on a day of the week."""
    return "closed" if day.lower() == "monday" else "17:00 to 23:00"


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = AnthropicAdapter(
        os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"),
        instructions=ctx.instructions or INSTRUCTIONS,
        tools=[opening_hours],
    )
    await ctx.session.say("Pizzeria Napoli, good evening.")
    await ctx.session.run()
    print(f"{ctx.session.metrics.live().cost.llm:.4f} dollars")


runner = AgentRunner(entrypoint=handle_call, agent_id="anthropic-agent")

if __name__ == "__main__":
    runner.start()
