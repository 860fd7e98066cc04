"""Credentials files (a JWT and a seed) and nkeys, against a real server with an operator of the test's own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import nkeys  # type: ignore[import-untyped]
import pytest
from tests.integration.jetstream.servers import CMD, RANDOM_PORT, msg_id, read, server, until

from unpod.errors import ConfigurationError
from unpod.jetstream import Credentials, NatsOptions, PermissionDenied, connect, open_log, topology
from unpod.jetstream.streams.topology import MIB

if TYPE_CHECKING:
    from pathlib import Path

OPERATOR: Final = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT: Final = nkeys.PREFIX_BYTE_ACCOUNT
USER: Final = nkeys.PREFIX_BYTE_USER
UNLIMITED: Final = {"subs": -1, "data": -1, "payload": -1}


class Key:
    """An nkey pair."""

    def __init__(self, kind: int) -> None:
        self.seed: str = nkeys.encode_seed(os.urandom(32), kind).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, subject: Key, name: str, claims: dict[str, Any]) -> str:
        """Return a JWT of NATS, in which this key says something of `subject`."""
        body = {"iat": int(time.time()), "iss": self.public, "sub": subject.public, "name": name, "nats": claims}
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass(frozen=True)
class Operator:
    """A server's configuration, and the account whose users it lets in."""

    config: str
    account: Key

    def creds(self, file: Path, account: Key | None = None, **permissions: object) -> Credentials:
        """Write a user's credentials file, by default of the account that the server knows."""
        user = Key(USER)
        claims = {"type": "user", "version": 2, "pub": {}, "sub": {}, **UNLIMITED, **permissions}
        jwt = (account or self.account).sign(user, "runner", claims)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return Credentials(creds_file=str(file))


@pytest.fixture
def operator() -> Operator:
    root, account, system = Key(OPERATOR), Key(ACCOUNT), Key(ACCOUNT)
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {**UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1, **storage}
    known = root.sign(account, "calls", {"type": "account", "version": 2, "limits": limits})
    own = root.sign(system, "system", {"type": "account", "version": 2, "limits": limits | dict.fromkeys(storage, 0)})
    itself = root.sign(root, "operator", {"type": "operator", "version": 2})
    return Operator(
        f"operator: {itself}\nsystem_account: {system.public}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {known}, {system.public}: {own} }}\n",
        account,
    )


async def test_records_with_a_credentials_file(directory: Path, operator: Operator) -> None:
    creds = operator.creds(directory / "runner.creds")
    async with (
        server(directory, RANDOM_PORT + operator.config) as (_, url),
        connect(NatsOptions((url,), credentials=creds)) as nats,
    ):
        log = await open_log(nats, topology(max_bytes=64 * MIB).calls)
        await log.append(CMD, b"body", msg_id("1"))
        assert [message.data for message in await read(log)] == [b"body"]


async def test_what_a_jwt_does_not_allow_is_denied(directory: Path, operator: Operator) -> None:
    creds = operator.creds(directory / "runner.creds", sub={"deny": ["secret.>"]})
    async with (
        server(directory, RANDOM_PORT + operator.config) as (_, url),
        connect(NatsOptions((url,), credentials=creds)) as nats,
    ):
        with pytest.raises(PermissionDenied, match="secret"):
            await nats.subscribe("secret.x", lambda _message: None)


async def test_a_user_of_another_account_is_refused_at_once(directory: Path, operator: Operator) -> None:
    creds = operator.creds(directory / "stranger.creds", Key(ACCOUNT))
    async with server(directory, RANDOM_PORT + operator.config) as (_, url), asyncio.timeout(15):
        with pytest.raises(ConfigurationError, match="NATS_CREDS") as caught:
            async with connect(NatsOptions((url,), credentials=creds, connect_timeout_s=30)):
                pass
    assert "SU" not in str(caught.value)


async def test_a_file_that_is_written_anew_is_read_when_the_connection_comes_back(
    directory: Path, operator: Operator
) -> None:
    file = directory / "runner.creds"
    creds = operator.creds(file)
    async with server(directory, RANDOM_PORT + operator.config) as (_, url):
        port = url.rpartition(":")[2]
    fixed = f"host: 127.0.0.1\nport: {port}\n{operator.config}"
    async with (
        server(directory, fixed, "n2") as (child, url),
        connect(NatsOptions((url,), credentials=creds)) as nats,
    ):
        await child.stop()
        await until(lambda: not nats.connected)
        file.write_text("")  # as it is for a moment, when it is not replaced in one piece
        async with server(directory, fixed, "n3"):
            await until(lambda: nats._client.stats["reconnects"] > 0 or nats._client.last_error is not None)
            assert not nats.connected
            operator.creds(file)
            await until(lambda: nats.connected)


@pytest.mark.parametrize("content", ["", "-----BEGIN NATS USER JWT-----\n", "-----BEGIN USER NKEY SEED-----\nSUx\n"])
async def test_a_file_that_is_none_is_told_before_anything_is_sent(tmp_path: Path, content: str) -> None:
    file = tmp_path / "runner.creds"
    file.write_text(content)
    for variable, credentials in (
        ("NATS_CREDS", Credentials(creds_file=str(file))),
        ("nkey", Credentials(nkey_file=str(file))),
        ("NATS_CREDS", Credentials(creds_file=str(tmp_path))),
    ):
        with pytest.raises(ConfigurationError, match=variable):
            async with connect(NatsOptions(("nats://127.0.0.1:1",), credentials=credentials)):
                pass


async def test_an_nkey(directory: Path) -> None:
    known, stranger = Key(USER), Key(USER)
    for name, key in (("known", known), ("stranger", stranger)):
        (directory / name).write_text(f"{key.seed}\n")
    config = f"{RANDOM_PORT}authorization {{ users: [ {{ nkey: {known.public} }} ] }}\n"
    async with server(directory, config) as (_, url):
        async with connect(NatsOptions((url,), credentials=Credentials(nkey_file=str(directory / "known")))) as nats:
            await open_log(nats, topology(max_bytes=64 * MIB).calls)
        with pytest.raises(ConfigurationError, match="refuses these credentials"):
            async with connect(NatsOptions((url,), credentials=Credentials(nkey_file=str(directory / "stranger")))):
                pass
