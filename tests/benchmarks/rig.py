"""The systems that are measured, each as whole processes, at one line."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.heap import live_kb
from tests.benchmarks.line import Line, open_line
from tests.benchmarks.processes import cpu_ms, process, rss_kb

from unpod.jetstream import connect, ensure, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer

DIRECT: Final = "direct"
DIRECT_JSON: Final = "direct-json"
UNPOD: Final = "unpod"
FLOOR: Final = "floor"
SYSTEMS: Final = (DIRECT, UNPOD, DIRECT_JSON)
MODULES: Final = {DIRECT: "tests.benchmarks.direct", DIRECT_JSON: "tests.benchmarks.direct_json"}
LIVE: Final = "nats-live"
_AGENT: Final = "tests.benchmarks.agent"
_FLOOR: Final = ("-m", "tests.benchmarks.floor")
_GIB: Final = 2**30

_LOOK_S: Final = 0.1
_IDLE_SHARE: Final = 0.08
"""Of a core: no process of any system takes more while nobody speaks, with 1,000 sessions."""
_LOOKS: Final = 30
"""How often it is looked, before a round begins anyway."""


@dataclass(frozen=True, slots=True)
class Rig:
    """The line, the server, and the processes of each system by what they are; the load generator is this process."""

    line: Line
    server: EmbeddedServer
    pids: dict[str, dict[str, int]]
    runners: list[int]
    more: Callable[[], Awaitable[int]]
    """Starts one more runner, and returns its pid."""

    def cpu_ms(self, system: str) -> dict[str, float]:
        """Return the processor time that a system's processes, and the load generator, have used."""
        found = {name: cpu_ms(pid) for name, pid in self.pids[system].items()}
        return {**found, "load": cpu_ms(os.getpid())}

    async def rest(self) -> bool:
        """Return once every process has done what was left to it, so that no round is measured in the next.

        False if one is still busy after `_LOOKS` looks.
        """
        pids = {pid for each in self.pids.values() for pid in each.values()}
        before = {pid: cpu_ms(pid) for pid in pids}
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_S)
            now = {pid: cpu_ms(pid) for pid in pids}
            if max(now[pid] - before[pid] for pid in pids) < _IDLE_SHARE * _LOOK_S * 1000:
                return True
            before = now
        return False

    def rss_kb(self, system: str) -> dict[str, float]:
        """Return the memory of a system's processes."""
        return {name: rss_kb(pid) for name, pid in self.pids[system].items()}

    async def memory_kb(self, system: str) -> dict[str, float]:
        """Return the memory of a system's processes, and as `LIVE` what of the server's is in use."""
        resident = self.rss_kb(system)  # first: to look at what is live makes garbage
        return resident if system != UNPOD else {**resident, LIVE: await live_kb(self.server)}


@asynccontextmanager
async def rig(*, sync: str = "1s", runners: int = 1, direct: bool = True) -> AsyncIterator[Rig]:
    """Start the systems; `sync` is how long NATS may keep a stored record from the disk, or "always"."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unpod-bench-")))
        line = await stack.enter_async_context(open_line())
        options = EmbeddedOptions(folder, store_bytes=16 * _GIB, sync_interval=sync)
        server = await stack.enter_async_context(EmbeddedServer(options))
        async with connect(server.connection()) as nats:
            streams = topology(max_bytes=8 * _GIB)
            await ensure(nats, streams.calls, streams.jobs)
        quiet = {"UNPOD_NATS_URL": server.url, "UNPOD_LOG_LEVEL": "ERROR"}
        there = {
            "UNPOD_API_KEY": "sk_bench",
            "UNPOD_ORCHESTRATOR_URL": line.url,
            "UNPOD_NATS_SYSTEM_URL": server.system_url,
        }

        async def more() -> int:
            return await stack.enter_async_context(process("-m", _AGENT, **quiet))

        agents = [await more() for _ in range(runners)]
        bridge = await stack.enter_async_context(process("-m", "unpod_bridge", **quiet, **there))
        pids = {UNPOD: {"nats": server.pid, "bridge": bridge, "runner": agents[0]}}
        if direct:
            for name, module in MODULES.items():
                pids[name] = {"runner": await stack.enter_async_context(process("-m", module, line.url))}
                await line.worker(name)
            protocol = await stack.enter_async_context(process(*_FLOOR, "relay", line.url, **quiet))
            runner = await stack.enter_async_context(process(*_FLOOR, "runner", **quiet))
            pids[FLOOR] = {"nats": server.pid, "relay": protocol, "runner": runner}
            await line.worker(FLOOR)
        await line.worker(UNPOD)
        yield Rig(line, server, pids, agents, more)
