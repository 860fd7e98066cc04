"""The Unpod SDK's documents 02 and 04, the runner's half: their calls in a program of ours, in real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from unpod import AgentRunner, AsyncClient, CallContext, TokenAuth
from unpod.adapters import EchoAdapter
from unpod_orchestrator import LocalOrchestrator

AGENT = "my-voice-agent"


async def test_a_runner_with_a_platform_token_and_both_kinds_of_call_end(tmp_path: Path) -> None:
    told: list[tuple[str, object]] = []
    over = asyncio.Event()

    async def entrypoint(ctx: CallContext) -> None:
        @ctx.session.on("call_end")
        async def on_session_end(reason: str) -> None:
            told.append(("session", reason))

        ctx.session.dialog_machine = EchoAdapter()
        await ctx.session.say("Hello!")
        await ctx.session.run()
        if ctx.data.get("broken"):
            raise ValueError("after the call")

    async with LocalOrchestrator(speed=50, platform_tokens={"tok"}, org_handle="acme") as orchestrator:
        runner = AgentRunner(
            entrypoint=entrypoint,
            agent_id=AGENT,
            max_concurrent_calls=2,
            platform_token="tok",
            org_handle="acme",
            base_url=orchestrator.url,
            data_dir=tmp_path / "data",
        )

        @runner.on("call_start")
        async def on_runner_start(ctx: CallContext) -> None:
            told.append(("start", ctx.call_id))

        @runner.on("call_end")
        async def on_runner_end(_: CallContext, final_state: str) -> None:
            told.append(("runner", final_state))
            over.set()

        running = asyncio.create_task(runner.run())
        try:
            await orchestrator.wait_for_worker(AGENT)
            for broken in (False, True):
                told.clear()
                call = await orchestrator.place_call(AGENT, metadata={"data": {"broken": broken}})
                await call.connected()
                await call.user("hi")
                assert "hi" in await call.reply()
                assert call.session_id in [each.session_id for each in runner.active_calls()]
                assert runner.stats().capacity == 2
                async with AsyncClient(
                    base_url=f"{orchestrator.http_url}/platform", auth=TokenAuth("tok", "acme"), nats_url=False
                ) as client:
                    assert call.session_id in [each.session_id for each in await client.sessions.list()]
                await call.hang_up()
                async with asyncio.timeout(15):
                    await over.wait()
                over.clear()
                assert told == [
                    ("start", call.session_id),
                    ("session", "hangup"),
                    ("runner", "failed" if broken else "ended"),
                ]
        finally:
            await runner.shutdown()
            await running
        assert (runner.stats().completed_last_hour, runner.stats().failed_last_hour) == (1, 1)
