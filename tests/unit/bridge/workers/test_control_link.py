"""The control socket's shell, with sockets that are written here."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from unpod.errors import OrchestratorTooOld, RunnerAuthError
from unpod_bridge.transport.sockets import DialError, Receiver
from unpod_bridge.wire.job import Job
from unpod_bridge.workers import control_link, registration
from unpod_bridge.workers.control_link import ControlLink
from unpod_bridge.workers.effects import Assigned, Identity
from unpod_bridge.workers.registration import Registration


class FakeSocket:
    """Our end of a control socket; the test is the other end."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver: Receiver | None = receiver
        self.written: list[dict[str, Any]] = []
        self.closed_with: int | None = None

    def write(self, data: bytes) -> None:
        if self.receiver is not None:
            self.written.append(json.loads(data))

    def ping(self, token: bytes) -> None:
        raise NotImplementedError

    def close(self, code: int, reason: str = "") -> None:
        self.closed_with = code
        self.receiver = None

    def leave(self, code: int) -> None:
        self.close(code)

    def abort(self) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    def say(self, kind: str, **fields: object) -> None:
        assert self.receiver is not None
        self.receiver.on_frame(json.dumps({"type": kind, **fields}).encode(), binary=False)

    def lose(self, code: int | None = None) -> None:
        receiver, self.receiver = self.receiver, None
        assert receiver is not None
        receiver.on_lost(code, "")

    def is_open(self) -> bool:
        return self.receiver is not None

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.written]


class FakeDialer:
    """Opens sockets, or fails as it is told."""

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.failures: list[DialError] = []
        self.urls: list[str] = []
        self.headers: Mapping[str, str] | None = None
        self.early: Callable[[Receiver], None] | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> FakeSocket:
        self.urls.append(url)
        self.headers = headers
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        socket = FakeSocket(receiver)
        self.sockets.append(socket)
        if self.early is not None:
            self.early(receiver)
        return socket


