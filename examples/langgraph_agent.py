"""A LangGraph graph as an adapter; any LangChain Runnable works the same way.

This one needs no key: put a chat model (`await model.ainvoke(state["messages"])`) into a node, and it streams.

pip install "unpod[langgraph]"; unpod dev examples/langgraph_agent.py
"""

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from unpod import AgentRunner, CallContext
from unpod.adapters import LangChainAdapter


async def menu(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [AIMessage("We have margherita and funghi.")]}


async def hours(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [AIMessage("We are open from five to eleven.")]}


def triage(state: MessagesState) -> str:
    return "hours" if "open" in str(state["messages"][-1].content) else "menu"


graph = StateGraph(MessagesState)
graph.add_node("menu", menu)
graph.add_node("hours", hours)
graph.add_conditional_edges(START, triage, ["menu", "hours"])
graph.add_edge("menu", END)
graph.add_edge("hours", END)
compiled = graph.compile()  # no checkpointer: the call's log is one


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = LangChainAdapter(compiled, instructions="You answer the phone of a pizzeria.")
    await ctx.session.run()


runner = AgentRunner(entrypoint=handle_call, agent_id="langgraph-agent")

if __name__ == "__main__":
    runner.start()
