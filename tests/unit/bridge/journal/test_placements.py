"""How a bridge comes to know the log's time."""

from __future__ import annotations

from tests.unit.bridge.call.call_rig import SUBJECTS, FakeWorker

from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock
from unpod.testing.memory import MemoryLog
from unpod_bridge.journal.placements import ANCHOR_S, LineServices, take_line
from unpod_bridge.wire.job import Job


async def test_the_log_s_time_is_looked_up_for_the_first_of_many_calls_and_now_and_then() -> None:
    clock, ahead_s = VirtualClock(), 600.0
    log = MemoryLog(MemoryBroker(now_ns=lambda: clock.now_ns() + int(ahead_s * 1e9)))
    services = LineServices(
        log=log, bus=log, subjects=SUBJECTS, clock=clock, bridge_id="bridge-1", dialer=FakeWorker(verbs=())
    )

    async def taken(session: str, after: int = 0) -> tuple[int, int]:
        job = Job(f"job-{session}", "call-1", "agent-1", "ws://w/c", "token")
        writing = await take_line(services, SUBJECTS.call("agent-1", session), job, session, after=after)
        return writing.epoch, round(writing.offset_s)

    epoch, offset_s = await taken("a")
    assert offset_s == 600
    ahead_s = 500.0  # as if the server's clock had been set
    assert (await taken("b"))[1] == 600
    assert (await taken("a", epoch))[1] == 500  # another bridge had it: it is looked at anyway
    ahead_s = 400.0
    assert (await taken("c"))[1] == 500
    await clock.advance(ANCHOR_S)
    assert (await taken("d"))[1] == 400
