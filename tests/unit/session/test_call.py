"""One call in a runner: its hooks around the entrypoint, its context, and how it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import pytest
from tests.unit.session.rig import Ear, agent

from unpod import CallContext
from unpod.core.dispatch_messages import Start
from unpod.core.subjects import Subjects
from unpod.runner.call import CallResult, CallServices, Entrypoint, RunningCall
from unpod.runner.probation import Probation
from unpod.session.settings import SessionSettings
from unpod.testing import ALL_VERBS, MemoryBroker, MemoryLog, VirtualClock, simulate_call
from unpod.testing.clock import settle
from unpod.testing.line import MemoryLine


@dataclass
class Stage:
    """A call with the hooks of its runner."""

    call: RunningCall
    line: MemoryLine
    log: MemoryLog
    clock: VirtualClock


@asynccontextmanager
async def stage(
    entrypoint: Entrypoint, told: list[str], *, until: int = 0, started: Mapping[str, object] | None = None
) -> AsyncIterator[Stage]:
    clock, subjects = VirtualClock(), Subjects()
    broker = MemoryBroker(now_ns=clock.now_ns)
    line = MemoryLine(MemoryLog(broker), clock, subjects, "agent", "s-1")
    until_seq = await line.open({}, ALL_VERBS, started or {})

    async def on_start(ctx: CallContext) -> None:
        told.append(f"runner call_start {ctx.call_id}")

    async def on_end(ctx: CallContext, final_state: str) -> None:
        told.append(f"runner call_end {final_state}")

    log = MemoryLog(broker)
    services = CallServices(
        log=log,
        bus=log,
        clock=clock,
        subjects=subjects,
        runner_id="runner-1",
        agent_id="agent",
        probation=Probation(clock, lambda _start, _phase: None),
        settings=SessionSettings(),
        entrypoint=entrypoint,
        on_call_start=on_start,
        on_call_end=on_end,
    )
    start = Start(job="job-1", agent="agent", session="s-1", epoch=line.epoch, until_seq=until or until_seq)
    yield Stage(RunningCall(services, start), line, log, clock)
    await line.close()


WHERE: ContextVar[str] = ContextVar("where", default="outside")


async def test_the_adapter_runs_in_the_context_of_the_entrypoint() -> None:
    heard = list[str]()

    class Adapter:
        async def stream(self, _: str) -> AsyncIterator[str]:
            heard.append(f"stream {WHERE.get()}")
            yield "Well, "
            await asyncio.Event().wait()

        async def turn(self, _: str) -> str:
            return ""

        def assist(self, _: str) -> None:
            return

        def mark_interrupted(self, _: str | None) -> None:
            heard.append(f"mark_interrupted {WHERE.get()}")

    async def handle(ctx: CallContext) -> None:
        WHERE.set("inside")
        ctx.session.dialog_machine = Adapter()
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.user("hi", wait=False)
        await settle()
        await call.barge_in("Well,")
        await settle()
    assert heard == ["stream inside", "mark_interrupted inside"]


async def test_the_sessions_end_is_told_before_the_runners_and_each_once() -> None:
    told: list[str] = []

    async def handle(ctx: CallContext) -> None:
        ctx.session.on("call_start")(lambda: told.append("session call_start"))
        ctx.session.on("call_end")(lambda reason: told.append(f"session call_end {reason}"))
        await ctx.session.run()
        told.append("cleanup")

    async with stage(handle, told) as scene:
        running = asyncio.ensure_future(scene.call.run())
        await settle()
        await scene.line.end("hangup")
        result = await running
    assert told == [
        "runner call_start s-1",
        "session call_start",
        "session call_end hangup",
        "cleanup",
        "runner call_end ended",
    ]
    assert result == CallResult("s-1", "hangup", failed=False, duration_s=0.0, started=True)


@pytest.mark.parametrize(
    ("reason", "final_state"), [("hangup", "ended"), ("transferred", "ended"), ("error", "failed"), ("lost", "failed")]
)
async def test_what_a_call_counts_as(reason: str, final_state: str) -> None:
    told: list[str] = []
    async with stage(agent(), told) as scene:
        running = asyncio.ensure_future(scene.call.run())
        await settle()
        await scene.line.end(reason)
        result = await running
    assert told[-1] == f"runner call_end {final_state}"
    assert result.failed == (final_state == "failed")


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(3)])
async def test_an_entrypoint_that_raises_is_failed_once(raised: BaseException) -> None:
    told: list[str] = []

    async def handle(_: CallContext) -> None:
        raise raised

    async with stage(handle, told) as scene:
        result = await scene.call.run()
    assert told == ["runner call_start s-1", "runner call_end failed"]
    assert (result.failed, result.reason, result.started) == (True, "error", True)


async def test_a_call_whose_log_cannot_be_read_fires_no_hook_and_counts_as_not_started() -> None:
    told: list[str] = []
    async with stage(agent(), told, until=1_000) as scene:
        running = asyncio.ensure_future(scene.call.run())
        await scene.clock.advance(60)
        result = await running
        assert scene.line.commands == []
        await scene.line.end("lost")
    assert told == []
    assert (result.started, result.failed) == (False, True)


async def test_a_call_whose_call_started_cannot_be_read_fires_no_hook_and_counts_as_not_started() -> None:
    told: list[str] = []
    async with stage(agent(), told, started={"session_id": 5}) as scene:
        result = await scene.call.run()
    assert told == []
    assert (result.started, result.failed) == (False, True)


async def test_a_call_that_is_let_go_writes_no_word() -> None:
    told: list[str] = []
    ear = Ear()
    async with stage(agent(ear), told) as scene:
        running = asyncio.ensure_future(scene.call.run())
        await settle()
        before = len(scene.log.broker.records)
        scene.call.abandon()
        await running
        assert len(scene.log.broker.records) == before
    assert ear.returned == "cancelled"


async def test_a_call_that_is_cancelled_releases_everything() -> None:
    told: list[str] = []
    async with stage(agent(), told) as scene:
        running = asyncio.ensure_future(scene.call.run())
        await settle()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(scene.log.broker.takers(scene.line.call.ack)) == 1  # the line's own


FRAMES: list[tuple[Mapping[str, object], Mapping[str, object], str, str]] = [
    ({}, {"agent_id": None}, "agent", "agent"),
    ({}, {"agent_id": "agt_other"}, "agt_other", "agent"),
    ({"agent_id": "agt_meta"}, {"agent_id": "agt_other"}, "agt_other", "agent"),
]


@pytest.mark.parametrize(("metadata", "frame", "agent_id", "runner_id"), FRAMES)
async def test_the_context_says_who_answers_and_who_runs(
    metadata: Mapping[str, object], frame: Mapping[str, object], agent_id: str, runner_id: str
) -> None:
    async with simulate_call(agent(), metadata=metadata, frame=frame) as call:
        assert call.context is not None
        assert (call.context.agent_id, call.context.runner_id) == (agent_id, runner_id)


async def test_the_context_is_what_the_call_brings() -> None:
    metadata = {
        "direction": "outbound",
        "caller_number": "+15551230000",
        "instructions": "Be brief.",
        "data": {"plan": "gold", "agent_id": "renamed"},
        "playbook_id": "pb_1",
        "room": {"sip": True},
    }
    frame = {"voice_profile_id": "v_1", "room_id": "room-9"}
    async with simulate_call(agent(), session_id="s-9", metadata=metadata, frame=frame) as call:
        ctx = call.context
        assert ctx is not None
        assert (ctx.call_id, ctx.session_id, ctx.direction) == ("s-9", "s-9", "outbound")
        assert (ctx.user_number, ctx.instructions) == ("+15551230000", "Be brief.")
        assert ctx.data == {"plan": "gold", "agent_id": "renamed", "playbook_id": "pb_1", "voice_profile_id": "v_1"}
        assert ctx.room == {"name": "room-9", "sip": True}
        assert ctx.session.session_id == "s-9"


async def test_the_context_shows_no_number_and_no_data() -> None:
    metadata = {"user_number": "+15551230000", "instructions": "secret", "data": {"plan": "gold"}}
    async with simulate_call(agent(), metadata=metadata) as call:
        shown = repr(call.context) + repr(call.context.session)
        assert "+1555" not in shown
        assert "secret" not in shown
        assert "gold" not in shown
