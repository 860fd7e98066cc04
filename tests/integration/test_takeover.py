"""Runners that die in a call, as real processes, over a real nats-server: the call goes on in another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.integration.talk import SLOW_WORDS, a_call

from unpod.core import commands as cmd
from unpod.core import events as ev

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("hears_deaths", [True, False])
async def test_between_turns(tmp_path: Path, hears_deaths: bool) -> None:  # noqa: FBT001
    async with a_call(tmp_path, hears_deaths=hears_deaths) as talk:
        await talk.kill()
        await talk.turns()
        bodies = await talk.over()
        assert sum(isinstance(body, ev.OwnerChanged) for body in bodies) == 2
        waits = [body.waited_ms for body in bodies if isinstance(body, ev.OwnerAppointed)]
        assert len(waits) == 2
        assert all(wait is not None and 0 < wait < 30_000 for wait in waits)
        replays = [body for body in bodies if isinstance(body, ev.ReplayCompleted)]
        assert [0 < replay.duration_ms < 30_000 and replay.records > 10 for replay in replays] == [True]


async def test_a_long_call_among_others_is_read_from_where_it_stands(tmp_path: Path) -> None:
    async with a_call(tmp_path, runner_env={"UNPOD_LOG_LEVEL": "DEBUG"}) as talk:
        others = talk.stack.log.writer()
        for number in range(300):
            talk.call.send_metric()
            for other in range(5):
                others.put(f"unpod.call.agent.other-{other}.evt.x", b"{}", {"Nats-Msg-Id": f"{other}-{number}"})
        await talk.turns()
        await others.flush()
        await others.close()
        await talk.kill()
        await talk.turns()
        owner = await talk.owner()
        [read] = re.findall(r"(\d+) records are read from their places", owner.text)
        assert int(read) > 300
        assert "is searched" not in owner.text
        bodies = await talk.over()
        assert sum(isinstance(body, ev.CallMetric) for body in bodies) == 300 + talk.turn


async def test_in_the_middle_of_a_reply(tmp_path: Path) -> None:
    async with a_call(tmp_path, runner_env=SLOW_WORDS) as talk:
        question = await talk.ask("say")
        await talk.speaking()
        await talk.kill()
        await talk.answered(question)
        await talk.turns()
        bodies = await talk.over()
        change = [body for body in bodies if isinstance(body, ev.OwnerChanged)][-1]
        assert change.turn == 2
        assert 0 < change.chars < len(question.answer())
        assert change.text == question.answer()[: change.chars]


async def test_inside_a_hook(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk:
        question = await talk.ask("stall", "say", "step")
        await talk.stack.noted("stall", 1)
        await talk.kill()
        await talk.answered(question)
        await talk.turns()
        await talk.over()
        assert len(talk.stack.notes("charge")) == 1


async def test_again_and_again(tmp_path: Path) -> None:
    async with a_call(tmp_path, runners=4, runner_env=SLOW_WORDS) as talk:
        question = await talk.ask("say")
        for count in (2, 4):
            await talk.speaking()
            await talk.moved(await talk.kill())
            assert talk.ends == 1, count
        await talk.answered(question)
        await talk.kill()
        await talk.turns()
        bodies = await talk.over()
        assert [body.takeover for body in bodies if isinstance(body, ev.OwnerChanged)] == [0, 1, 2, 3]


async def test_one_that_was_stopped_finds_that_it_owns_nothing(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk:
        victim = await talk.owner()
        victim.freeze()
        question = await talk.ask("say")
        await talk.moved(victim)
        await talk.answered(question)
        victim.thaw()
        await victim.said("another runner owns it now")
        await talk.turns()
        await talk.over()


async def test_the_only_runner(tmp_path: Path) -> None:
    async with a_call(tmp_path, runners=1) as talk:
        await talk.kill()
        question = await talk.ask("say")
        fresh = await talk.stack.start_runner()
        await fresh.said("ready: agent")
        await talk.answered(question)
        await talk.turns()
        await talk.over()


async def test_a_text_that_kills_its_process_is_passed_over(tmp_path: Path) -> None:
    async with a_call(tmp_path, runners=3) as talk:
        await talk.ask("kill")
        assert await talk.call.reply() == ""
        await talk.deaths(2)
        await talk.turns(passed_over=1)
        bodies = await talk.over()
        assert sum(isinstance(body, ev.HookPoisoned) for body in bodies) == 1
        ends = [body.reason for body in bodies if isinstance(body, cmd.EndReply)]
        assert ends == ["done", "failed", "done"]


async def test_in_its_cleanup(tmp_path: Path) -> None:
    async with a_call(tmp_path, runners=5) as talk:
        await talk.ask("doom")
        await talk.call.reply()
        await talk.call.hang_up()
        await talk.stack.bridges[0].said("its cleanup is given up")
        await talk.deaths(4)
        assert len(talk.stack.notes("over")) == 4


async def test_one_that_drains_lets_go_between_turns(tmp_path: Path) -> None:
    async with a_call(tmp_path, runner_env={**SLOW_WORDS, "UNPOD_FAULTS_DRAIN_S": "0.1"}) as talk:
        question = await talk.ask("say")
        await talk.speaking()
        old = await talk.owner()
        old.terminate()
        await talk.answered(question)
        await talk.moved(old)
        assert await old.exited() == 0
        talk.dead.append(old)
        await talk.turns()
        bodies = await talk.over()
        change = [body for body in bodies if isinstance(body, ev.OwnerChanged)][-1]
        assert change.text == question.answer()
