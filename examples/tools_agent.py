"""Tools: plain functions that the model may call. A takeover in the middle of an order does not order twice.

pip install "unpod[openai]"; export OPENAI_API_KEY=...; unpod dev examples/tools_agent.py
"""

import os
from typing import Annotated

from unpod import AgentRunner, CallContext
from unpod.adapters import OpenAIAdapter, Tool

INSTRUCTIONS = "You take orders for a pizzeria, on the phone. One or two short sentences. Say the order's number."
PRICES = {"margherita": 8.5, "funghi": 9.5}


def price_of(pizza: Annotated[str, "As on the menu, in lower case"]) -> float:
    """Say what a pizza costs, in euros."""
    if pizza not in PRICES:
        raise ValueError(f"we have {', '.join(PRICES)}")  # the model is told, and asks the caller
    return PRICES[pizza]


async def place_order(
    pizza: str, context: dict[str, object], idempotency_key: str, count: int = 1
) -> dict[str, object]:
    """Order a pizza, once the caller has confirmed it."""
    # `idempotency_key` is the same if this runs again because its process died inside it: pass it on to your shop.
    return {"number": idempotency_key[:4], "pizza": pizza, "count": count, "for": context["user_number"]}


async def handle_call(ctx: CallContext) -> None:
    session = ctx.session
    session.dialog_machine = OpenAIAdapter(
        os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
        instructions=INSTRUCTIONS,
        tools=[price_of, Tool(place_order, timeout_s=5)],
    )

    @session.on("tool_result")
    def on_tool_result(name: str, result: object, call_id: str) -> None:
        print(f"{name}: {result}")

    await session.say("Pizzeria Napoli, what can I get you?")
    await session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="tools-agent")

if __name__ == "__main__":
    runner.start()