class FakeHandler:
    """Notes what becomes of jobs."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []

    def find(self, link: ControlLink, assigned: Assigned) -> None:
        self.noted.append(("find", assigned.job.job_id))

    def extend(self, assigned: Assigned) -> None:
        self.noted.append(("extend", assigned.job.job_id))

    def withdraw(self, job_id: str) -> None:
        self.noted.append(("withdraw", job_id))

    def dial(self, job: Job) -> None:
        self.noted.append(("dial", job.job_id))

    def cancel(self, job_id: str) -> None:
        self.noted.append(("cancel", job_id))


class Bench:
    """A link, its dialer, its handler."""

    def __init__(self, capacity: int = 5, fresh_s: float = 3.0) -> None:
        self.dialer = FakeDialer()
        self.handler = FakeHandler()
        self.registration = Registration(Identity("agent", "agent#1", server="ws://test"))
        self.registration.set_capacity(capacity)
        self.states: list[str] = []
        self.link = ControlLink(
            self.registration,
            dialer=self.dialer,
            url="ws://test/v1/internal/workers",
            headers={"Authorization": "Bearer sk_secret"},
            handler=self.handler,
            on_change=lambda: self.states.append(self.registration.state),
            fresh_s=fresh_s,
        )
        self.run = asyncio.create_task(self.link.run())

    async def socket(self, number: int = 1) -> FakeSocket:
        await until(lambda: len(self.dialer.sockets) == number and bool(self.dialer.sockets[-1].written))
        return self.dialer.sockets[-1]

    async def registered(self, number: int = 1, **fields: object) -> FakeSocket:
        socket = await self.socket(number)
        socket.say("registered", **{"transport_ack": "dial_out", **fields})
        return socket

    def assign(self, socket: FakeSocket, job_id: str = "job-1", **fields: object) -> None:
        job = {"job_id": job_id, "agent_id": "agent", "bridge_url": "ws://x", "call_token": "t", "assign_id": "a"}
        socket.say("job.assign", **{**job, **fields})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(control_link, "RENEW_PATIENCE_S", 0.05)


async def test_it_dials_with_the_key_registers_and_beats() -> None:
    bench = Bench()
    socket = await bench.registered(heartbeat_interval_s=0.05)
    assert bench.dialer.urls == ["ws://test/v1/internal/workers"]
    assert bench.dialer.headers == {"Authorization": "Bearer sk_secret"}
    await until(lambda: socket.kinds() == ["register", "heartbeat", "heartbeat", "heartbeat"])
    assert bench.states == ["registered"]
    bench.link.leave()
    await bench.run
    assert socket.closed_with == 1000


async def test_what_comes_before_the_socket_is_ours_is_not_lost() -> None:
    bench = Bench()

    def early(receiver: Receiver) -> None:
        receiver.on_frame(b'{"type":"registered","transport_ack":"dial_out"}', binary=False)

    bench.dialer.early = early
    socket = await bench.socket()
    await until(lambda: socket.kinds() == ["register", "heartbeat"])
    bench.dialer.early = lambda receiver: receiver.on_lost(4001, "")
    socket.lose()
    with pytest.raises(RunnerAuthError):
        await bench.run


async def test_a_lost_socket_is_dialled_again() -> None:
    bench = Bench()
    for number, code in enumerate((None, 1006, 1012, 1000, 4000), 1):
        socket = await bench.registered(number)
        socket.lose(code)
    last = await bench.registered(6)
    assert {frame["worker_id"] for frame in last.written} == {"agent#1"}
    bench.link.leave()
    await bench.run


async def test_an_unreachable_orchestrator_is_dialled_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.dialer.failures = [DialError("nobody there"), DialError("HTTP 503", status=503)]
    await bench.registered()
    assert bench.states == ["unreachable", "unreachable", "connecting", "registered"]
    assert "UNPOD_ORCHESTRATOR_URL" in caplog.text
    assert "sk_secret" not in caplog.text
    bench.link.leave()
    await bench.run


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_ends_it(status: int) -> None:
    bench = Bench()
    bench.dialer.failures = [DialError("no", status=status)]
    with pytest.raises(RunnerAuthError):
        await bench.run
    assert bench.states == ["refused"]
    assert len(bench.dialer.urls) == 1


async def test_an_old_orchestrator_ends_it() -> None:
    bench = Bench()
    socket = await bench.socket()
    socket.say("registered")
    with pytest.raises(OrchestratorTooOld):
        await bench.run
    assert socket.closed_with == 1000
    assert bench.states == ["too_old"]


async def test_an_orchestrator_that_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "REGISTER_S", 0.02)
    bench = Bench()
    first = await bench.socket()
    await bench.registered(2)
    assert first.closed_with == 1000
    bench.link.leave()
    await bench.run


async def test_a_job_from_assignment_to_end() -> None:
    bench = Bench()
    socket = await bench.registered()
    bench.assign(socket)
    bench.assign(socket, assign_id="b")
    bench.link.taken("job-1")
    bench.assign(socket, assign_id="c")
    socket.say("job.cancel", job_id="job-1")
    bench.link.ended("job-1")
    assert bench.handler.noted == [("find", "job-1"), ("extend", "job-1"), ("dial", "job-1"), ("cancel", "job-1")]
    acks = [(frame["assign_id"], frame["accepted"]) for frame in socket.written if frame["type"] == "job.ack"]
    assert acks == [("b", True), ("c", True)]
    bench.link.leave()
    await bench.run


async def test_a_deadline_is_kept_whatever_the_desk_does() -> None:
    bench = Bench()
    socket = await bench.registered()
    bench.assign(socket, deadline_ms=40)
    await until(lambda: socket.kinds()[-1] == "job.ack")
    assert socket.written[-1]["reason"] == "at_capacity"
    assert bench.handler.noted == [("find", "job-1"), ("withdraw", "job-1")]
    bench.link.leave()
    await bench.run


async def test_leaving_waits_for_the_calls_and_may_be_taken_back() -> None:
    bench = Bench()
    socket = await bench.registered()
    bench.assign(socket)
    bench.link.taken("job-1")
    bench.link.leave()
    assert socket.is_open()
    bench.link.stay()
    bench.link.ended("job-1")
    assert socket.is_open()
    bench.link.leave()
    assert socket.closed_with == 1000
    await bench.run


async def test_draining_refuses_and_leaves() -> None:
    bench = Bench()
    socket = await bench.registered()
    bench.assign(socket, "job-1")
    bench.link.taken("job-1")
    bench.assign(socket, "job-2")
    bench.link.drain()
    bench.assign(socket, "job-3")
    acks = {frame["job_id"]: frame["reason"] for frame in socket.written if frame["type"] == "job.ack"}
    assert acks == {"job-1": None, "job-2": "draining", "job-3": "draining"}
    bench.link.ended("job-1")
    await bench.run


async def test_leaving_while_it_waits_to_dial_and_while_it_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "FIRST_DELAY_S", 60.0)
    waiting = Bench()
    waiting.dialer.failures = [DialError("nobody there")]
    await until(lambda: waiting.states == ["unreachable"])
    waiting.link.leave()
    await asyncio.wait_for(waiting.run, 10)

    dialling = Bench()
    dialling.dialer.gate.clear()
    await until(lambda: bool(dialling.dialer.urls))
    dialling.link.leave()
    dialling.dialer.gate.set()
    await asyncio.wait_for(dialling.run, 10)
    assert dialling.dialer.sockets[0].closed_with == 1000


async def test_a_new_capacity_is_registered_on_a_new_socket_once_nothing_is_looked_for() -> None:
    bench = Bench(capacity=5)
    socket = await bench.registered()
    bench.link.renew()
    assert socket.is_open()  # nothing has changed
    bench.registration.set_capacity(8)
    bench.assign(socket)
    bench.link.renew()
    assert socket.is_open()
    bench.link.taken("job-1")
    assert socket.closed_with == 1000
    again = await bench.registered(2)
    assert again.written[0]["capabilities"]["max_concurrent"] == 8
    assert again.written[0]["worker_id"] == "agent#1"
    again.say("job.cancel", job_id="job-1")
    assert bench.handler.noted[-1] == ("cancel", "job-1")
    bench.link.ended("job-1")
    bench.link.leave()
    await bench.run


async def test_a_new_capacity_does_not_wait_for_ever() -> None:
    bench = Bench(capacity=5)
    socket = await bench.registered()
    bench.registration.set_capacity(8)
    bench.assign(socket)
    bench.link.renew()
    await bench.registered(2)
    assert bench.handler.noted == [("find", "job-1"), ("withdraw", "job-1")]
    bench.link.leave()
    await bench.run


async def test_a_worker_whose_calls_were_taken_is_registered_anew_once_for_all_of_them() -> None:
    bench = Bench(fresh_s=0.0)
    socket = await bench.registered()
    bench.link.taken_away()
    assert socket.closed_with == 1000
    again = await bench.registered(2)
    assert again.written[0]["worker_id"] == "agent#1"
    bench.link.leave()
    await bench.run

    fresh = Bench(fresh_s=60.0)
    socket = await fresh.registered()
    fresh.link.taken_away()
    assert socket.is_open()
    fresh.link.register_anew()
    assert socket.closed_with == 1000
    await fresh.registered(2)
    fresh.link.leave()
    await fresh.run


async def test_a_link_that_is_cancelled_says_goodbye(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench()
    socket = await bench.registered()
    bench.run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.run
    assert socket.closed_with == 1000
    assert "sk_secret" not in caplog.text
