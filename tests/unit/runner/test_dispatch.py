from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from tests.unit.runner.stage import Stage, stage

from unpod import CallContext
from unpod.core.dispatch_messages import Hold, Start, Suspicion
from unpod.runner.call import Entrypoint
from unpod.runner.probation import FIRST_S
from unpod.testing.clock import settle
from unpod.testing.line import MemoryLine


async def until_the_end(ctx: CallContext) -> None:
    await ctx.session.run()


async def test_a_call_is_taken_run_and_counted_once() -> None:
    async with stage(until_the_end) as on:
        line = await on.bridge.call("job-1")
        assert [ctx.session_id for ctx in on.service.contexts()] == [line.session_id]
        assert (on.service.stats().in_flight, on.bridge.heard[-1].in_flight) == (1, 1)
        await on.clock.advance(30)
        await line.end("hangup")
        await settle()
        stats = on.service.stats()
        assert (stats.in_flight, stats.completed_last_hour, stats.failed_last_hour) == (0, 1, 0)
        assert stats.mean_call_duration_s == pytest.approx(30)
        assert on.bridge.heard[-1].in_flight == 0


async def test_there_are_never_more_calls_than_places_and_a_full_runner_does_not_listen() -> None:
    async with stage(until_the_end, capacity=2) as on:
        lines = [await on.bridge.call(f"job-{n}") for n in range(2)]
        assert await on.bridge.offer("job-2") is None
        await lines[0].end("hangup")
        await settle()
        await on.bridge.call("job-2")
        assert on.service.stats().in_flight == 2


async def test_offers_that_come_at_once_get_no_more_places_than_there_are() -> None:
    async with stage(until_the_end, capacity=2) as on:
        answers = await asyncio.gather(*(on.bridge.offer(f"job-{n}") for n in range(5)))
        given = [answer.answer for answer in answers if answer is not None]
        assert given.count("taken") == 2
        assert set(given) <= {"taken", "full"}


async def test_a_place_is_forgotten_unless_it_is_confirmed() -> None:
    async with stage(until_the_end, capacity=1) as on:
        answered = await on.bridge.offer("job-1")
        assert answered is not None
        await on.clock.advance(1.1)
        assert not (await on.bridge.tell(answered.runner, Hold(job="job-1"))).ok
        await on.bridge.promised("job-2")
        await on.clock.advance(59)
        assert await on.bridge.offer("job-3") is None
        await on.clock.advance(1.1)
        await on.bridge.promised("job-3")


async def test_a_released_place_is_free_and_its_call_never_was() -> None:
    async with stage(until_the_end, capacity=1) as on:
        runner = await on.bridge.promised("job-1")
        assert (await on.bridge.release(runner, "job-1")).ok
        await settle()
        assert not (
            await on.bridge.tell(runner, Start(job="job-1", agent="agent", session="s", epoch=1, until_seq=1))
        ).ok
        await on.bridge.promised("job-2")
        assert on.service.stats().completed_last_hour == 0


async def test_a_start_that_is_repeated_starts_one_call() -> None:
    begun: list[str] = []
    async with stage(noting(begun)) as on:
        runner = await on.bridge.promised("job-1")
        line, until_seq = await on.bridge.connect()
        start = on.bridge.start("job-1", line, until_seq)
        assert (await on.bridge.tell(runner, start)).ok
        assert (await on.bridge.tell(runner, start)).ok
        await line.end("hangup")
        await settle()
        assert (await on.bridge.tell(runner, start)).ok
        await settle()
        assert begun == [line.session_id]


def noting(begun: list[str]) -> Entrypoint:
    """Return an entrypoint that notes which session it serves."""

    async def entrypoint(ctx: CallContext) -> None:
        begun.append(ctx.session_id)
        await ctx.session.run()

    return entrypoint


def _held(start: Start, **fields: bool) -> Start:
    return replace(start, bridge="memory", held=True, suspicion=Suspicion(**fields))


async def _alone(on: Stage) -> tuple[MemoryLine, str]:
    """Start a held call that lets no other begin for a while; return it, and the runner, with a place for job-2."""
    await on.bridge.promised("job-1")
    first, until_seq = await on.bridge.connect()
    runner = await on.bridge.promised("job-2")
    held = _held(on.bridge.start("job-1", first, until_seq), cleanup=True)
    assert (await on.bridge.tell(runner, held)).ok
    return first, runner


async def test_calls_that_are_held_begin_one_after_the_other_and_their_bridge_hears_it() -> None:
    begun: list[str] = []
    async with stage(noting(begun), capacity=5) as on:
        lines = []
        for job in ("job-1", "job-2", "job-3"):
            runner = await on.bridge.promised(job)
            line, until_seq = await on.bridge.connect()
            lines.append(line)
            for _ in range(2):
                told = _held(on.bridge.start(job, line, until_seq), cleanup=job == "job-1")
                assert (await on.bridge.tell(runner, told)).ok
        await settle()
        one, two, three = (line.session_id for line in lines)
        assert begun == [one]  # which has only its cleanup left, so nothing that it writes lets another begin
        await on.clock.advance(FIRST_S)
        await settle()
        assert begun == [one, two]
        await lines[1].record({"event": "user.text", "text": "hi", "is_final": True}, "user.text")
        await settle(100)
        assert begun == [one, two, three]
        said = [(told.session, told.phase) for told in on.bridge.probations]
        assert said == [(one, "begun"), (two, "begun"), (two, "over"), (three, "begun")]
        for line in lines:
            await line.end("hangup")


