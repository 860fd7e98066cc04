"""The whole system as real processes: a nats-server, bridges and runners, with the local orchestrator in the test.

Everything starts at once and dies with the test. Who holds a call is read from its log.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from tests.cluster import NODES, Cluster, make_streams
from tests.faults.process import PATIENCE_S, Process, start, until
from tests.faults.wire import Wire
from tests.small_disk import SmallDisk, small_disk

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.subjects import Channel, Subjects
from unpod.errors import LogUnavailable, ProtocolViolation
from unpod.failpoints import VARIABLE
from unpod.jetstream import JetStreamLog, Nats, connect, open_log, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_orchestrator import LocalOrchestrator

SUBJECTS: Final = Subjects()
KEY: Final = "sk_local"
MIB: Final = 1024 * 1024
ROOM: Final = 1_000
_ADDRESS: Final = re.compile(r"(?<=@127\.0\.0\.1:)\d+")
"""A port in the addresses of NATS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a row runs on. `cluster`: three NATS nodes, each record on all of them.

    `wired`: each process reaches NATS by a wire of its own, which can be cut, and each node the others. `module` is
    what runs as a bridge and `agent_module` what runs as a runner; `max_mb` bounds the stream, and `disk_mb` the disk
    under the server, or under the first of three. The orchestrator forgets a worker of which it hears nothing for three
    times `heartbeat_s`. The first runner or bridge dies at the failpoint
    that is named for it, at a random one of the times in `failpoint_at`.
    """

    runners: int = 2
    bridges: int = 2
    cluster: bool = False
    runner_env: Mapping[str, str] = field(default_factory=dict)
    bridge_env: Mapping[str, str] = field(default_factory=dict)
    max_mb: int = 256
    disk_mb: int = 0
    speed: float = 100.0
    warm_handoff_s: float = 60_000.0
    heartbeat_s: int = 1
    wired: bool = False
    runner_failpoint: str = ""
    bridge_failpoint: str = ""
    failpoint_at: tuple[int, int] = (1, 1)
    module: str = "unpod_bridge"
    agent_module: str = "tests.faults.agent"


class Stack:
    """One system; `runners` and `bridges` are the processes that were started, dead ones too."""

    def __init__(
        self,
        setup: Setup,
        directory: Path,
        place: EmbeddedServer | Cluster,
        orchestrator: LocalOrchestrator,
        exits: AsyncExitStack,
    ) -> None:
        self.setup = setup
        self.directory = directory
        self._place = place
        self.orchestrator = orchestrator
        self.runners: list[Process] = []
        self.bridges: list[Process] = []
        self.wires: dict[str, Wire] = {}
        self.routes: dict[str, list[Wire]] = {}
        """Of each node, the wires between it and the others."""
        self.nats: Nats
        self.log: JetStreamLog
        self.small_disk: SmallDisk | None = None
        self._exits = exits
        self._started = 0

    @property
    def server(self) -> EmbeddedServer:
        """The single NATS server."""
        if not isinstance(self._place, EmbeddedServer):
            raise TypeError("this system has three NATS servers")
        return self._place

    @property
    def disk(self) -> SmallDisk:
        """The small disk under it."""
        if self.small_disk is None:
            raise TypeError("this system has no small disk")
        return self.small_disk

    @property
    def cluster(self) -> Cluster:
        """The three NATS servers."""
        if not isinstance(self._place, Cluster):
            raise TypeError("this system has one NATS server")
        return self._place

    # ---------------------------------------------------------------------------------------------------- processes

    async def open(self, failpoint_at: int) -> None:
        """Start everything, and return once calls can be placed."""
        setup = self.setup
        if setup.cluster:
            await self._connect()  # whoever comes first makes the streams, and alone would make them otherwise
        starting = [
            self.start_runner(**_failing(setup.runner_failpoint, failpoint_at, number))
            for number in range(setup.runners)
        ]
        starting += [
            self.start_bridge(**_failing(setup.bridge_failpoint, failpoint_at, number))
            for number in range(setup.bridges)
        ]
        await asyncio.gather(*([] if setup.cluster else [self._connect()]), *starting)
        await self.ready()

    async def _connect(self) -> None:
        self.nats = await self._exits.enter_async_context(connect(self._place.connection("faults")))
        streams = topology(max_bytes=self.setup.max_mb * MIB, replicas=3 if self.setup.cluster else 1)
        await make_streams(self.nats, [streams.calls, streams.jobs])
        self.log = await open_log(self.nats, streams.calls)

    async def ready(self) -> None:
        """Return once every living bridge is registered, and knows every living runner."""
        runners = [runner for runner in self.runners if runner.alive]
        bridges = [bridge for bridge in self.bridges if bridge.alive]
        for runner in runners:
            await runner.said("ready: agent")
        if runners and bridges:
            await self.orchestrator.wait_for_worker("agent", PATIENCE_S, count=len(bridges))
        for worker in self.orchestrator.workers:  # a bridge that knows one runner so far would get no calls at all
            worker.capabilities = replace(worker.capabilities, max_concurrent=ROOM)

    async def start_runner(self, **environment: str) -> Process:
        """Start one more runner; it may not be ready yet."""
        runner = await self._start(
            "runner",
            self.setup.agent_module,
            {"UNPOD_FAULTS_NOTES": str(self.notes_file), **self.setup.runner_env, **environment},
        )
        self.runners.append(runner)
        return runner

    async def start_bridge(self, **environment: str) -> Process:
        """Start one more bridge; it may not be ready yet."""
        bridge = await self._start(
            "bridge",
            self.setup.module,
            {
                "UNPOD_API_KEY": KEY,
                "UNPOD_ORCHESTRATOR_URL": self.orchestrator.url,
                "UNPOD_NATS_SYSTEM_URL": self._place.system_url,
                **self.setup.bridge_env,
                **environment,
            },
        )
        self.bridges.append(bridge)
        return bridge

    async def _start(self, kind: str, module: str, environment: Mapping[str, str]) -> Process:
        self._started += 1
        label = f"{kind}-{self._started}"
        wired = await self._wired(label)
        settings = {"UNPOD_NATS_URL": self._place.url, "UNPOD_LOG_LEVEL": "INFO", **environment}
        urls = {name: wired(value) for name, value in settings.items() if "_NATS_" in name}
        return await start(label, module, self.directory / f"{label}.log", {**settings, **urls})

    async def _wired(self, label: str) -> Callable[[str], str]:
        """Return what puts a process's own wire into addresses of NATS."""
        if not self.setup.wired:
            return lambda url: url
        ports = _ADDRESS.findall(self._place.url)
        wire = await self._exits.enter_async_context(Wire(*map(int, ports)))
        self.wires[label] = wire
        through = dict(zip(ports, map(str, wire.ports), strict=True))
        return lambda url: _ADDRESS.sub(lambda port: through[port[0]], url)

    def wire_of(self, process: Process) -> Wire:
        """Return the wire between a process and NATS."""
        return self.wires[process.label]

    # -------------------------------------------------------------------------------------------------- who has what

    async def owner(self, session: str) -> Process | None:
        """Return the process that owns a session, as its log says; None for nobody yet."""
        last = await self._last_placement(session, "own")
        name = last.runner if isinstance(last, ev.OwnerAppointed) else ""
        return next((process for process in self.runners if name and process.id == name), None)

    async def line(self, session: str) -> Process | None:
        """Return the process that holds a session's line, as its log says."""
        last = await self._last_placement(session, "line")
        name = last.bridge if isinstance(last, ev.LineTaken) else ""
        return next((process for process in self.bridges if name and process.id == name), None)

    async def _last_placement(self, session: str, channel: Channel) -> object:
        subjects = SUBJECTS.call("agent", session)
        message = await self.log.last(subjects.own if channel == "own" else subjects.line)
        if message is None:
            return None
        return codec.read(SUBJECTS, message.subject, message.headers, message.data).body

    # ------------------------------------------------------------------------------------------------------ the log

    async def records(self, session: str) -> list[codec.Record]:
        """Return all records of a session in the order of the stream."""
        records: list[codec.Record] = []
        async for message in self.log.read(SUBJECTS.session(session)):
            with suppress(ProtocolViolation):  # what a row has forged; the processes say so themselves
                records.append(codec.read(SUBJECTS, message.subject, message.headers, message.data, message.seq))
        return records

    async def closed(self, sessions: Sequence[str], within_s: float = PATIENCE_S) -> None:
        """Return once nothing is left to be done for the sessions: their `run.session.closed` is stored."""
        deadline = asyncio.get_running_loop().time() + within_s
        left = set(sessions)
        while left:
            for session in tuple(left):
                with suppress(LogUnavailable):
                    if await self.log.last(SUBJECTS.call("agent", session).run("session.closed")) is not None:
                        left.discard(session)
            if left and asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{len(left)} sessions are not closed after {within_s:g} s: {sorted(left)[:5]}")
            if left:
                await asyncio.sleep(0.02)

    # --------------------------------------------------------------------------------------------- the world outside

    @property
    def notes_file(self) -> Path:
        """Where agents note what they have done outside."""
        return self.directory / "notes.jsonl"

    def notes(self, what: str, session: str = "") -> list[dict[str, object]]:
        """Return what agents have noted, in order."""
        if not self.notes_file.exists():
            return []
        lines = [json.loads(line) for line in self.notes_file.read_text().splitlines()]
        return [line for line in lines if line["what"] == what and session in ("", line.get("session"))]

    async def noted(self, what: str, count: int = 1, within_s: float = PATIENCE_S) -> None:
        """Return once agents have noted something so often."""
        await until(lambda: len(self.notes(what)) >= count, f"{count} notes of {what!r}", within_s)


