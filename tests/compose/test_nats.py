"""compose/nats/fleet.conf on three real nodes: only names and ports of containers become this machine's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.cluster import NODES, free_ports
from tests.compose.test_compose import SERVICES
from tests.pages import ROOT

from unpod.jetstream.embedded import find_binary

pytestmark = pytest.mark.integration

CONFIG = (ROOT / "compose" / "nats" / "fleet.conf").read_text()
PATIENCE_S = 25.0


def on_this_machine(client: int, routes: dict[str, int], node: str, home: Path) -> str:
    """Return the configuration of one node with loopback addresses, each changed where it stands once."""
    text = f'listen: "127.0.0.1:{client}"\n{CONFIG}'
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


@pytest.fixture
async def urls(tmp_path: Path) -> AsyncIterator[str]:
    """Three nodes as compose.yaml starts them; gives the addresses, with the user of the fleet."""
    names = [f"nats-{number}" for number, _ in enumerate(NODES, 1)]
    ports = free_ports(2 * len(names))
    clients, routes = ports[: len(names)], dict(zip(names, ports[len(names) :], strict=True))
    async with AsyncExitStack() as stack:
        for name, client in zip(names, clients, strict=True):
            file = tmp_path / f"{name}.conf"
            file.write_text(on_this_machine(client, routes, name, tmp_path / name))
            given = {key: value.rpartition(":-")[2].rstrip("}") for key, value in SERVICES[name]["environment"].items()}
            assert given["NODE"] == name
            process = await asyncio.create_subprocess_exec(
                *(find_binary(), "-c", str(file)), env={**os.environ, **given}, stderr=asyncio.subprocess.DEVNULL
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
        yield ",".join(f"nats://fleet:fleet@127.0.0.1:{client}" for client in clients)


async def unpod(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "unpod_cli", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_streams_are_made_on_three_nodes_as_compose_makes_them(urls: str) -> None:
    command = [str(one) for one in SERVICES["streams"]["command"]]
    async with asyncio.timeout(PATIENCE_S):
        while True:  # as `restart: on-failure` does
            status, _ = await unpod(*command, "--nats-url", urls)
            if status == 0:
                break
            await asyncio.sleep(0.2)
    status, out = await unpod("streams", "check", "--replicas", "3", "--size", "512MiB", "--nats-url", urls, "--json")
    assert status == 0, out
    assert json.loads(out)
