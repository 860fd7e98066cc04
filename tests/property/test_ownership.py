"""Whatever happens in a fleet, and in whatever order: one line, one owner, at each position of the log."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.contract.places import Client, Place, open_place
from tests.property.ownership import Bridge, Fleet, Runner, check

from unpod.testing.memory import MemoryLog

T = TypeVar("T")

_sessions = itertools.count()


class OneCall(RuleBasedStateMachine):
    """One call in a fleet whose bridges and runners are replaced, stopped, and wake up again."""

    loop: asyncio.AbstractEventLoop
    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.fleet = Fleet(self.connect, self.place.client, f"s{next(_sessions)}")

    def run(self, work: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    async def connect(self) -> Client:
        client = await self.place.client()
        self.clients.append(client)
        return client

    @property
    def can_cut(self) -> bool:
        """Whether one process can be cut off, and not only all of them."""
        return bool(self.clients) and isinstance(self.clients[0].log, MemoryLog)

    @initialize()
    def begin(self) -> None:
        self.run(self.fleet.begin())

    # --- what happens

    @rule(data=st.data())
    def a_caller_speaks_at_a_bridge_that_has_or_had_the_call(self, data: st.DataObject) -> None:
        bridge = self.bridge(data)

        async def speak() -> None:
            bridge.hear()

        self.run(speak())
        self.look()

    @rule(data=st.data(), command=st.booleans())
    def a_runner_that_owns_or_owned_the_session_writes(self, data: st.DataObject, command: bool) -> None:  # noqa: FBT001
        runner = self.runner(data)

        async def write() -> None:
            runner.say(command=command, seen=await self.seen())

        self.run(write())
        self.look()

    @rule(data=st.data(), heard=st.booleans())
    def a_bridge_asks_where_the_records_of_its_owner_stand(self, data: st.DataObject, heard: bool) -> None:  # noqa: FBT001
        bridge, runner = self.bridge(data), self.runner(data)
        bridge.ask(runner, heard=heard)

    @precondition(lambda self: len(self.fleet.bridges) < 5)
    @rule()
    def another_bridge_takes_the_line(self) -> None:
        self.run(self.fleet.adopt())
        self.look()

    @precondition(lambda self: len(self.fleet.runners) < 8 and self.connected)
    @rule(data=st.data(), heard=st.booleans())
    def a_bridge_that_has_or_had_the_call_appoints_another_owner(self, data: st.DataObject, heard: bool) -> None:  # noqa: FBT001
        bridge = data.draw(st.sampled_from(self.connected), "which bridge")
        holds_the_line = bridge is self.fleet.bridges[-1]
        begun = self.run(self.fleet.take_over(bridge, heard=heard))
        assert begun == holds_the_line
        self.look()

    @precondition(lambda self: len(self.fleet.runners) < 8 and self.fleet.bridges[-1] in self.connected[1:])
    @rule(data=st.data())
    def two_bridges_appoint_at_once(self, data: st.DataObject) -> None:
        other = data.draw(st.sampled_from(self.connected[:-1]), "which")

        async def both() -> list[bool]:
            return await asyncio.gather(*(self.fleet.take_over(each) for each in (other, self.fleet.bridges[-1])))

        assert self.run(both()) == [False, True]
        self.look()

    @rule(data=st.data())
    def a_record_is_published_again(self, data: st.DataObject) -> None:
        stored = self.run(self.fleet.messages())
        again = data.draw(st.integers(0, 1000), "which record") % len(
            stored
        )  # how many stand there is a matter of time
        self.run(self.fleet.publish(stored[again]))
        self.look()

    @precondition(lambda self: self.can_cut)
    @rule(data=st.data())
    def a_process_loses_its_connection_or_has_it_back(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients), "whose connection")

        async def turn() -> None:
            assert isinstance(client.log, MemoryLog)
            client.log.available = not client.log.available

        self.run(turn())
        self.look()

    @rule(turns=st.integers(1, 5))
    def time_passes(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(turn())
        self.look()

    # --- what holds

    def look(self) -> None:
        """Check the log as it stands, with records still on their way."""
        check(self.run(self.fleet.records()))

    def teardown(self) -> None:
        if not self.fleet.bridges:
            return
        last = self.fleet.bridges[-1]

        async def settle() -> None:
            for client in self.clients:
                if isinstance(client.log, MemoryLog):
                    client.log.available = True
            last.hear()
            assert last.journal is not None
            await last.journal.flush()
            assert await self.fleet.take_over(last)  # whatever the others have done, the line is who decides
            owner = self.fleet.runners[-1]
            owner.say(command=True, seen=last.journal.index)
            await owner.journal.flush()
            await self.fleet.close()

        self.run(settle())
        records = self.run(self.fleet.records())
        check(records)
        assert last.journal is not None
        assert max(r.envelope.index for r in records if r.channel in ("evt", "ack")) == last.journal.index

    def bridge(self, data: st.DataObject) -> Bridge:
        return data.draw(st.sampled_from(self.fleet.bridges), "which bridge")

    @property
    def connected(self) -> list[Bridge]:
        """The bridges that can reach the log."""
        return [bridge for bridge in self.fleet.bridges if bridge.connected]

    def runner(self, data: st.DataObject) -> Runner:
        return data.draw(st.sampled_from(self.fleet.runners), "which runner")

    async def seen(self) -> int:
        records = await self.fleet.records()
        return max(r.envelope.index for r in records if r.channel in ("evt", "ack"))


def play(place: str, directory: Path, examples: int, steps: int) -> None:
    loop = asyncio.new_event_loop()
    opened = open_place(place, directory)
    try:
        OneCall.loop, OneCall.place = loop, loop.run_until_complete(opened.__aenter__())
        run_state_machine_as_test(
            OneCall,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()


@pytest.mark.slow
def test_one_owner_and_one_line_in_memory(tmp_path: Path) -> None:
    play("memory", tmp_path, examples=50, steps=25)


@pytest.mark.slow
@pytest.mark.integration
def test_one_owner_and_one_line_on_a_server(tmp_path: Path) -> None:
    play("jetstream", tmp_path, examples=20, steps=15)
