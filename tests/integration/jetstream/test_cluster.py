"""Three nodes: what is promised holds when any of them is killed."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.integration.jetstream.servers import CMD, OWN, msg_id, read, until

from unpod.errors import Fenced, LogUnavailable
from unpod.jetstream import ChildProcess, JetStreamLog, Nats, NatsOptions, connect, open_log, spawn_child, topology
from unpod.jetstream.embedded import find_binary
from unpod.jetstream.topology import MIB, info
from unpod.ports import Fence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

NODES = ("n1", "n2", "n3")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(taken.getsockname()[1]) for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


class Cluster:
    """Three nat-servers that know each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clients = dict(zip(NODES, free_ports(3), strict=True))
        self._routes = dict(zip(NODES, free_ports(3), strict=True))
        self._children: dict[str, ChildProcess] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"nats://127.0.0.1:{port}" for port in self._clients.values())

    async def start(self, node: str) -> None:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes.values())
        home = self._directory / node
        home.mkdir(parents=True, exist_ok=True)
        file = home / "nats.conf"
        file.write_text(
            f'server_name: {node}\nlisten: "127.0.0.1:{self._clients[node]}"\nlog_file: "{home}/log"\n'
            f'jetstream {{ store_dir: "{home}/js", max_file_store: 256MB }}\n'
            f'cluster {{ name: c, listen: "127.0.0.1:{self._routes[node]}", routes: [{routes}] }}\n'
        )
        self._children[node] = await spawn_child([find_binary(), "-c", str(file)])

    async def kill(self, node: str) -> None:
        self._children[node].kill()
        await self._children[node].wait()

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop(1.0) for child in self._children.values()))


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Cluster, Nats, JetStreamLog]]:
    cluster = Cluster(directory)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        await asyncio.gather(*(cluster.start(node) for node in NODES))
        nats = await stack.enter_async_context(connect(NatsOptions(cluster.urls, connect_timeout_s=10)))
        spec = topology(max_bytes=64 * MIB, replicas=3).calls
        log = None
        while log is None:
            try:  # until the nodes have chosen who leads them
                log = await open_log(nats, spec)
            except LogUnavailable:
                await asyncio.sleep(0.05)
        yield cluster, nats, log


async def leader_of(nats: Nats, log: JetStreamLog) -> str:
    while True:
        try:
            found = await info(nats, log.spec.name)
        except LogUnavailable:
            continue
        if found is not None and (leader := found["cluster"].get("leader")):
            return str(leader)


async def test_the_leader_is_killed_in_mid_write(directory: Path) -> None:
    async with running(directory) as (cluster, nats, log):
        own = await log.append(OWN, b"", msg_id("own"), fence=Fence(OWN, 0))
        fence = Fence(OWN, own.seq)
        writers = [log.writer(fence=fence) for _ in range(4)]
        put = 0

        async def write() -> None:
            nonlocal put
            for n in range(400):
                for k, writer in enumerate(writers):
                    writer.put(f"unpod.call.a.s.run.x{k}", b"%d" % n, msg_id(f"{k}-{n}"))
                put += 1
                await until(lambda: max(writer.backlog for writer in writers) <= 20, 25)

        writing = asyncio.ensure_future(write())
        await until(lambda: put >= 100)
        leader = await leader_of(nats, log)
        await cluster.kill(leader)
        await writing
        await cluster.start(leader)
        await asyncio.gather(*(writer.flush() for writer in writers))
        newest = await log.append(CMD, b"the last", msg_id("last"), fence=fence, timeout_s=10)
        messages = await read(log, until_seq=newest.seq)
        for k in range(4):
            assert [m.data for m in messages if m.subject.endswith(f"x{k}")] == [b"%d" % n for n in range(400)]
        assert messages[-1].data == b"the last"
        # With replicas the fence is checked after the dedup: a retry of what is stored is no zombie there either.
        await log.append(OWN, b"", msg_id("o2"), fence=fence, timeout_s=10)
        assert (await log.append(CMD, b"the last", msg_id("last"), fence=fence)).duplicate
        with pytest.raises(Fenced):
            await log.append(CMD, b"zombie", msg_id("zombie"), fence=fence)


async def test_one_of_many_wins(directory: Path) -> None:
    async with running(directory) as (_, _nats, log):
        for turn in range(10):
            subject = f"unpod.call.a.s{turn}.own"
            results = await asyncio.gather(
                *(log.append(subject, b"", msg_id(f"{turn}-{n}"), fence=Fence(subject, 0)) for n in range(5)),
                return_exceptions=True,
            )
            assert sum(isinstance(result, Fenced) for result in results) == 4, results
