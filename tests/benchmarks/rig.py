"""The systems that are measured, each as whole processes, at one line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.line import Line, open_line
from tests.benchmarks.processes import cpu_ms, process, rss_kb

from unpod.jetstream import EmbeddedOptions, EmbeddedServer, connect, ensure, topology

DIRECT: Final = "direct"
DIRECT_JSON: Final = "direct-json"
UNPOD: Final = "unpod"
SYSTEMS: Final = (DIRECT, UNPOD, DIRECT_JSON)
MODULES: Final = {DIRECT: "tests.benchmarks.direct", DIRECT_JSON: "tests.benchmarks.direct_json"}
_AGENT: Final = "tests.benchmarks.agent"
_GIB: Final = 2**30


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

    def rss_kb(self, system: str) -> dict[str, float]:
        """Return the memory of a system's processes."""
        return {name: rss_kb(pid) for name, pid in self.pids[system].items()}


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
        await line.worker(UNPOD)
        yield Rig(line, server, pids, agents, more)
