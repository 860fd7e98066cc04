"""TLS against a real server: what is encrypted, who is believed, and that nothing falls back to plain text."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import trustme
from tests.integration.jetstream.servers import CMD, RANDOM_PORT, msg_id, read, server, until

from unpod.errors import ConfigurationError
from unpod.jetstream import Credentials, NatsOptions, connect, open_log, topology
from unpod.jetstream.streams.topology import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from unpod.jetstream import Nats
    from unpod.ports import Message


@dataclass(frozen=True)
class Files:
    """A certificate authority, and what it has signed for a server on 127.0.0.1 and for a client."""

    config: str
    client: Credentials
    without_certificate: Credentials


@pytest.fixture
def files(directory: Path) -> Files:
    folder = directory / "tls"
    folder.mkdir()
    authority = trustme.CA()
    ca, server_pem, client_pem = (folder / name for name in ("ca.pem", "server.pem", "client.pem"))
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server_pem)
    authority.issue_cert("runner@example.org").private_key_and_cert_chain_pem.write_to_path(client_pem)
    return Files(
        f'tls {{ cert_file: "{server_pem}", key_file: "{server_pem}", ca_file: "{ca}", verify: true }}\n',
        Credentials(ca_file=str(ca), cert_file=str(client_pem), key_file=str(client_pem)),
        Credentials(ca_file=str(ca)),
    )


async def refused(options: NatsOptions) -> str:
    with pytest.raises(ConfigurationError) as caught:
        async with connect(options):
            pass
    return str(caught.value)


async def test_records_and_messages_over_tls_both_sides_checked(directory: Path, files: Files) -> None:
    got: list[Message] = []
    async with (
        server(directory, RANDOM_PORT + files.config) as (_, url),
        connect(NatsOptions((url.replace("nats://", "tls://"),), credentials=files.client)) as nats,
    ):
        log = await open_log(nats, topology(max_bytes=64 * MIB).calls)
        body = b"x" * 300_000  # more than one TLS record, and more than one read
        stored = await log.append(CMD, body, msg_id("1"))
        assert [(message.seq, message.data) for message in await read(log)] == [(stored.seq, body)]
        await nats.subscribe("news", got.append)
        for number in range(100):
            nats.send("news", b"%d" % number)
        await until(lambda: len(got) == 100)
    assert [message.data for message in got] == [b"%d" % number for number in range(100)]


async def test_a_connection_that_comes_back_is_encrypted_again(directory: Path, files: Files) -> None:
    states: list[bool] = []
    async with server(directory, RANDOM_PORT + files.config) as (_, url):
        port = url.rpartition(":")[2]
    fixed = f"host: 127.0.0.1\nport: {port}\n{files.config}"
    got: list[Message] = []
    async with (
        server(directory, fixed, "n2") as (child, url),
        connect(NatsOptions((url,), credentials=files.client)) as nats,
    ):
        await nats.subscribe("news", got.append)
        nats.on_state(states.append)
        await child.stop()
        await until(lambda: not nats.connected)
        async with server(directory, fixed, "n3"):
            await until(lambda: nats.connected)
            nats.send("news", b"again")
            await until(lambda: bool(got))
    assert states[:2] == [False, True]


async def test_who_is_not_believed_is_not_talked_to(directory: Path, files: Files) -> None:
    stranger = directory / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    async with server(directory, RANDOM_PORT + files.config) as (_, url):
        elsewhere = url.replace("127.0.0.1", "localhost")
        for address, credentials, kind in (
            (url, files.without_certificate, ""),
            (url, replace(files.client, ca_file=str(stranger)), "SSLCertVerificationError"),
            (elsewhere, files.client, "SSLCertVerificationError"),
        ):
            text = await refused(NatsOptions((address,), credentials=credentials, connect_timeout_s=0.5))
            assert kind in text
        async with connect(NatsOptions((url,), credentials=files.client, connect_timeout_s=5.0)):
            pass


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_without_tls_gets_no_password(directory: Path, files: Files, scheme: str) -> None:
    heard = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"auth_required":true}\r\n')
        heard.extend(await reader.read())
        writer.close()

    # Both a tls:// URL and a named authority ask for TLS.
    secret = Credentials(user="me", password="s3cret", ca_file=files.client.ca_file if scheme == "nats" else "")
    async with await asyncio.start_server(plain, "127.0.0.1", 0) as listening:
        url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        text = await refused(NatsOptions((url,), credentials=secret))
    assert "has no TLS" in text
    assert "s3cret" not in text
    assert not heard


async def test_tls_that_a_server_leaves_open_is_taken_where_it_is_asked_for(directory: Path, files: Files) -> None:
    async with server(directory, f"{RANDOM_PORT}allow_non_tls: true\n{files.config}") as (_, url):
        async with connect(NatsOptions((url,), credentials=files.client)) as nats:
            assert encrypted(nats)
        async with connect(NatsOptions((url,))) as nats:
            assert not encrypted(nats)


def encrypted(nats: Nats) -> bool:
    writer = nats._client._socket()
    return writer is not None and writer.get_extra_info("ssl_object") is not None
