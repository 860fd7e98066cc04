"""The agent on unpod that is measured; it runs in the fleet that the environment names.

::

    UNPOD_NATS_URL=... python -m tests.benchmarks.agent
"""

from __future__ import annotations

from tests.benchmarks.brain import Brain

from unpod import AgentRunner, CallContext


async def handle_call(ctx: CallContext) -> None:
    """Run one call."""
    ctx.session.dialog_machine = Brain()
    await ctx.session.run()


if __name__ == "__main__":
    AgentRunner(
        handle_call, "unpod", max_sessions=20_000, permits_per_minute=None, drain_timeout_s=2, silence_timeout_s=None
    ).start()
