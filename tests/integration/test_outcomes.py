"""What becomes of commands, as a real bridge and a speech worker say it."""

from __future__ import annotations

from pathlib import Path

from tests.integration.seed_stage import open_stage

from unpod import CallContext


async def test_an_agent_learns_what_became_of_what_it_asked_for(tmp_path: Path) -> None:
    learnt: dict[str, str] = {}

    async def entrypoint(ctx: CallContext) -> str:
        session = ctx.session
        handles = {
            "say": await session.say("hello"),
            "filler": await session.set_filler("Hm."),
            "dispatch": await session.dispatch("helper", metadata={"topic": "billing"}),
            "add": await session.add_participant("sip", config={"number": "+15550100"}),
            "remove": await session.remove_participant("p-1"),
        }
        for name, handle in handles.items():
            learnt[name] = (await handle.outcome(timeout_s=20)).status
        ending = await session.end("no_response")
        reason = await session.run()
        learnt["end"] = (await ending.outcome(timeout_s=20)).status
        return reason

    async with open_stage(tmp_path / "data") as stage:
        played = await stage.play(entrypoint)
        assert await played.returned() == "no_response"
        assert learnt == {
            "say": "written",
            "filler": "written",
            "dispatch": "delivered",
            "add": "delivered",
            "remove": "delivered",
            "end": "delivered",
        }
        assert [frame["agent_id"] for frame in played.verbs("agent.dispatch")] == ["helper"]
        assert [frame["participant_type"] for frame in played.verbs("agent.add_participant")] == ["sip"]
        assert [frame["participant_id"] for frame in played.verbs("agent.remove_participant")] == ["p-1"]
        assert played.call.violations == []
