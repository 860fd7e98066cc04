"""Workers that dial in: which sockets are one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast
from urllib.parse import urlencode

import pytest
from tests.unit.bridge.call.call_rig import FakeSocket, FakeWorker
from tests.unit.bridge.jobs.test_jobs import SUBJECTS, Bench, until

from unpod.errors import LogUnavailable
from unpod.testing.clock import VirtualClock
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.takeover import Care
from unpod_bridge.fleet.runners import Pool
from unpod_bridge.jobs.dial_in import DialIn, DialInCall
from unpod_bridge.jobs.workers import Workers
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.transport.dial_in import DialInSockets
from unpod_bridge.transport.serving import Serving
from unpod_bridge.transport.sockets import Receiver
from unpod_bridge.transport.websocket_server import Arrival
from unpod_bridge.workers.control_link import ControlLink


class Visitor:
    """A socket that has dialled in; its worker says nothing."""

    def __init__(self, session: str, job: str) -> None:
        self.target = "/?" + urlencode({"session_id": session, "job_id": job})
        self.socket: FakeSocket | None = None
        self.refused: int | None = None

    def hear(self, receiver: Receiver) -> FakeSocket:
        self.socket = FakeSocket(receiver, self.target)
        return self.socket

    def refuse(self, code: int) -> None:
        self.refused = code

    def cut(self) -> None:
        if self.socket is not None:
            self.socket.lose(None)


def _link(_pool: Pool, _worker: str, _changed: Callable[[], None]) -> ControlLink:
    raise AssertionError("no worker is made here")


class Door:
    """A DialIn, with the jobs of a bench behind it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        log = MemoryLog(bench.broker)
        dial_ins = DialInSockets(FakeWorker(), is_open=True, patience_s=0.05)
        services = LineServices(
            log=log, bus=log, subjects=SUBJECTS, clock=VirtualClock(), bridge_id="bridge-1", dialer=dial_ins
        )
        workers = Workers(log, SUBJECTS, "bridge-1", bench.records, lambda _: True, make=_link, changed=lambda: None)
        workers.own[Pool("agent")] = cast("ControlLink", bench.link)
        self.dial_in = DialIn(
            Serving("ws://here", "127.0.0.1", 0),
            dial_ins,
            jobs=bench.jobs,
            records=bench.records,
            services=services,
            care=cast("Care", None),
            workers=workers,
        )

    def comes(self, session: str = "session-1", job: str = "job-1") -> Visitor:
        visitor = Visitor(session, job)
        self.dial_in.arrived(cast("Arrival", visitor))
        return visitor


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    bench = Bench()
    await bench.listen()
    yield Door(bench)
    await bench.jobs.abandon(1.0)
    await bench.records.close()


async def test_two_sockets_of_one_call_are_one_call(door: Door) -> None:
    former, latter = door.comes(), door.comes()
    await until(lambda: former.socket is not None or latter.socket is not None)
    assert len(door.bench.jobs._tasks) == 1
    assert door.bench.jobs.calls == 1


async def test_a_job_that_is_here_is_not_begun_under_another_name(door: Door) -> None:
    former, latter = door.comes("session-1"), door.comes("session-2")
    await until(lambda: former.socket is not None)
    async with asyncio.timeout(5):
        while latter.refused is None:  # noqa: ASYNC110 - the dial-in sockets' own timer
            await asyncio.sleep(0.01)
    assert (door.bench.jobs.calls, latter.refused) == (1, 1013)
    assert former.refused is None


async def test_calls_without_ids_are_calls_of_their_own(door: Door) -> None:
    visitors = [door.comes("", ""), door.comes("", "")]
    await until(lambda: all(visitor.socket is not None for visitor in visitors))
    assert door.bench.jobs.calls == 2


async def test_a_call_that_is_not_taken_says_why(door: Door) -> None:
    door.bench.usage = 0.95
    with pytest.raises(LogUnavailable, match="log_full"):
        await door.dial_in.place(DialInCall(door.dial_in, "job-1", "session-1"), "agent")
    assert door.bench.link.registration.refusals == {"log_full": 1}


async def test_a_call_that_the_job_store_has_no_room_for_is_counted_and_its_place_is_free(door: Door) -> None:
    door.bench.store_log.broker.full = True
    with pytest.raises(LogUnavailable, match="jobs_full"):
        await door.dial_in.place(DialInCall(door.dial_in, "job-1", "session-1"), "agent")
    assert door.bench.link.registration.refusals == {"jobs_full": 1}
    await until(lambda: door.bench.releases() == 1)
