"""Three real nats-servers on this machine that know each other, with an account for calls and one for the system."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from unpod.errors import ConfigurationError, LogError
from unpod.jetstream import Credentials, Nats, NatsOptions, StreamSpec, ensure
from unpod.jetstream.streams.topology import info
from unpod.processes import ChildProcess, spawn_child
from unpod.processes.embedded import find_binary

NODES: Final = ("n1", "n2", "n3")
UP_S: Final = 20.0
RANGE: Final = (15_000, 32_000)

_CONFIG: Final = """\
server_name: {node}
listen: "127.0.0.1:{port}"
log_file: "{home}/log"
jetstream {{ store_dir: "{home}/js", max_file_store: 1GB }}
cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{routes}]{hidden} }}
accounts {{
  CALLS: {{ jetstream: enabled, users: [{{ user: unpod, password: calls }}] }}
  SYS: {{ users: [{{ user: system, password: system }}] }}
}}
system_account: SYS
"""

_HIDDEN: Final = ', no_advertise: true, advertise: "127.0.0.1:1"'
"""Nobody is told of a node's own ports, which no wire harms; whoever hears of port 1 finds nobody there."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the system gives out: a node must find its own again."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*RANGE)  # noqa: S311 - any will do
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in found:
                found.append(port)
    return found


class Cluster:
    """Three nodes; each keeps its ports and its data while this object lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = free_ports(2 * len(NODES))
        self._clients = dict(zip(NODES, ports[: len(NODES)], strict=True))
        self._routes = dict(zip(NODES, ports[len(NODES) :], strict=True))
        self._children: dict[str, ChildProcess] = {}
        self._between: dict[tuple[str, str], int] = {}

    def link(self, one: str, other: str, port: int) -> None:
        """Let a node reach another by this port, from its next start on; for each pair, or for none."""
        self._between[one, other] = port

    def route_port(self, node: str) -> int:
        """Return where a node listens for the others."""
        return self._routes[node]

    @property
    def url(self) -> str:
        """All nodes, for the environment of a process."""
        return ",".join(f"nats://unpod:calls@127.0.0.1:{port}" for port in self._clients.values())

    @property
    def system_url(self) -> str:
        """All nodes, as the system account."""
        return ",".join(f"nats://system:system@127.0.0.1:{port}" for port in self._clients.values())

    def connection(self, name: str = "test", *nodes: str) -> NatsOptions:
        """Return how to connect from here, to one of these nodes, or to any."""
        urls = tuple(f"nats://127.0.0.1:{self._clients[node]}" for node in nodes or NODES)
        return NatsOptions(
            urls, name=name, credentials=Credentials(user="unpod", password="calls"), connect_timeout_s=UP_S
        )

    async def start(self, *nodes: str) -> None:
        """Start these nodes, or all; they need some seconds to choose who leads."""
        await asyncio.gather(*(self._start(node) for node in nodes or NODES))

    async def _start(self, node: str) -> None:
        home = self._directory / node
        home.mkdir(parents=True, exist_ok=True)
        others = [port for (one, _), port in self._between.items() if one == node] or self._routes.values()
        file = home / "nats.conf"
        file.write_text(
            _CONFIG.format(
                node=node,
                port=self._clients[node],
                home=home,
                route=self._routes[node],
                routes=", ".join(f'"nats://127.0.0.1:{port}"' for port in others),
                hidden=_HIDDEN if self._between else "",
            )
        )
        self._children[node] = await spawn_child([find_binary(), "-c", str(file)])

    async def kill(self, *nodes: str) -> None:
        """SIGKILL these nodes, or all; return when they are gone."""
        chosen = nodes or NODES
        for node in chosen:
            self._children[node].kill()
        await asyncio.gather(*(self._children[node].wait() for node in chosen))

    def signal(self, node: str, number: int) -> None:
        """Send a signal to a node."""
        self._children[node].send_signal(number)

    @contextmanager
    def frozen(self, *nodes: str) -> Iterator[None]:
        """SIGSTOP these nodes for as long as the block lasts."""
        for node in nodes:
            self.signal(node, signal.SIGSTOP)
        try:
            yield
        finally:
            for node in nodes:
                self.signal(node, signal.SIGCONT)

    async def terminate(self, node: str) -> None:
        """SIGTERM a node; return when it is gone."""
        await self._children[node].stop()

    async def stop(self) -> None:
        """End all."""
        await asyncio.gather(*(child.stop(1.0) for child in self._children.values()))


async def make_streams(nats: Nats, specs: Sequence[StreamSpec]) -> None:
    """Create the streams, once the nodes have chosen who leads them."""
    deadline = asyncio.get_running_loop().time() + UP_S
    while True:
        try:
            await ensure(nats, *specs)
        except (LogError, ConfigurationError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def leader_of(nats: Nats, stream: str) -> str:
    """Return the node that leads a stream, once there is one."""
    while True:
        try:
            found = await info(nats, stream)
        except LogError:  # it is being chosen: no answer, or "temporarily unavailable"
            found = None
        if found is not None and (leader := found["cluster"].get("leader")):
            return str(leader)
        await asyncio.sleep(0.02)


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Cluster]:
    """Run three nodes for as long as the block lasts."""
    made = Cluster(directory)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
