"""The code of both pages that users of the SDK have read runs as it stands there, against the whole system.

Here: that it is theirs, and what they have of runners and of control from outside. `test_seed_session.py` has the rest.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.seed_stage import (
    AGENT,
    AGENT_RUNNER,
    BOTH,
    KEYS,
    LONG,
    PAGES,
    SESSION,
    Stage,
    block,
    brain,
    first,
    open_stage,
    page_name,
    snippet,
)
from tests.pages import blocks, run, table

from unpod import CallContext, RunnerStats
from unpod_orchestrator import CallRefused, LocalCall, LocalOrchestrator

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path_factory.mktemp("seed") / "data") as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(system: Stage) -> AsyncIterator[Stage]:
    yield system
    await system.clear()


# ---------------------------------------------------------------------------------------- the code is that of the pages


def squashed(text: str) -> str:
    """Return a text without its white space, which the first page has lost."""
    return "".join(text.split())


@pytest.mark.parametrize("page", BOTH, ids=page_name)
async def test_the_code_is_the_pages_own(page: Path) -> None:
    rest = squashed((PAGES / f"{page.stem}.txt").read_text())
    for code in sorted((squashed(found.text) for found in blocks(page, "python")), key=len, reverse=True):
        assert code in rest
        rest = rest.replace(code, "")
    left = re.findall(r"await|import|asyncdef|@ctx|runner\.", rest)
    assert left == [], "code of the page that no snippet has"


async def test_the_tables_are_the_pages_own() -> None:
    page = squashed((PAGES / "session.txt").read_text())
    for heading in ("End", "Metrics", "Reference"):
        for row in table(SESSION, heading):
            assert squashed("".join(cell.strip("`") for cell in row)) in page


# ------------------------------------------------------------------------------------------------------ the first agent


@pytest.fixture
def scripts() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start_first_agent(folder: Path, url: str) -> subprocess.Popen[str]:
    """Run the page's first code as a program, with nothing configured but the key and the orchestrator."""
    folder.mkdir()
    (folder / "agent.py").write_text(block(AGENT_RUNNER, "The first agent").text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_"))}
    return subprocess.Popen(
        [sys.executable, "agent.py"],
        cwd=folder,
        env=environment | {"UNPOD_API_KEY": KEYS[0], "UNPOD_ORCHESTRATOR_URL": url, "UNPOD_LOG_LEVEL": "info"},
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(script: subprocess.Popen[str], text: str) -> None:
    """Return when a program has logged a text."""
    assert script.stderr is not None
    assert any(text in line for line in script.stderr), f"it has ended without: {text}"


async def test_the_first_agent_is_a_program_and_sigterm_drains_it(
    tmp_path: Path, scripts: list[subprocess.Popen[str]]
) -> None:
    async with LocalOrchestrator(speed=50) as orchestrator:
        scripts += [start_first_agent(tmp_path / name, orchestrator.url) for name in ("one", "two")]
        # "Run multiple AgentRunner processes with the same agent_id. The orchestrator load-balances."
        await orchestrator.wait_for_worker(AGENT, 20, count=2)
        calls = [await orchestrator.place_call(AGENT) for _ in range(2)]
        assert len({call.worker_id for call in calls}) == 2
        for call in calls:
            await call.heard("Hello, thanks for calling!")
            await call.user("Is anybody there?")
            await call.observed(lambda seen: not seen.ends_owed, "the gate is opened, although no brain answers")
        # "The runner stops accepting dispatches, waits for active calls, then exits."
        for script in scripts:
            script.send_signal(signal.SIGTERM)
            await asyncio.to_thread(read_until, script, "waiting for 1 call")
        with pytest.raises(CallRefused):
            await orchestrator.place_call(AGENT, deadline_ms=300, even_if_full=True)
        assert [script.poll() for script in scripts] == [None, None]
        for call in calls:
            await call.hang_up()
        for script in scripts:
            assert await asyncio.to_thread(script.wait, 15) == 0
        assert orchestrator.violations == [violation for call in calls for violation in call.violations] == []


# --------------------------------------------------------------------------------------------------------- from outside


@pytest.mark.parametrize("page", BOTH, ids=page_name)
async def test_from_outside(stage: Stage, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_ORCHESTRATOR_BASE_URL", stage.orchestrator.http_url)
    ends: dict[str, str] = {}
    all_here = asyncio.Event()

    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.on("call_end")(lambda reason: ends.update({ctx.session_id: reason}))
        await all_here.wait()
        await ctx.session.say(LONG[:1500])  # what ends or transfers a call waits until it is said
        await ctx.session.run()

    target, primary, other = [await stage.play(entrypoint) for _ in range(3)]
    all_here.set()
    for played in (target, primary, other):
        await played.call.observed(lambda call: call.state == "speaking", "it speaks")
    await snippet(
        page,
        "From outside",
        session_id=target.call.session_id,
        primary_session_id=primary.call.session_id,
        other_session_id=other.call.session_id,
    )
    assert first(target.call.transfers) == ("sip", "+15551230000", "warm")
    assert (await other.call.ended()).reason == "transferred"
    assert primary.call.merged == [other.call.session_id]
    assert not primary.call.over
    await primary.call.hang_up()
    assert (await target.call.ended()).reason == "ended_by_agent"
    for played in (target, primary, other):
        await played.returned()
    assert set(ends) == {played.call.session_id for played in (target, primary, other)}


async def outside(page: Path, call: LocalCall, verb: str) -> None:
    """Run that statement alone of the code from outside which has a verb."""
    code = block(page, "From outside")
    head, *statements = re.split(r"^(?=    (?:await|#))", code.text, flags=re.MULTILINE)
    chosen = next(statement for statement in statements if f".{verb}(" in statement)
    await run(replace(code, text=head + chosen), {"session_id": call.session_id})


@pytest.mark.parametrize("page", BOTH, ids=page_name)
async def test_a_warm_transfer_from_outside_keeps_the_session_until_the_handoff(
    stage: Stage, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNPOD_ORCHESTRATOR_BASE_URL", stage.orchestrator.http_url)

    async def entrypoint(ctx: CallContext) -> str:
        ctx.session.dialog_machine = brain()
        await ctx.session.say(LONG[:1500])
        return await ctx.session.run()

    played = await stage.play(entrypoint)
    await played.call.observed(lambda call: call.state == "speaking", "it speaks, and the handoff waits for that")
    await outside(page, played.call, "transfer")
    assert await played.answered("still there?") == "You said still there?."
    outcome = await played.call.ended()
    assert (outcome.reason, outcome.detail) == ("transferred", "+15551230000")
    await played.returned()


# --------------------------------------------------------------------------------------------------------------- runner


async def test_stats(stage: Stage) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        await ctx.session.run()

    async def stats(*, in_flight: int) -> RunnerStats:
        """Run the snippet again and again, until so many calls are in flight: nobody tells of figures."""
        async with asyncio.timeout(15):
            while True:
                found = (await snippet(AGENT_RUNNER, "Stats", runner=stage.runner))["s"]
                assert isinstance(found, RunnerStats)
                if found.in_flight == in_flight:
                    return found
                await asyncio.sleep(0.01)

    before = await stats(in_flight=0)
    played = await stage.play(entrypoint)
    during = await stats(in_flight=1)
    assert (during.queued, during.capacity) == (0, 50)
    code = block(AGENT_RUNNER, "Stats").text
    assert set(re.findall(r"^s\.(\w+)", code, re.MULTILINE)) == {field.name for field in fields(RunnerStats)}
    for field in fields(RunnerStats):
        kind = float if field.name == "mean_call_duration_s" else int
        assert type(getattr(during, field.name)) is kind, field.name
    await played.call.hang_up()
    await played.returned()
    after = await stats(in_flight=0)
    assert (after.completed_last_hour, after.failed_last_hour) == (
        before.completed_last_hour + 1,
        before.failed_last_hour,
    )
    assert after.mean_call_duration_s > 0


async def test_shutdown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def entrypoint(ctx: CallContext) -> str:
        ctx.session.dialog_machine = brain()
        return await ctx.session.run()

    caplog.set_level("INFO", "unpod.runner")
    async with open_stage(tmp_path / "data") as stage:
        played = await stage.play(entrypoint)
        ending = asyncio.create_task(snippet(AGENT_RUNNER, "Shut down", runner=stage.runner))
        async with asyncio.timeout(15):
            while "waiting for 1 call" not in caplog.text:  # noqa: ASYNC110 - it only logs
                await asyncio.sleep(0.01)
        with pytest.raises(CallRefused):
            await stage.orchestrator.place_call(AGENT, deadline_ms=300, even_if_full=True)
        assert await played.answered("one") == "You said one."
        assert not ending.done()
        await played.call.hang_up()
        assert await played.returned() == "hangup"
        async with asyncio.timeout(10):
            await ending
        stats = stage.runner.stats()
        assert (stats.in_flight, stats.completed_last_hour, stats.failed_last_hour) == (0, 1, 0)
        assert stats.mean_call_duration_s > 0
