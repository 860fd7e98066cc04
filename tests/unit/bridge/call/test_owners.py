"""What runners and other bridges tell a bridge of its sessions, as it comes over the bus."""

from __future__ import annotations

from tests.unit.bridge.call.call_rig import SUBJECTS, FakeWorker

from unpod.core.dispatch_messages import HandOver, ProbationAnnounced, ProbationTold, encode
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock, settle
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.owners import Owners
from unpod_bridge.fleet.dispatch import Dispatcher
from unpod_bridge.journal.placements import LineServices


async def test_what_runners_and_bridges_say_comes_to_where_it_counts() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(now_ns=clock.now_ns)
    log, runner = MemoryLog(broker), MemoryLog(broker)
    services = LineServices(
        log=log, bus=log, subjects=SUBJECTS, clock=clock, bridge_id="bridge-1", dialer=FakeWorker(verbs=())
    )
    owners = Owners(log, services, Dispatcher(log, SUBJECTS, "bridge-1"))
    await owners.open()
    owners.suspects.hold("runner-1", "s", 7)
    to_us = SUBJECTS.bridge("bridge-1")
    runner.send(to_us, b"nonsense")
    runner.send(to_us, encode(HandOver(runner="runner-1", sessions=("unknown",))))
    runner.send(to_us, encode(ProbationTold(runner="runner-1", session="s", epoch=7, phase="begun")))
    runner.send(SUBJECTS.probations, b"nonsense")
    other = ProbationAnnounced(bridge="bridge-2", runner="runner-1", session="t", phase="begun")
    runner.send(SUBJECTS.probations, encode(other))
    await settle()
    assert owners.suspects.count("runner-1") == 2
    await owners.close()
