"""Runners that die in a call, as real processes, over a real nats-server: the call goes on in another.

What is done to runners under load, and what must hold of each call then, stands in `tests/faults/rows.py` (rows 1 to
10, 38 and 43); here is only what those do not look at.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.integration.talk import SLOW_WORDS, a_call

from unpod.core import events as ev

pytestmark = pytest.mark.faults


async def test_of_a_death_that_nobody_tells_the_bridge(tmp_path: Path) -> None:
    async with a_call(tmp_path, hears_deaths=False) as talk:
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
