"""The smallest adapter of your own: an async generator function. Put your model where the sentence is made.

unpod dev examples/generator_agent.py
"""

from collections.abc import AsyncIterator

from unpod import AgentRunner, CallContext
from unpod.adapters import ChatMessage


async def brain(text: str, *, language: str | None, history: list[ChatMessage]) -> AsyncIterator[str]:
    asked = sum(message["role"] == "user" for message in history)
    yield "Noted. " if language is None else f"Noted, in {language}. "
    yield f"That was your text number {asked + 1}: {text}"


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = brain
    await ctx.session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="generator-agent")

if __name__ == "__main__":
    runner.start()
