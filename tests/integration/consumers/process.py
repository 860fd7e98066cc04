"""`unpod consume metrics` as a process, and what it says to Prometheus."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families


def samples_of(text: str) -> dict[str, float]:
    """Return each sample's sum over all labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Consumer:
    """The process and its endpoint."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._port = port

    async def samples(self) -> dict[str, float]:
        try:
            text = await asyncio.to_thread(self._scrape)
        except OSError:
            return {}  # it has not come up yet
        return samples_of(text)

    def rss_mb(self) -> float:
        """Return its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def _scrape(self) -> str:
        with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    async def up(self) -> None:
        """Return once it answers."""
        async with asyncio.timeout(20):
            while not await self.samples():
                assert self.process.returncode is None
                await asyncio.sleep(0.05)

    async def until(self, name: str, value: float | None) -> dict[str, float]:
        async with asyncio.timeout(20):
            while (found := await self.samples()).get(name) != value:
                assert self.process.returncode is None
                await asyncio.sleep(0.05)
        return found


@asynccontextmanager
async def consuming(url: str, name: str = "metrics", *arguments: str, **settings: str) -> AsyncIterator[Consumer]:
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "UNPOD_NATS_URL": url,
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        **settings,
    }
    command = (sys.executable, "-m", "unpod_cli", "consume", name, *arguments)
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        yield Consumer(process, port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def from_start(url: str) -> dict[str, float]:
    """Return what the whole log gives."""
    return samples_of(await again(url, "metrics"))


async def again(url: str, name: str, **settings: str) -> str:
    """Run a consumer over what is in the log; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "unpod_cli", "consume", name, "--nats-url", url, "--from-start"),
        env={**{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}, **settings},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