async def test_a_call_that_is_held_begins_with_the_start_that_holds_it_no_more() -> None:
    begun: list[str] = []
    async with stage(noting(begun), capacity=5) as on:
        first, runner = await _alone(on)
        line, until_seq = await on.bridge.connect()
        start = on.bridge.start("job-2", line, until_seq)
        assert (await on.bridge.tell(runner, _held(start))).ok
        await settle()
        assert begun == [first.session_id]
        assert (await on.bridge.tell(runner, start)).ok
        await settle()
        assert begun == [first.session_id, line.session_id]
        for each in (first, line):
            await each.end("hangup")


async def test_a_bridge_of_an_older_release_says_itself_when_a_call_begins_that_it_holds() -> None:
    begun: list[str] = []
    async with stage(noting(begun)) as on:
        runner = await on.bridge.promised("job-1")
        line, until_seq = await on.bridge.connect()
        start = on.bridge.start("job-1", line, until_seq)
        for _ in range(2):
            told = await on.bridge.tell(runner, replace(start, held=True))
            assert (told.ok, told.lets_in) == (True, False)
            await settle()
            assert not begun
        assert (await on.bridge.tell(runner, start)).ok
        await settle()
        assert begun == [line.session_id]
        await line.end("hangup")


async def test_a_call_that_is_held_is_let_go_of_when_it_has_another_owner() -> None:
    begun: list[str] = []
    async with stage(noting(begun), capacity=5) as on:
        first, runner = await _alone(on)
        line, until_seq = await on.bridge.connect()
        assert (await on.bridge.tell(runner, _held(on.bridge.start("job-2", line, until_seq)))).ok
        await settle()
        await line.takeover()
        await settle()
        assert on.service.stats().in_flight == 1
        assert begun == [first.session_id]
        await first.end("hangup")


async def test_a_start_for_another_agent_or_an_unusable_session_is_refused() -> None:
    async with stage(until_the_end, capacity=1) as on:
        runner = await on.bridge.promised("job-1")
        assert not (await on.bridge.tell(runner, Start(job="job-1", agent="b", session="s", epoch=1, until_seq=1))).ok
        assert not (
            await on.bridge.tell(runner, Start(job="job-1", agent="agent", session="", epoch=1, until_seq=1))
        ).ok
        await settle()
        await on.bridge.promised("job-2")


async def test_permits_are_spent_and_flow_in_again(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(until_the_end, capacity=2, permits=2) as on:
        for job in ("job-1", "job-2"):
            await (await on.bridge.call(job)).end("hangup")
            await settle()
        assert await on.bridge.offer("job-3") is None
        assert [said.held_back for said in on.bridge.heard][-1]
        await on.clock.advance(29)
        assert await on.bridge.offer("job-3") is None
        await on.clock.advance(1.5)
        assert not [said.held_back for said in on.bridge.heard][-1]
        await on.bridge.promised("job-3")
    assert caplog.text.count("permits_per_minute") == 1


async def test_dev_runners_and_others_do_not_mix() -> None:
    async with (
        stage(until_the_end) as on,
        stage(until_the_end, dev=True, runner_id="runner-dev", broker=on.bus.broker, clock=on.clock) as dev,
    ):
        for _ in range(4):
            here, there = await on.bridge.offer("job-1"), await dev.bridge.offer("job-2")
            assert here is not None
            assert there is not None
            assert (here.runner, there.runner) == ("runner-1", "runner-dev")
        assert {(said.runner, said.agent, said.dev) for said in on.bridge.heard} == {
            ("runner-1", "agent", False),
            ("runner-dev", "agent", True),
        }


async def test_it_announces_itself_each_second_and_says_when_it_goes() -> None:
    async with stage(until_the_end, capacity=3) as on:
        assert on.bridge.heard[-1].capacity == 3
        before = len(on.bridge.heard)
        await on.clock.advance(3.0)
        assert len(on.bridge.heard) == before + 3
        heard = on.bridge.heard
    await settle()
    assert heard[-1].gone


async def test_changes_of_one_moment_are_announced_once() -> None:
    async with stage(until_the_end, capacity=20) as on:
        before = len(on.bridge.heard)
        await asyncio.gather(*(on.bridge.offer(f"job-{n}") for n in range(15)))
        await settle()
        assert len(on.bridge.heard) - before <= 3


async def test_what_waits_at_the_bridges_is_queued() -> None:
    async with stage(until_the_end) as on:
        await on.bridge.announce_queued(4)
        assert on.service.stats().queued == 4
        assert on.bridge.heard[-1].queued == 4
        await on.clock.advance(3.1)
        assert on.service.stats().queued == 0


async def test_what_cannot_be_read_changes_nothing() -> None:
    async with stage(until_the_end) as on:
        for subject in (
            on.bridge.subjects.dispatch("agent"),
            on.bridge.subjects.runner("runner-1"),
            on.bridge.subjects.bridges,
            on.bridge.subjects.queued("agent"),
        ):
            for data in (b"", b"{", b"[" * 100_000, b'"\xff"', b'{"type":"dance"}', b'{"job": 7}'):
                await on.bridge.log.publish(subject, data)
        await settle()
        await on.bridge.call("job-1")
