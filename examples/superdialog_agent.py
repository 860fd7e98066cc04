"""A superdialog flow as an adapter: assigned as it is. At its final node the call ends.

pip install "unpod[superdialog]"; export OPENAI_API_KEY=...; unpod dev examples/superdialog_agent.py
"""

import os

from superdialog import DialogMachine, Flow

from unpod import AgentRunner, CallContext

FLOW = Flow.model_validate(
    {
        "system_prompt": "You take orders for a pizzeria, on the phone.",
        "initial_node": "order",
        "nodes": [
            {
                "id": "order",
                "name": "Order",
                "instruction": "Ask which pizza the caller wants.",
                "edges": [
                    {
                        "id": "has_ordered",
                        "condition": "The caller has named a pizza",
                        "target_node_id": "bye",
                        "input_schema": {"type": "object", "properties": {"pizza": {"type": "string"}}},
                    }
                ],
            },
            {"id": "bye", "name": "Bye", "static_text": "It is ready in twenty minutes. Bye!", "is_final": True},
        ],
    }
)


async def handle_call(ctx: CallContext) -> None:
    machine = DialogMachine(
        FLOW, os.environ.get("OPENAI_MODEL", "openai/gpt-4o-mini")
    )  # adapter="llm": the other engine
    ctx.session.dialog_machine = machine
    await ctx.session.say("Pizzeria Napoli, which pizza would you like?")
    await ctx.session.run()
    print(f"ordered: {machine.state['slots'].get('pizza')}")


runner = AgentRunner(entrypoint=handle_call, agent_id="superdialog-agent")

if __name__ == "__main__":
    runner.start()
