"""Three nodes: what is promised holds when any of them is killed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from tests.cluster import NODES, Cluster, cluster, leader_of, make_streams
from tests.integration.jetstream.servers import CMD, OWN, msg_id, read, until

from unpod.errors import Fenced, LogUnavailable
from unpod.jetstream import JetStreamLog, Nats, connect, open_log, topology
from unpod.jetstream.streams.topology import MIB
from unpod.ports import Fence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Cluster, Nats, JetStreamLog]]:
    async with cluster(directory) as nodes, connect(nodes.connection()) as nats:
        spec = topology(max_bytes=64 * MIB, replicas=3).calls
        await make_streams(nats, [spec])
        yield nodes, nats, await open_log(nats, spec)


async def test_the_leader_is_killed_in_mid_write(directory: Path) -> None:
    async with running(directory) as (nodes, nats, log):
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
        leader = await leader_of(nats, log.spec.name)
        await nodes.kill(leader)
        await writing
        await nodes.start(leader)
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


async def test_a_second_try_while_the_first_is_being_decided_is_no_refusal(directory: Path) -> None:
    async with running(directory) as (nodes, nats, log):
        leader = await leader_of(nats, log.spec.name)
        others = [node for node in NODES if node != leader]
        async with connect(nodes.connection("test", leader)) as straight:
            near = await open_log(straight, log.spec)
            writer = near.writer()
            with nodes.frozen(*others):  # nothing is acknowledged, so each record is sent again under its id
                appending = asyncio.ensure_future(near.append(CMD, b"one", msg_id("one"), timeout_s=20))
                writer.put("unpod.call.a.s.run.x", b"two", msg_id("two"))
                await until(lambda: writer.waiting_s > 1.5 or not writer.waiting_s, 10)  # a try is given one second
                assert (writer.failure, writer.backlog) == (None, 1)
            await appending
            await writer.flush()
            assert sorted(message.data for message in await read(near)) == [b"one", b"two"]


async def test_one_of_many_wins(directory: Path) -> None:
    async with running(directory) as (_, _nats, log):
        for turn in range(10):
            subject = f"unpod.call.a.s{turn}.own"
            results = await asyncio.gather(
                *(log.append(subject, b"", msg_id(f"{turn}-{n}"), fence=Fence(subject, 0)) for n in range(5)),
                return_exceptions=True,
            )
            assert sum(isinstance(result, Fenced) for result in results) == 4, results


async def test_a_node_that_does_not_keep_up_is_named(directory: Path) -> None:
    async with running(directory) as (nodes, nats, log):
        leader = await leader_of(nats, log.spec.name)
        victim = next(node for node in NODES if node != leader)
        await log.usage()
        await nodes.kill(victim)

        async def named(wanted: list[str]) -> None:
            async with asyncio.timeout(40):
                while log.behind(0.0) != wanted:
                    await asyncio.sleep(0.1)
                    with suppress(LogUnavailable):  # the node that was killed may be the one that we were connected to
                        await log.usage()

        await named([victim])
        assert log.behind(60.0) == []
        await nodes.start(victim)
        await named([])
