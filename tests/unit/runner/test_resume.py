"""Calls that move: a runner takes one over, gives one up, and gets one back that it had itself."""

from __future__ import annotations

import asyncio

from tests.unit.runner.stage import Stage, stage

from unpod import CallContext, EchoAdapter
from unpod.testing.clock import settle


async def echo(ctx: CallContext) -> None:
    ctx.session.dialog_machine = EchoAdapter()
    await ctx.session.say("Hello!")
    await ctx.session.run()


def told_of(on: Stage) -> list[str]:
    told: list[str] = []

    @on.hooks.on("call_start")
    def start(ctx: CallContext) -> None:
        told.append("start")

    @on.hooks.on("call_end")
    def end(ctx: CallContext, final_state: str) -> None:
        told.append(final_state)

    return told


async def test_a_call_moves_to_another_runner_and_is_counted_where_it_ends() -> None:
    async with (
        stage(echo, capacity=1) as one,
        stage(echo, capacity=2, permits=0, runner_id="runner-2", broker=one.bus.broker, clock=one.clock) as two,
    ):
        told = told_of(one), told_of(two)
        line = await one.bridge.call("job-1")
        assert one.service.stats().in_flight == 1
        assert await one.bridge.move("job-1", line) == "runner-2"
        assert (one.service.stats().in_flight, two.service.stats().in_flight) == (0, 1)
        await line.record({"event": "user.text", "text": "hi", "is_final": True}, "user.text")
        await settle(100)
        assert line.spoken == [("say", "Hello!"), ("reply", "You "), ("reply", "said: hi")]
        await line.end("hangup")
        await settle(100)
        counted = [(on.service.stats().completed_last_hour, on.service.stats().failed_last_hour) for on in (one, two)]
        assert counted == [(0, 0), (1, 0)]
        assert told == (["start"], ["start", "ended"])


async def test_a_resume_needs_a_place_and_no_permit() -> None:
    async with stage(echo, capacity=1, permits=0) as on:
        assert await on.bridge.offer("job-1") is None
        answered = await on.bridge.offer("job-1", resume=True)
        assert answered is not None
        assert answered.answer == "taken"
        assert await on.bridge.offer("job-2", resume=True) is None
        await on.clock.advance(1.1)
        assert (await on.bridge.offer("job-2", resume=True)) is not None
        on.stop.requested.set()
        await settle()
        assert await on.bridge.offer("job-3", resume=True) is None


async def test_a_runner_may_get_back_a_call_that_it_still_runs() -> None:
    begun: list[CallContext] = []
    ended: list[str] = []

    async def handle(ctx: CallContext) -> None:
        begun.append(ctx)
        try:
            await echo(ctx)
        except asyncio.CancelledError:
            ended.append("made way")
            raise
        ended.append("ended")

    async with stage(handle, capacity=2) as on:
        line = await on.bridge.call("job-1")
        await line.record({"event": "user.text", "text": "hi", "is_final": True}, "user.text")
        await settle(100)
        assert await on.bridge.move("job-1", line) == "runner-1"
        assert (len(begun), ended) == (2, ["made way"])
        assert on.service.contexts() == [begun[1]]
        assert on.service.stats().in_flight == 1
        assert (call := on.service.find(line.session_id)) is not None
        assert call.epoch == line.epoch
        await line.end("hangup")
        await settle(100)
        stats = on.service.stats()
        assert (stats.in_flight, stats.completed_last_hour, stats.failed_last_hour) == (0, 1, 0)
        assert [text for kind, text in line.spoken if kind == "say"] == ["Hello!"]
        await on.bridge.call("job-2")
        await on.bridge.call("job-3")


async def test_code_that_does_not_make_way_does_not_hold_the_new_call_up() -> None:
    begun = asyncio.Semaphore(0)
    release = asyncio.Event()

    async def stubborn(ctx: CallContext) -> None:
        begun.release()
        if not ctx.session.replaying:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
        await ctx.session.run()

    async with stage(stubborn, capacity=2) as on:
        line = await on.bridge.call("job-1")
        await on.bridge.move("job-1", line)
        async with asyncio.timeout(5):
            await begun.acquire()
            await begun.acquire()
        release.set()
        await settle(100)
        assert on.service.stats().in_flight == 1
        await line.end("hangup")
        await settle(100)
        assert on.service.stats().completed_last_hour == 1


async def test_a_call_whose_log_does_not_answer_yet_waits_for_it() -> None:
    async with stage(echo) as on:
        runner = await on.bridge.promised("job-1")
        line, until_seq = await on.bridge.connect()
        start = on.bridge.start("job-1", line, until_seq + 1)  # the replica that is asked lags
        assert (await on.bridge.tell(runner, start)).ok
        await settle(100)
        assert line.commands == []
        await line.record({"event": "state", "state": "idle"}, "state")
        await on.clock.advance(0.5)
        await settle(100)
        assert [text for kind, text in line.spoken if kind == "say"] == ["Hello!"]


async def test_what_was_missed_while_the_connection_was_lost_is_fetched_at_once() -> None:
    async with stage(echo) as on:
        line = await on.bridge.call("job-1")
        on.bus.available = False
        await line.record({"event": "user.text", "text": "hi", "is_final": True}, "user.text")
        await settle(50)
        assert [text for kind, text in line.spoken if kind == "reply"] == []
        on.bus.available = True
        on.service.connected(up=True)
        await settle(100)
        assert "".join(text for kind, text in line.spoken if kind == "reply") == "You said: hi"
