"""A bridge dies, or stands still, or is restarted: another one goes on with its calls. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.faults.load import Caller, Load, load
from tests.faults.process import Process, until
from tests.faults.stack import Setup, Stack, stack

from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, Record
from unpod.jetstream import JobStore, open_jobs, topology
from unpod_orchestrator import CallFaults

SLOW_WORDS = {"UNPOD_FAULTS_PIECE_S": "0.05"}


class World:
    """A system with callers who do as they are told."""

    def __init__(self, system: Stack, callers: Load, jobs: JobStore) -> None:
        self.system = system
        self.load = callers
        self.jobs = jobs

    async def caller(self) -> Caller:
        """Return a caller with a first answer."""
        [caller] = await self.load.dial(1)
        await caller.answer(await caller.ask())
        return caller

    async def line(self, caller: Caller) -> Process:
        """Return the bridge that has the call, once the log says so."""
        async with asyncio.timeout(20):
            while (found := await self.system.line(caller.session)) is None:  # noqa: ASYNC110 - the log is another process
                await asyncio.sleep(0.02)
        return found

    async def moves(self, caller: Caller, former: Process) -> Process:
        """Return the bridge that has taken a call over, once its link is up."""
        await _until(lambda: self._is_elsewhere(caller, former))
        await caller.call.connected(20)
        return await self.line(caller)

    async def _is_elsewhere(self, caller: Caller, former: Process) -> bool:
        return await self.line(caller) is not former

    async def facts(self, caller: Caller, kind: type[object]) -> list[object]:
        return [record.body for record in await self.records(caller) if isinstance(record.body, kind)]

    async def records(self, caller: Caller) -> list[Record]:
        return await self.system.records(caller.session)

    async def finish(self, caller: Caller, reason: str = "hangup") -> None:
        """Hang up, and see that the log is whole and that nothing was said twice."""
        if not caller.call.over:
            await caller.call.hang_up()
        await caller.call.ended()
        await self.system.closed([caller.session])
        records = await self.records(caller)
        indexes = [record.envelope.index for record in records if record.channel in BRIDGE_CHANNELS]
        assert indexes == list(range(1, len(indexes) + 1))
        assert [record.body.reason for record in records if isinstance(record.body, ev.CallEnded)] == [reason]
        assert not caller.call.violations
        for turn in caller.turns:
            assert turn.words == sorted(set(turn.words))
        await self.forgotten(caller)

    async def forgotten(self, caller: Caller) -> None:
        """Return once nobody has a record of the job."""
        await _until(lambda: self._has_no_record(caller))

    async def _has_no_record(self, caller: Caller) -> bool:
        return await self.jobs.get(caller.call.job_id) is None


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once something holds that other processes bring about, and nobody tells us of."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def world(directory: Path, setup: Setup) -> AsyncIterator[World]:
    async with stack(directory, setup) as system, load(system.orchestrator, random.Random(1)) as callers:  # noqa: S311
        made = World(system, callers, await open_jobs(system.nats, topology().jobs))
        try:
            yield made
        finally:
            for process in (*system.bridges, *system.runners):
                assert "Traceback" not in process.text
                for caller in callers.callers:
                    assert caller.call.token not in process.text


async def test_a_bridge_dies_between_turns_and_in_mid_reply(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, runner_env=SLOW_WORDS)) as w:
        caller = await w.caller()
        former = await w.line(caller)
        await former.kill()
        second = await w.moves(caller, former)
        await caller.answer(await caller.ask())
        assert second.alive

        third = await w.system.start_bridge()
        await w.system.ready()
        turn = await caller.ask()
        await caller.hears(turn, 3)
        await second.kill()
        assert await w.moves(caller, second) is third
        await caller.answer(turn)
        assert turn.length in turn.words  # what was written in the last quarter of a second may be lost, no more
        await caller.answer(await caller.ask())
        attempts = await w.facts(caller, ev.CallReattached)
        assert attempts == [ev.CallReattached(session_id=caller.session, attempt=n) for n in (1, 2)]
        await w.finish(caller)


async def test_what_was_claimed_when_the_bridge_died_is_unknown_and_not_repeated(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, bridge_failpoint="line.claim_stored")) as w:
        callers = await w.load.dial(4)
        doomed = w.system.bridges[0]
        lines = [(each, await w.line(each)) for each in callers]
        caller = next(each for each, bridge in lines if bridge is doomed)
        await caller.ask(frozenset({"transfer"}))
        await doomed.exited()
        await w.moves(caller, doomed)
        await caller.answer(await caller.ask())
        outcomes = [
            fact.outcome
            for fact in await w.facts(caller, ev.CommandAcknowledged)
            if isinstance(fact, ev.CommandAcknowledged) and fact.verb == "transfer"
        ]
        assert outcomes == ["claimed", "unknown"]
        assert not [frame for frame in caller.call.frames if frame.event == "agent.transfer"]
        for each in callers:
            await w.finish(each)


async def test_two_bridges_share_the_calls_of_a_third(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, bridges=3)) as w:
        callers = [await w.caller() for _ in range(6)]
        former = await w.line(callers[0])
        orphans = [caller for caller in callers if await w.line(caller) is former]
        await former.kill()
        for caller in orphans:
            assert await w.moves(caller, former) in w.system.bridges
            await caller.answer(await caller.ask())
        for caller in callers:
            lines = await w.facts(caller, ev.LineTaken)
            assert len(lines) == (2 if caller in orphans else 1)
            await w.finish(caller)


async def test_bridges_that_stood_still_are_both_registered_afterwards(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, heartbeat_s=30)) as w:
        orchestrator = w.system.orchestrator
        workers = {worker.worker_id for worker in orchestrator.workers}
        assert len(workers) == 2
        caller = await w.caller()
        for sign in (
            "whose bridge is gone, are called off here",
            "is taken over; dialling again",
        ):  # then it comes home
            former = await w.line(caller)
            other = next(bridge for bridge in w.system.bridges if bridge is not former)
            former.freeze()
            await other.said(sign)
            former.thaw()
            await former.said("another bridge holds the line")
            assert await w.moves(caller, former) is other
            await caller.answer(await caller.ask())
        await until(
            lambda: {each.worker_id for each in orchestrator.workers if each.capabilities.max_concurrent} == workers,
            "both bridges are registered with room",
        )
        another = await w.caller()
        await w.finish(caller)
        await w.finish(another)


async def test_a_bridge_that_stood_still_for_a_moment_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1)) as w:
        caller = await w.caller()
        holder = await w.line(caller)
        holder.freeze()
        await asyncio.sleep(1.5)  # longer than what it may stand still without asking, shorter than others wait
        holder.thaw()
        await caller.answer(await caller.ask())
        assert await w.line(caller) is holder
        assert not await w.facts(caller, ev.CallReattached)
        await w.finish(caller)


async def test_a_call_that_was_being_dialled_is_dialled_by_another(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1)) as w:
        call = await w.system.orchestrator.place_call("agent", faults=CallFaults(silent_handshakes=1))
        entry = await w.jobs.get(call.job_id)
        assert entry is not None
        await call.observed(lambda c: any(frame.event == "hello" for frame in c.frames), "the first hello")
        former = next(bridge for bridge in w.system.bridges if bridge.id.encode() in entry.value)
        await former.kill()
        await call.connected(20)
        await call.user("call 1 turn 1")
        assert await call.reply()
        await call.hang_up()


async def test_a_job_is_called_off_where_another_bridge_has_it_now(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1)) as w:
        callers = [await w.caller() for _ in range(2)]
        caller = callers[0]
        former = await w.line(caller)
        worker = caller.call.worker_id
        await former.kill()
        await w.moves(caller, former)
        await w.system.orchestrator.wait_until(
            lambda: any(each.worker_id == worker for each in w.system.orchestrator.workers),
            "the dead bridge's worker is not registered again",
        )
        [heir] = [each for each in w.system.orchestrator.workers if each.worker_id == worker]
        assert heir.capabilities.max_concurrent == 0
        w.system.orchestrator.cancel(caller.call.job_id)
        assert (await caller.call.ended()).reason == "cancelled"
        await w.finish(caller, "cancelled")
        for each in callers[1:]:
            await w.finish(each)
        await w.system.orchestrator.wait_until(
            lambda: all(each.worker_id != worker for each in w.system.orchestrator.workers),
            "the dead bridge's worker stays registered",
        )


async def test_a_bridge_that_is_asked_to_end_hands_its_calls_over_and_loses_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, runner_env=SLOW_WORDS)) as w:
        caller = await w.caller()
        former = await w.line(caller)
        turn = await caller.ask()
        await caller.hears(turn, 2)
        former.terminate()
        await w.moves(caller, former)
        assert await former.exited() == 0
        await caller.answer(turn)
        assert turn.words == list(range(1, turn.length + 1))
        await caller.answer(await caller.ask())
        await w.finish(caller)


async def test_the_only_bridge_is_ended_at_once_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1, bridges=1)) as w:
        caller = await w.caller()
        former = await w.line(caller)
        former.terminate()
        await former.said("waiting for 1 to end")
        former.terminate()
        assert await former.exited() == 1
        await w.system.start_bridge()
        await w.moves(caller, former)
        await caller.answer(await caller.ask())
        await w.finish(caller)


async def test_the_records_of_calls_that_are_over_are_cleared_away(tmp_path: Path) -> None:
    async with world(tmp_path, Setup(runners=1)) as w:
        caller = await w.caller()
        former = await w.line(caller)
        former.freeze()
        await caller.call.hang_up()
        await former.kill()
        await until(lambda: caller.call.over, "the call's end")
        await w.forgotten(caller)
        assert [getattr(fact, "reason", "") for fact in await w.facts(caller, ev.CallEnded)] == ["lost"]
