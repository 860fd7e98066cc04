"""The demo's agent: takes pizza orders. Its adapter is a script that streams, so it needs no key and no network.

Talk to it yourself: `unpod dev` with the path of this file.
"""

from __future__ import annotations

from unpod import AgentRunner, CallContext
from unpod.adapters import LLMCall, ScriptedAdapter, ToolCall, ToolResult
from unpod.adapters.scripted import Part, Pause, Rule

MENU = "margherita, marinara, funghi, quattro stagioni, diavola, capricciosa and, on Fridays, the calzone of the house"


def reply(*parts: Part) -> list[Part]:
    """Return a reply, and what a model would report of its making."""
    return [*parts, LLMCall(model="pizza-1", provider="script", tokens_in=310, tokens_out=24, cost=0.0002)]


def order(text: str) -> list[Part]:
    """Ask the oven, and answer; a real adapter reports its tools in the same way."""
    pizza = next((word for word in ("funghi", "diavola") if word in text.lower()), "margherita")
    return reply(
        f"One {pizza}, let me look at the oven. ",
        ToolCall("oven_queue", {"pizza": pizza}, call_id="oven-1"),
        Pause(0.2),
        ToolResult("oven_queue", {"minutes": 20}, call_id="oven-1"),
        "It will be ready in twenty minutes. Anything else?",
    )


def pay(text: str) -> list[Part]:
    """Charge the card."""
    return reply(
        ToolCall("charge_card", {"card": text}, call_id="charge-1"),
        ToolResult("charge_card", {"paid": True}, call_id="charge-1"),
        "Thank you, that is paid. The recording goes on.",
    )


def make_brain() -> ScriptedAdapter:
    """Return the adapter of one call."""
    return ScriptedAdapter(
        [
            Rule("that's all", reply("Thank you for your order, and goodbye!"), closing=True),
            Rule("open", reply("We are open from noon until eleven, every day but Monday.")),
            Rule("deliver", reply("Yes, within three kilometres. It takes about thirty minutes.")),
            Rule("menu", reply(f"Gladly. We have {MENU}. All of them are baked in a wood oven.")),
            Rule("manager", reply("I am sorry to hear that. I will connect you with the manager now.")),
            Rule("by card", reply("Sure. The recording is paused now. Please read me the number of your card.")),
            Rule(r"\d{4}", pay),
            Rule("funghi|diavola|margherita", order),
            Rule("bye|thank", reply("Thank you for calling, goodbye.")),
        ],
        fallback=reply("Sorry, I did not get that. Would you like to hear the menu?"),
        piece_delay_s=0.02,
    )


async def handle_call(ctx: CallContext) -> None:
    """Run one call."""
    session = ctx.session
    session.dialog_machine = make_brain()

    @session.on("user_turn")
    async def on_user_turn(text: str) -> None:
        if "by card" in text:
            await session.recording.pause(reason="card number")

    @session.on("turn_complete")
    async def on_turn_complete(**turn: object) -> None:
        if "manager" in str(turn["user_text"]):
            await session.transfer_to_human(queue="managers")
        elif session.recording.paused and "paid" in str(turn["agent_text"]):
            await session.recording.resume()

    await session.say("Pizzeria Napoli, good evening. What can I do for you?")
    await session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="pizzeria")

if __name__ == "__main__":
    runner.start()
