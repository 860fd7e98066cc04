"""A durable pull consumer on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from unpod.jetstream import PullConsumer, PullSpec, connect, open_log, topology
from unpod.jetstream.streams.topology import MIB
from unpod.processes import EmbeddedOptions, EmbeddedServer

COUNT = 2_000


async def test_what_comes_between_two_fetches_is_not_delivered_twice(tmp_path: Path) -> None:
    async with (
        EmbeddedServer(EmbeddedOptions(tmp_path)) as server,
        connect(server.connection("writer")) as writer,
        connect(server.connection("reader")) as reader,
    ):
        log = await open_log(writer, topology(max_bytes=64 * MIB).calls)
        consumer = PullConsumer(reader, PullSpec(log.spec.name, "test", ("unpod.call.>",), ack_wait_s=60.0))
        await consumer.open()

        async def write() -> None:
            for number in range(COUNT):
                await log.append("unpod.call.a.s.evt.x", b"{}", {"Nats-Msg-Id": str(number)})

        async with asyncio.timeout(25), asyncio.TaskGroup() as group:
            group.create_task(write())
            places: list[int] = []
            while len(places) < COUNT:
                for delivery in await consumer.fetch(100, 1.0):
                    assert delivery.times == 1
                    places.append(delivery.place)
                    consumer.acknowledge(delivery)
        assert places == list(range(1, COUNT + 1))
        await consumer.close()


async def test_what_is_postponed_comes_again(tmp_path: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(tmp_path)) as server, connect(server.connection("test")) as nats:
        log = await open_log(nats, topology(max_bytes=64 * MIB).calls)
        await log.append("unpod.call.a.s.evt.x", b"{}", {"Nats-Msg-Id": "1"})
        consumer = PullConsumer(nats, PullSpec(log.spec.name, "test", ("unpod.call.>",), ack_wait_s=60.0))
        await consumer.open()
        (first,) = await consumer.fetch(10, 1.0)
        consumer.postpone(first, 0.2)
        (again,) = await consumer.fetch(10, 5.0)
        assert (again.message.seq, again.times) == (first.message.seq, 2)
        await consumer.close()
