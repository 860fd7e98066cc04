"""Does what a plan says to real processes, and writes down what it has done, when, and to whom."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.cluster import NODES
from tests.faults.chaos.plan import CALL, CONTROL, NATS, ROUTE, RUNNER, Fault
from tests.faults.process import Process
from tests.faults.stack import Stack
from tests.faults.wire import BOTH, Way, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from unpod_orchestrator import LocalCall

SLOW_S: Final = 0.2
TRICKLE_BYTES: Final = 400
"""Fifty times a second: 20 kB/s for all calls of a process."""


@dataclass(slots=True)
class Deed:
    """One fault as it was done; times are the event loop's. `whom`: a process's name in the log, a node's, a call's."""

    fault: Fault
    whom: str
    began: float
    ended: float | None = None

    def __str__(self) -> str:
        return f"{self.fault.kind} {self.whom}"

    def overlap(self, begin: float, end: float) -> float:
        """Return for how many seconds of a time it was going on."""
        ended = end if self.ended is None else self.ended
        return max(0.0, min(end, ended) - max(begin, self.began))


class Places:
    """Who stands in which slot now: a process that was killed is followed by another."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.killed: set[Process] = set()
        self._runners = list(stack.runners)
        self._bridges = list(stack.bridges)

    def process(self, fault: Fault) -> Process:
        """Return the process in a fault's slot."""
        return (self._runners if fault.role == RUNNER else self._bridges)[fault.slot]

    async def replace(self, fault: Fault) -> None:
        """Start another one in a slot."""
        if fault.role == RUNNER:
            self._runners[fault.slot] = await self.stack.start_runner()
        else:
            self._bridges[fault.slot] = await self.stack.start_bridge()


class Nemesis:
    """Does the faults of a plan; `calls` says which calls live now."""

    def __init__(self, places: Places, calls: Callable[[], Sequence[LocalCall]]) -> None:
        self.deeds: list[Deed] = []
        self._places = places
        self._stack = places.stack
        self._calls = calls
        self._does: dict[str, Callable[[Fault, Deed], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "drop": self._drop,
            "cut": partial(self._harm, how=_cut),
            "away": partial(self._harm, how=_away),
            "silent": partial(self._harm, how=_silent),
            "oneway": partial(self._harm, how=_oneway),
            "slow": partial(self._harm, how=_slow),
            "trickle": partial(self._harm, how=_trickle),
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Do each at its time; return when all are over and everything runs again."""
        loop = asyncio.get_running_loop()
        begun = loop.time()

        async def do(fault: Fault) -> None:
            await asyncio.sleep(begun + fault.at_s - loop.time())
            deed = Deed(fault, self._whom(fault), loop.time())
            self.deeds.append(deed)
            try:
                await self._does[fault.kind](fault, deed)
            finally:
                deed.ended = loop.time()

        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                tasks.create_task(do(fault))

    def _whom(self, fault: Fault) -> str:
        match fault.role:
            case "runner" | "bridge":
                return self._places.process(fault).id
            case "nats" | "route":
                return f"{fault.role} {NODES[fault.slot]}" if self._stack.setup.cluster else "nats"
            case _:
                return fault.role

    # ----------------------------------------------------------------------------------------------------- processes

    async def _kill(self, fault: Fault, _: Deed) -> None:
        if fault.role != NATS:
            victim = self._places.process(fault)
            self._places.killed.add(victim)
            await victim.kill()
            await asyncio.sleep(fault.lasts_s)
            await self._places.replace(fault)
        elif self._stack.setup.cluster:
            node = NODES[fault.slot]
            await self._stack.cluster.kill(node)
            await asyncio.sleep(fault.lasts_s)
            await self._stack.cluster.start(node)
        else:
            await self._stack.server.down(kill=True)
            await asyncio.sleep(fault.lasts_s)
            await self._stack.server.up()

    async def _stop(self, fault: Fault, _: Deed) -> None:
        send = self._signals(fault)
        send(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            send(signal.SIGCONT)

    def _signals(self, fault: Fault) -> Callable[[int], None]:
        if fault.role == NATS:
            if self._stack.setup.cluster:
                return partial(self._stack.cluster.signal, NODES[fault.slot])
            return partial(os.kill, self._stack.server.pid)
        process = self._places.process(fault)
        return lambda number: process.freeze() if number == signal.SIGSTOP else process.thaw()

    # --------------------------------------------------------------------------------------------------------- links

    async def _harm(self, fault: Fault, _: Deed, how: Callable[[Wire, Fault], None]) -> None:
        wires = self._wires(fault)
        for wire in wires:
            how(wire, fault)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            for wire in wires:
                wire.heal()

    def _wires(self, fault: Fault) -> list[Wire]:
        if fault.role == ROUTE:
            return self._stack.routes[NODES[fault.slot]]
        return [self._stack.wire_of(self._places.process(fault))]

    # ------------------------------------------------------------------------------------------------------- sockets

    async def _drop(self, fault: Fault, deed: Deed) -> None:
        if fault.role == CALL:
            living = [call for call in self._calls() if call.live]
            if living:
                call = living[int(fault.luck * len(living))]
                deed.whom = call.session_id
                call.drop()
        elif fault.role == CONTROL:
            workers = self._stack.orchestrator.workers
            if workers:
                deed.whom = workers[int(fault.luck * len(workers))].worker_id
                self._stack.orchestrator.drop_control(deed.whom)


def _cut(wire: Wire, _: Fault) -> None:
    wire.cut()


def _away(wire: Wire, _: Fault) -> None:
    wire.held = True
    wire.cut()


def _silent(wire: Wire, _: Fault) -> None:
    wire.stopped = BOTH


def _oneway(wire: Wire, fault: Fault) -> None:
    way: Way = "there" if fault.luck < 0.5 else "back"
    wire.stopped = frozenset({way})


def _slow(wire: Wire, _: Fault) -> None:
    wire.delay_s = SLOW_S


def _trickle(wire: Wire, _: Fault) -> None:
    wire.trickle = TRICKLE_BYTES
