"""What compose.yaml starts, started on this machine: only names, ports and folders of containers become this one's."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from tests.cluster import free_ports
from tests.pages import ROOT

from unpod.processes.embedded import find_binary

K = TypeVar("K")

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())["services"]
NODES = ("nats-1", "nats-2", "nats-3")

_PORTS = ("UNPOD_HEALTH_PORT", "OTEL_EXPORTER_PROMETHEUS_PORT")
_CONFIG = (ROOT / "compose" / "nats" / "fleet.conf").read_text()


def _on_this_machine(client: int, routes: dict[str, int], node: str, home: Path) -> str:
    """Return the configuration of one node with loopback addresses, each changed where it stands once."""
    text = f'listen: "127.0.0.1:{client}"\n{_CONFIG}'
    changes = {
        "http_port: 8222\n": "",
        'listen: "0.0.0.0:6222"': f'listen: "127.0.0.1:{routes[node]}"',
        '"/data"': f'"{home}"',
        **{f"nats://nats-{n}:6222": f"nats://127.0.0.1:{routes[f'nats-{n}']}" for n in (1, 2, 3)},
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def defaults(environment: Mapping[K, object]) -> dict[K, str]:
    """Return an environment as compose makes it where the user has set nothing: `${NAME:-default}` is the default."""
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in environment.items()}


@asynccontextmanager
async def nats(directory: Path) -> AsyncIterator[dict[str, int]]:
    """Three nodes as compose.yaml starts them; gives the port of each."""
    ports = free_ports(2 * len(NODES))
    clients = dict(zip(NODES, ports[: len(NODES)], strict=True))
    routes = dict(zip(NODES, ports[len(NODES) :], strict=True))
    async with AsyncExitStack() as stack:
        for name, client in clients.items():
            file = directory / f"{name}.conf"
            file.write_text(_on_this_machine(client, routes, name, directory / name))
            given = defaults(SERVICES[name]["environment"])
            assert given["NODE"] == name
            process = await asyncio.create_subprocess_exec(
                *(find_binary(), "-c", str(file)), env={**os.environ, **given}, stderr=asyncio.subprocess.DEVNULL
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
        yield clients


class Fleet:
    """The processes of compose.yaml, each as its service says; `log` has what they say."""

    def __init__(self, directory: Path, hosts: dict[str, str]) -> None:
        self._directory = directory
        self.hosts = hosts
        self._running: dict[str, tuple[asyncio.subprocess.Process, dict[str, str]]] = {}
        self.log = directory / "log"

    def port(self, name: str) -> int:
        """Return where a consumer shows its metrics."""
        return int(self._running[name][1]["OTEL_EXPORTER_PROMETHEUS_PORT"])

    def process(self, name: str) -> asyncio.subprocess.Process:
        """Return the process of a service."""
        return self._running[name][0]

    async def start(self, name: str, *more: str, **settings: str) -> asyncio.subprocess.Process:
        """Start a service, with `more` options and settings than it has there."""
        service = SERVICES[name]
        given = {key: self._here(value) for key, value in defaults(service.get("environment", {})).items()}
        for variable, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True):
            if variable in given:
                given[variable] = str(port)
        arguments = [self._here(str(one)) for one in defaults(dict(enumerate(service["command"]))).values()]
        entry = ("-m", "unpod_cli") if "entrypoint" not in service else (str(ROOT / "compose" / "load.py"),)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._directory), **given, **settings}
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *entry, *arguments, *more, env=environment, cwd=self._directory, stdout=log, stderr=log
            )
        self._running[name] = (process, environment)
        return process

    async def healthy(self, name: str) -> None:
        """Return once the health check of the image says so."""
        process, environment = self._running[name]
        while True:
            check = await asyncio.create_subprocess_exec(
                sys.executable, str(ROOT / "compose" / "healthy.py"), env=environment
            )
            if await check.wait() == 0:
                return
            assert process.returncode is None, f"{name} has ended: {self.log.read_text()}"
            await asyncio.sleep(0.2)

    async def stop(self) -> None:
        """Kill what runs."""
        for process, _ in self._running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()

    def _here(self, text: str) -> str:
        if text in self.hosts:
            return self.hosts[text]
        for there, here in self.hosts.items():
            text = text if there.isdigit() else text.replace(there, here)
        return text
