"""An adapter at OpenAI, or at any server that speaks its chat completions (set OPENAI_BASE_URL).

pip install "unpod[openai]"; export OPENAI_API_KEY=...; unpod dev examples/openai_agent.py
"""

import os

from unpod import AgentRunner, CallContext
from unpod.adapters import OpenAIAdapter

if not os.environ.get("OPENAI_API_KEY"):
    raise SystemExit("OPENAI_API_KEY is not set: export your key (any text, for a server without keys)")

INSTRUCTIONS = """You answer the phone of a small pizzeria. You are heard, not read: one or two short sentences,
no lists, no markup. Ask one thing at a time. When the caller says goodbye, say goodbye."""


async def handle_call(ctx: CallContext) -> None:
    session = ctx.session
    session.dialog_machine = OpenAIAdapter(
        os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), instructions=ctx.instructions or INSTRUCTIONS
    )

    @session.on("user_turn")
    async def on_user_turn(text: str) -> None:
        session.data["asked"] = False

    @session.on("silence")
    async def on_silence(seconds: float) -> None:
        if session.data.get("asked"):
            await session.end(reason="no_response")
        else:
            session.data["asked"] = True
            await session.say("Are you still there?")

    @session.on("llm_call")
    def on_llm_call(**call: object) -> None:
        print(f"{call['model']}: first words after {call['ttft_ms']} ms, {call['tokens_out']} tokens")

    await session.say("Pizzeria Napoli, good evening. What can I get you?")
    reason = await session.run()
    print(f"{reason} after {session.metrics.live().turns} turns")


runner = AgentRunner(entrypoint=handle_call, agent_id="openai-agent")

if __name__ == "__main__":
    runner.start()
