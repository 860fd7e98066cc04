"""What the pages have of a session: its verbs, its loop and its metrics, against the whole system."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.integration.seed_stage import (
    AGENT_RUNNER,
    BOTH,
    LONG,
    SESSION,
    Played,
    Stage,
    block,
    brain,
    first,
    open_stage,
    page_name,
    snippet,
)
from tests.pages import run, table

from unpod import CallContext, CallMetrics, MetricsTracker, ScriptedAdapter, Session
from unpod.adapters.scripted import Pause
from unpod_orchestrator import WIRE_VERBS

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path_factory.mktemp("seed") / "data") as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(system: Stage) -> AsyncIterator[Stage]:
    yield system
    await system.clear()


# ------------------------------------------------------------------------------------------------------------- speaking


@pytest.mark.parametrize(
    ("page", "headings", "text"),
    [
        (AGENT_RUNNER, ["Speak"], "Thank you for your patience."),
        (SESSION, ["Say", "Filler"], "Thank you for your patience, let me look into that."),
    ],
    ids=["agent-runner", "session"],
)
async def test_say_and_filler(stage: Stage, page: Path, headings: list[str], text: str) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        for heading in headings:
            await snippet(page, heading, ctx=ctx)
        await ctx.session.run()

    played = await stage.play(entrypoint)
    await played.call.heard(text)
    assert [raw["text"] for raw in played.verbs("agent.say", "agent.filler")] == [text, "One moment please..."]
    await played.call.hang_up()
    await played.returned()


async def test_the_filler_is_heard_while_the_brain_thinks(stage: Stage) -> None:
    thought = asyncio.Event()

    async def think(_: float) -> None:
        await thought.wait()

    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = ScriptedAdapter([("hard", [Pause(1), "Forty two."])], sleep=think)
        await snippet(SESSION, "Filler", ctx=ctx)
        await ctx.session.run()

    played = await stage.play(entrypoint, offers=WIRE_VERBS)  # a worker that plays none by itself
    await played.call.user("A hard question")
    await played.call.heard("One moment please...")
    thought.set()
    assert await played.call.reply() == "Forty two."
    assert played.said() == ["One moment please..."]
    await played.call.hang_up()
    await played.returned()


@pytest.mark.parametrize("page", BOTH, ids=page_name)
async def test_interrupt_stops_what_is_being_said(stage: Stage, page: Path) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain()
        await snippet(page, "Interrupt", ctx=ctx)
        await ctx.session.run()

    played = await stage.play(entrypoint)
    await played.call.user("Tell me a story")
    await played.call.spoken(30)
    await played.call.user("Stop it!")
    await played.call.observed(lambda seen: len(seen.replies) == 2, "both texts are answered")
    assert len(played.verbs("agent.interrupt")) == 1
    await played.call.silence()
    told, answer = (line.text for line in played.call.transcript if line.role == "agent")
    assert LONG.startswith(told)
    assert len(told) < len(LONG) / 2
    assert answer == "You said Stop it!."
    await played.call.hang_up()
    await played.returned()


# -------------------------------------------------------------------------------------------------------- the main loop


@pytest.mark.parametrize(
    ("page", "heading", "greeting"),
    [
        (AGENT_RUNNER, "Run", "Hi, I'm Alex. How can I help?"),
        (SESSION, "Run", "Hi, I'm Alex. How can I help?"),
        (SESSION, "Overview", "Hello!"),
    ],
    ids=["agent-runner", "session", "overview"],
)
async def test_run(stage: Stage, page: Path, heading: str, greeting: str) -> None:
    over: list[float] = []

    async def entrypoint(ctx: CallContext) -> None:
        found = await snippet(page, heading, my_brain=brain(), my_dialog_machine=brain())
        await found["handle_call"](ctx)
        over.append(time.monotonic())

    played = await stage.play(entrypoint)
    await played.call.heard(greeting)
    if heading == "Run":
        for text in ("one", "two"):
            assert await played.answered(text) == f"You said {text}."
    hung_up = time.monotonic()
    await played.call.hang_up()
    await played.returned()
    assert over[0] > hung_up, "run() keeps the call alive until it ends"
    assert played.said() == [greeting]
    assert played.call.violations == []


async def test_lines_after_run_are_cleanup(stage: Stage) -> None:
    async def entrypoint(ctx: CallContext) -> str:
        await snippet(SESSION, "Run alone", session=ctx.session)
        return "cleaned up"

    played = await stage.play(entrypoint)
    await played.call.hang_up()
    assert await played.returned() == "cleaned up"


# --------------------------------------------------------------------------------------------------- transfers and ends


@pytest.mark.parametrize(
    ("page", "heading", "line", "expected"),
    [
        (AGENT_RUNNER, "Transfer", None, ("human", "tier-2-support", "cold")),
        (AGENT_RUNNER, "Transfer", 0, ("human", "tier-2-support", "cold")),
        (AGENT_RUNNER, "Transfer", 1, ("agent", "billing-agent", "cold")),
        (SESSION, "Transfer to a human", None, ("human", "tier-2-support", "cold")),
        (SESSION, "Transfer to an agent", None, ("agent", "agt_billing_agent", "cold")),
    ],
    ids=["both lines", "human", "agent", "session, human", "session, agent"],
)
async def test_a_cold_transfer_drops_the_session(
    stage: Stage, page: Path, heading: str, line: int | None, expected: tuple[str, str, str]
) -> None:
    code = block(page, heading)
    if line is not None:
        code = replace(code, text=code.text.splitlines()[line])
    ends: list[str] = []

    async def entrypoint(ctx: CallContext) -> str:
        ctx.session.on("call_end")(ends.append)
        await run(code, {"ctx": ctx})
        return await ctx.session.run()

    played = await stage.play(entrypoint)
    outcome = await played.call.ended()
    assert (outcome.reason, outcome.detail) == ("transferred", expected[1])
    assert first(played.call.transfers) == expected
    assert len(played.verbs("agent.transfer")) == 1
    assert await played.returned() == "transferred"
    assert ends == ["transferred"]
    assert outcome.violations == ()


REASONS = [row[0].strip('`"') for row in table(SESSION, "End")]


@pytest.mark.parametrize("reason", REASONS)
async def test_end(stage: Stage, reason: str) -> None:
    code = block(SESSION, "End")
    code = replace(code, text=code.text.replace("completed", reason))
    ends: list[str] = []

    async def entrypoint(ctx: CallContext) -> str:
        ctx.session.on("call_end")(ends.append)
        await ctx.session.say("Goodbye.")
        await run(code, {"ctx": ctx})
        return await ctx.session.run()

    played = await stage.play(entrypoint)
    outcome = await played.call.ended()
    assert (outcome.reason, outcome.detail) == ("ended_by_agent", reason)
    assert [raw["reason"] for raw in played.verbs("agent.end_call")] == [reason]
    assert await played.returned() == reason
    assert ends == [reason]
    await played.call.heard("Goodbye.")


# ------------------------------------------------------------------------------------------------------------ recording


async def test_the_recording_is_paused_and_resumed(stage: Stage) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        await snippet(SESSION, "Pause the recording", ctx=ctx)

        @ctx.session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            if "done" in text:
                await snippet(SESSION, "Resume the recording", ctx=ctx)

        await ctx.session.run()

    played = await stage.play(entrypoint)
    recording = [played.call.recording]
    await played.call.user("My card number is next")
    await played.call.heard("I'll collect your card number now. This part of the call is not recorded.")
    recording.append(played.call.recording)
    assert [raw["reason"] for raw in played.verbs("recording.pause")] == ["PII"]
    await played.call.user("That is done")
    await played.call.heard("Recording has resumed. How else can I help?")
    recording.append(played.call.recording)
    assert recording == ["on", "paused", "on"]
    assert len(played.verbs("recording.resume")) == 1
    await played.call.hang_up()
    await played.returned()


async def test_a_call_that_is_not_recorded_ignores_these_controls(stage: Stage) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        await snippet(SESSION, "Pause the recording", ctx=ctx)
        await ctx.session.run()

    for offers in (None, WIRE_VERBS):
        played = await stage.play(entrypoint, offers=offers, recording=False)
        await played.call.user("My card number is next")
        await played.call.heard("This part of the call is not recorded.")
        assert played.call.recording == "off"
        await played.call.hang_up()
        await played.returned()


# -------------------------------------------------------------------------------------------------------- data, metrics


class Crm:
    async def lookup(self, number: str) -> dict[str, str]:
        return {"id": f"customer of {number}"}


class Analytics:
    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    async def log(self, customer: str, duration: float, final_state: str) -> None:
        self.rows.append((customer, duration, final_state))


async def test_data(stage: Stage) -> None:
    analytics = Analytics()

    async def entrypoint(ctx: CallContext) -> None:
        found = await snippet(SESSION, "Data", ctx=ctx, crm=Crm(), analytics=analytics, time=time)
        await found["handle_call"](ctx)

    played = await stage.play(entrypoint, user_number="+15550100")
    await played.call.hang_up()
    await played.returned()
    [(customer, duration, final_state)] = analytics.rows
    assert customer == "customer of +15550100"
    assert 0 < duration < 10
    assert final_state == "hangup"


async def measured(stage: Stage, entrypoint: Callable[[CallContext], Any]) -> Played:
    """Play a call of two turns with figures, to its end."""
    played = await stage.play(entrypoint)
    for text in ("one", "two"):
        await played.answered(text)
        await played.call.silence()
    await played.call.hang_up()
    await played.returned()
    return played


async def test_metrics_during_and_after_run(stage: Stage) -> None:
    seen: list[CallMetrics] = []

    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain()

        @ctx.session.on("turn_complete")
        async def look(**_: object) -> None:
            seen.append((await snippet(AGENT_RUNNER, "Metrics", ctx=ctx))["m"])

        await ctx.session.run()
        seen.append((await snippet(AGENT_RUNNER, "Metrics", ctx=ctx))["m"])

    await measured(stage, entrypoint)
    during, _, after = seen
    assert 1 <= during.turns <= after.turns == 2  # the second text may be there already when the first turn is complete
    assert 0 < during.duration_s < after.duration_s
    assert (after.tokens.input, after.tokens.output) == (200, 40)
    assert after.active_llm == "model-1"
    assert after.cost.llm == pytest.approx(0.004)
    assert after.cost.voice > 0
    assert after.cost.total == after.cost.voice + after.cost.llm
    assert min(after.stt_p95_ms, after.llm_p95_ms, after.tts_p95_ms) >= 0
    assert after.stt_p95_ms > after.avg_stt_ms > 0
    assert after.tts_p95_ms > after.avg_tts_ms > 0
    for found in seen:
        check_types(found)


def check_types(metrics: CallMetrics) -> None:
    """Make sure that every field of both pages is there, and is what its page says."""
    code = block(AGENT_RUNNER, "Metrics").text
    documented = dict(re.findall(r"^m\.([\w.]+)  # (int|float|str)", code, re.MULTILINE))
    documented |= dict.fromkeys(re.findall(r"[-,] m\.(cost\.\w+)", code), "float")
    documented |= dict.fromkeys(re.findall(r"[-,] m\.(tokens\.\w+)", code), "int")
    documented |= {row[0].strip("`"): row[1].strip("`") for row in table(SESSION, "Metrics")}
    assert len(documented) == 11 + 6
    for path, kind in documented.items():
        value: object = metrics
        for name in path.split("."):
            value = getattr(value, name)
        assert type(value).__name__ == kind, path


async def test_metrics_after_run_can_be_printed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = brain()
        await (await snippet(SESSION, "Metrics"))["handle_call"](ctx)

    await measured(stage, entrypoint)
    assert re.search(r"^Turns: 2\nAvg LLM latency: \d+ms$", capsys.readouterr().out, re.MULTILINE)


# ------------------------------------------------------------------------------------------------------------ reference


async def test_the_reference_of_the_session(stage: Stage) -> None:
    async def entrypoint(ctx: CallContext) -> None:
        for name, signature, _ in table(SESSION, "Reference"):
            check_member(ctx.session, name.strip("`"), signature.strip("`"))
        await ctx.session.run()

    played = await stage.play(entrypoint)
    await played.call.hang_up()
    await played.returned()


def check_member(session: Session, path: str, documented: str) -> None:
    """Make sure that something can be used as the page says, which may say less than there is."""
    value: Any = session
    for name in path.split("."):
        value = getattr(value, name)
    found = re.fullmatch(r"(async )?\((.*)\) → \w+", documented)
    if found is None:
        kinds = {"metrics": MetricsTracker, "data": dict, "dialog_machine": type(None)}
        assert isinstance(value, kinds[path])
        return
    assert inspect.iscoroutinefunction(value) == bool(found[1]), path
    has = list(inspect.signature(value).parameters.values())
    for documented_parameter, parameter in zip(filter(None, found[2].split(", ")), has, strict=False):
        assert str(parameter).split(" = ")[0].replace("'", "") == documented_parameter, path
    named = found[2].count(":")
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in has[named:]), path
