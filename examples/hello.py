from unpod import AgentRunner, CallContext
from unpod.adapters import EchoAdapter


async def handle_call(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()  # your adapter goes here
    await ctx.session.say("Hi, I'm Alex. How can I help?")
    await ctx.session.run()  # until the call is over
    print(f"{ctx.session.metrics.live().turns} turns")


runner = AgentRunner(entrypoint=handle_call, agent_id="my-agent")

if __name__ == "__main__":
    runner.start()
