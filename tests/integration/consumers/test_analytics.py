"""`unpod consume analytics` as a process of its own, over a real nats-server and real files."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import pytest
from tests.integration.consumers.process import consuming, rewound
from tests.unit.consumers.analyst import everything, rows
from tests.unit.consumers.records import AGENT, call_of, message

from unpod.core.events import CallCompleted
from unpod.jetstream import JetStreamLog, connect, open_log
from unpod.jetstream.streams.topology import MIB, topology
from unpod.processes import EmbeddedOptions, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from unpod.ports import Message


UNBOUNDED = resource.RLIM_INFINITY


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as server:
        yield server


@pytest.fixture
async def log(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    async with connect(server.connection("test")) as nats:
        yield await open_log(nats, topology(max_bytes=64 * MIB).calls)


def whole(session: str) -> list[Message]:
    """Return a call with two turns and its summary."""
    bridge, owner = call_of(session)
    done = CallCompleted(call_id=session, agent_id=AGENT, runner_id="r2", reason="hangup", turns=2)
    return [*bridge, *owner, message(session, "run", done, 6, 21.0)]


async def write(log: JetStreamLog, *sessions: str) -> None:
    for session in sessions:
        for one in whole(session):
            await log.append(one.subject, one.data, one.headers)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.02)


async def test_killed_in_mid_run_each_row_is_there_once(
    server: EmbeddedServer, log: JetStreamLog, tmp_path: Path
) -> None:
    live, again = tmp_path / "live", tmp_path / "again"
    names: list[str] = []
    for batch in range(4):
        fresh = [f"{batch}-{number}" for number in range(15)]
        names += fresh
        async with consuming(server.url, "analytics", "--directory", str(live), "--every", "0.1") as consumer:
            await write(log, *fresh[:5])
            await until(lambda: len(rows(live, "calls")) > 10 * batch)  # noqa: B023 - it is awaited here
            writing = asyncio.create_task(write(log, *fresh[5:]))
            await asyncio.sleep(0.05 * batch)
            consumer.process.kill()
            await consumer.process.wait()
            await writing
    async with consuming(server.url, "analytics", "--directory", str(live), "--every", "0.1"):
        await until(lambda: len(rows(live, "turns")) >= 2 * len(names) and len(rows(live, "calls")) >= len(names))
    assert [row["session_id"] for row in rows(live, "calls")] == sorted(names)
    assert await rewound(server.url, again, "--from-start") == (0, f"wrote {3 * len(names)} rows below {again}\n")
    assert everything(live) == everything(again)


class Limit:
    """A process may write no file of more than 64 bytes, until it may."""

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, UNBOUNDED))

    def free(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (UNBOUNDED, UNBOUNDED))


class Ballast:
    """A small disk is full of something else, until it is removed."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "ballast"

    def fill(self, pid: int) -> None:
        del pid
        with suppress(OSError), self._file.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def free(self, pid: int) -> None:
        del pid
        self._file.unlink()


@contextmanager
def small_disk(directory: Path) -> Iterator[Limit | Ballast]:
    """Mount a disk of 256 KiB; where that is not for us to do, limit the process instead."""
    directory.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=256k", "none", str(directory))
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        yield Limit()
        return
    try:
        yield Ballast(directory)
    finally:
        unmount = ("umount", str(directory))
        subprocess.run(unmount, check=True)


@pytest.mark.parametrize("disk", [small_disk, lambda _: nullcontext(Limit())], ids=["mounted", "limited"])
async def test_a_full_disk_delays_and_loses_nothing(
    disk: Callable[[Path], AbstractContextManager[Limit | Ballast]],
    server: EmbeddedServer,
    log: JetStreamLog,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "disk" / "rows"
    await write(log, *(f"s{number}" for number in range(10)))
    with disk(tmp_path / "disk") as fullness:
        async with consuming(server.url, "analytics", "--directory", str(directory), "--every", "0.1") as consumer:
            await until(lambda: len(rows(directory, "calls")) == 10)
            fullness.fill(consumer.process.pid)
            await write(log, *(f"t{number}" for number in range(10)))
            await consumer.until("unpod_consumer_lag", 0)
            consumer.process.kill()  # while it waits
            await consumer.process.wait()
        async with consuming(server.url, "analytics", "--directory", str(directory), "--every", "0.1") as consumer:
            await consumer.up()
            fullness.fill(consumer.process.pid)
            await write(log, "late")
            await consumer.until("unpod_consumer_lag", 0)
            fullness.free(consumer.process.pid)
            await until(lambda: len(rows(directory, "calls")) == 21)
        assert not list(directory.glob("*/*/.part-*"))
        assert [row["turn"] for row in rows(directory, "turns")] == [1, 2] * 21


async def test_a_rewind_takes_one_session_or_what_is_new_and_refuses_a_directory_in_use(
    server: EmbeddedServer, log: JetStreamLog, tmp_path: Path
) -> None:
    await write(log, "s1", "s2")
    assert (await rewound(server.url, tmp_path / "one", "--session", "s1"))[0] == 0
    assert {row["session_id"] for row in rows(tmp_path / "one", "calls")} == {"s1"}
    status, said = await rewound(server.url, tmp_path / "one", "--from-start")
    assert (status, "--directory" in said, said.count("\n")) == (2, True, 1)
    assert await rewound(server.url, tmp_path / "none", "--since", "2999-01-01T00:00:00Z") == (
        0,
        f"wrote 0 rows below {tmp_path / 'none'}\n",
    )


async def test_poison_and_unknown_records_block_nothing(
    server: EmbeddedServer, log: JetStreamLog, tmp_path: Path
) -> None:
    poison = whole("s1")[0]
    await log.append(poison.subject, b"[" * 100_000, {**poison.headers, "Nats-Msg-Id": "poison"})
    await log.append("unpod.call.support.s1.evt.never.heard.of", b"{}", {})
    await write(log, "s1")
    async with consuming(server.url, "analytics", "--directory", str(tmp_path / "rows"), "--every", "0.1") as consumer:
        assert (await consumer.until("unpod_consumer_parked_total", 2))["unpod_consumer_lag"] == 0
        await until(lambda: len(rows(tmp_path / "rows", "calls")) == 1)
