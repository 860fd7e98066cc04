"""`unpod demo`, as a user runs it: a process that starts a whole system."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from tests.integration.pty_rig import Piped, Terminal, alive, descendants, environment, gone, left_in, run

from unpod_cli.demo.calls import CALLS, CARD_NUMBER

FAST = ("--speed", "6")


@pytest.fixture
def scratch(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a temporary folder that we can look into."""
    return environment(TMPDIR=str(tmp_path))


async def test_six_calls_a_log_metrics_and_stats(scratch: dict[str, str], tmp_path: Path) -> None:
    done = await run("demo", *FAST, env=scratch)
    assert done.status == 0, done.out + done.err
    assert done.err == ""
    assert "\x1b" not in done.out  # no colours and no cursor tricks without a terminal
    assert max(map(len, done.out.splitlines())) <= 100
    for call in CALLS:
        assert f"✓ {call.caller}" in done.out
        assert re.search(rf"{call.caller} +│ caller ", done.out)
    for shown in (
        "Ben  │ agent  Gladly. We have margherita",
        "✂ [unheard: ",
        "· cold transfer to human managers",
        "· recording paused (card number)",
        f"It is {CARD_NUMBER}. [not recorded]",
        "■ the caller hung up",
        "■ the agent ended the call: completed",
        "One call's event log",
        "evt.call.started",
        "[withheld]",
        "run.call.completed",
        "Its metrics",
        "(pizza-1)",
        "Its trace",
        "    invoke_agent pizzeria",
        "The runner's stats",
        "6 completed, 0 failed",
        "6 of 6 calls went as their scripts say",
        "What next",
    ):
        assert shown in done.out
    log = done.out.partition("One call's event log")[2].partition("Its metrics")[0]
    assert CARD_NUMBER not in log
    assert left_in(tmp_path) == []


async def test_for_programs(scratch: dict[str, str]) -> None:
    done = await run("demo", *FAST, "--json", env=scratch)
    told = json.loads(done.out)
    assert {call["caller"]: call["problems"] for call in told["calls"]} == {call.caller: [] for call in CALLS}
    assert (done.status, told["ok"], done.err) == (0, True, "")
    assert told["stats"]["completed_last_hour"] == 6
    ben = told["calls"][1]
    assert [line["cut"] for line in ben["said"] if line["who"] == "agent"] == [False, True, False]
    dora = json.dumps(told["calls"][3]["log"])
    assert CARD_NUMBER not in dora


async def test_colours_where_there_is_a_terminal_and_none_where_nobody_wants_them(scratch: dict[str, str]) -> None:
    async with await Terminal.start("demo", *FAST, env=scratch) as terminal:
        await terminal.until("the caller hung up")
        assert b"\x1b[3" in terminal.raw
        assert b"\x1b[2K" not in terminal.raw
    async with await Terminal.start("demo", *FAST, "--no-color", env=scratch) as terminal:
        await terminal.until("the caller hung up")
        assert not re.search(rb"\x1b\[(3|9)[0-7]", terminal.raw)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_quietly_and_nothing_is_left(
    scratch: dict[str, str], tmp_path: Path, number: int, status: int
) -> None:
    async with await Piped.start("demo", "--speed", "1", env=scratch) as demo:
        await demo.until("caller When are you open?")
        children = descendants(demo.process.pid)
        assert len(children) >= 3
        demo.process.send_signal(number)
        done = await demo.ended()
        assert done.status == status
        assert "Traceback" not in done.out
        assert "Error" not in done.out
        assert alive(children) == set()
        assert left_in(tmp_path) == []


async def test_no_child_outlives_a_demo_that_is_killed(scratch: dict[str, str]) -> None:
    async with await Piped.start("demo", "--speed", "1", env=scratch) as demo:
        await demo.until("caller When are you open?")
        children = descendants(demo.process.pid)
        demo.process.kill()
        await demo.process.wait()
        await gone(children)


async def test_a_call_that_goes_wrong_is_told_and_counts(scratch: dict[str, str]) -> None:
    """The bridge is killed in the middle: the demo says so, and fails."""
    async with await Piped.start("demo", "--speed", "1", env=scratch) as demo:
        shown = await demo.until("caller When are you open?")
        found = re.search(r"bridge +pid (\d+)", shown)
        assert found is not None
        os.kill(int(found[1]), signal.SIGKILL)
        done = await demo.ended()
        assert done.status == 1
        assert re.search(r"^Error: the bridge has ended \(status -9\)", done.out, re.MULTILINE)


async def test_a_reader_that_leaves_changes_nothing(scratch: dict[str, str]) -> None:
    async with await Piped.start("demo", *FAST, env=scratch) as demo:
        await demo.until("calls at once")
        demo.leave()
        async with asyncio.timeout(20):
            assert await demo.process.wait() == 0