def _failing(name: str, at: int, number: int) -> dict[str, str]:
    """Return what tells the first process of a kind where to die."""
    return {VARIABLE: f"{name}=kill@{at}"} if name and number == 0 else {}


async def _wired_routes(exits: AsyncExitStack, nodes: Cluster) -> dict[str, list[Wire]]:
    wires: dict[str, list[Wire]] = {node: [] for node in NODES}
    for one, other in permutations(NODES, 2):
        wire = await exits.enter_async_context(Wire(nodes.route_port(other)))
        nodes.link(one, other, wire.port)
        wires[one].append(wire)
        wires[other].append(wire)
    return wires


@asynccontextmanager
async def stack(directory: Path, setup: Setup | None = None, failpoint_at: int = 1) -> AsyncIterator[Stack]:
    """Run a system for as long as the block lasts."""
    setup = Setup() if setup is None else setup
    async with AsyncExitStack() as exits:
        place: EmbeddedServer | Cluster
        routes: dict[str, list[Wire]] = {}
        home = directory / "nats" / (NODES[0] if setup.cluster else "")
        disk = exits.enter_context(small_disk(home, setup.disk_mb)) if setup.disk_mb else None
        if setup.cluster:
            nodes = place = Cluster(directory / "nats")
            exits.push_async_callback(nodes.stop)
            if setup.wired:
                routes = await _wired_routes(exits, nodes)
            await nodes.start()
        else:
            place = await exits.enter_async_context(EmbeddedServer(EmbeddedOptions(directory / "nats")))
        orchestrator = LocalOrchestrator(
            speed=setup.speed,
            heartbeat_interval_s=setup.heartbeat_s,
            warm_handoff_s=setup.warm_handoff_s,
            keep_ended_calls=1_000,
        )
        await exits.enter_async_context(orchestrator)
        made = Stack(setup, directory, place, orchestrator, exits)
        made.routes = routes
        made.small_disk = disk
        try:
            await made.open(failpoint_at)
            yield made
        finally:
            for process in (*made.runners, *made.bridges):
                if process.alive:
                    await process.kill()
