"""One connection: how it starts, what it survives, what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from nats.aio.client import Client
from tests.integration.jetstream.servers import CMD, RANDOM_PORT, msg_id, server, until

from unpod.errors import ConfigurationError, LogUnavailable
from unpod.jetstream import Credentials, NatsOptions, PermissionDenied, connect, open_log, topology
from unpod.jetstream.connection.client import WireClient
from unpod.jetstream.streams.topology import MIB
from unpod.ports import Message

if TYPE_CHECKING:
    from pathlib import Path

    from unpod.jetstream import JetStreamLog, Nats
    from unpod.processes import EmbeddedServer


def test_the_replaced_are_all_of_them() -> None:
    # A new nats-py that calls them otherwise would bypass client.py without a sound.
    replaced = {
        "_connect_to_server",
        "_process_connect_init",
        "_process_err",
        "_process_info",
        "_process_pong",
        "_read_creds_user_jwt",
        "_read_loop",
        "_send_ping",
    }
    assert replaced == {name for name in replaced if name in vars(WireClient) and name in vars(Client)}
    used = {
        "_error_cb",
        "_current_server",
        "_process_op_err",
        "_sid",
        "_subs",
        "_transport",
        "_pongs",
        "_ps",
        "_max_payload",
    }
    assert used <= set(vars(Client)) | set(vars(Client()))


def test_aiohttp_is_imported_when_nats_py_needs_it() -> None:
    code = (
        "import sys, unpod.runner.runner, unpod_bridge.app\n"
        "from nats.aio import transport\n"
        "assert not {'aiohttp', 'multidict'} & set(sys.modules)\n"
        "later = transport.aiohttp.ClientSession, transport.multidict.CIMultiDict\n"
        "import aiohttp, multidict\n"
        "assert later == (aiohttp.ClientSession, multidict.CIMultiDict)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=25)
    assert (done.returncode, done.stderr) == (0, "")


def test_who_has_aiohttp_already_shares_it_with_nats_py() -> None:
    code = (
        "import aiohttp, unpod.jetstream\nfrom nats.aio import transport\nassert vars(transport)['aiohttp'] is aiohttp"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=25)
    assert (done.returncode, done.stderr) == (0, "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_nothing_answers() -> None:
    url = f"nats://someone:s3cret@127.0.0.1:{free_port()}"
    with pytest.raises(ConfigurationError) as caught:
        async with connect(NatsOptions((url,), connect_timeout_s=0.3)):
            pass
    text = str(caught.value)
    assert "UNPOD_NATS_URL" in text
    assert "127.0.0.1" in text
    assert "s3cret" not in text
    assert "someone" not in text


async def test_something_else_answers() -> None:
    async def chat(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP" + b"x" * 200_000 + b"\r\n")
        writer.close()

    other = await asyncio.start_server(chat, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match="UNPOD_NATS_URL"):
            async with connect(NatsOptions((f"nats://127.0.0.1:{port}",), connect_timeout_s=0.5)):
                pass


async def test_wrong_credentials_are_told_at_once(embedded: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"nats://127.0.0.1:{embedded.port}"
    wrong = Credentials(user="unpod", password="wr0ng")
    async with asyncio.timeout(15):
        with pytest.raises(ConfigurationError, match="refuses these credentials") as caught:
            async with connect(NatsOptions((url,), credentials=wrong, connect_timeout_s=30)):
                pass
    assert "wr0ng" not in str(caught.value) + caplog.text + repr(wrong)


async def test_urls_may_hold_credentials(embedded: EmbeddedServer) -> None:
    async with connect(NatsOptions((embedded.url,))) as nats:
        assert nats.connected
        assert nats.client_id


async def test_what_a_consumer_delivers_reaches_only_the_inbox(log: JetStreamLog, nats: Nats) -> None:
    heard: dict[str, list[bytes]] = {"fleet": [], f"{nats.options.inbox_prefix}.mine": []}
    for place, those in heard.items():
        await nats.subscribe(place, lambda message, those=those: those.append(message.data))  # type: ignore[misc]
        config = {"name": place.replace(".", "-"), "deliver_subject": place, "ack_policy": "none"}
        question = json.dumps({"stream_name": log.spec.name, "config": config}).encode()
        asked = f"$JS.API.CONSUMER.CREATE.{log.spec.name}.{config['name']}"
        assert "error" not in json.loads((await nats.request(asked, question, timeout_s=5)).data)
    await log.append("unpod.call.a.s.cmd", b"a record", {})
    await until(lambda: heard[f"{nats.options.inbox_prefix}.mine"] == [b"a record"])
    nats.send("fleet", b"a question", reply=f"{nats.options.inbox_prefix}.answer")
    await nats.flush(timeout_s=5)
    assert heard["fleet"] == [b"a question"]


async def test_a_handler_that_raises_harms_nobody(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []

    def bad(message: Message) -> None:
        raise ValueError(message.data.decode())

    await nats.subscribe("x", bad)
    await nats.subscribe("x", lambda message: heard.append(message.data))
    for n in range(3):
        nats.send("x", b"what the caller said %d" % n)
    await nats.flush(timeout_s=5)
    assert len(heard) == 3
    assert "ValueError" in caplog.text
    assert "what the caller said" not in caplog.text


async def test_no_echo(embedded: EmbeddedServer) -> None:
    heard: list[bytes] = []
    options = embedded.connection("quiet")
    quiet = NatsOptions(options.urls, credentials=options.credentials, no_echo=True)
    async with connect(quiet) as one, connect(options) as two:
        await one.subscribe("x", lambda message: heard.append(message.data))
        one.send("x", b"mine")
        await one.flush(timeout_s=5)
        two.send("x", b"theirs")
        await two.flush(timeout_s=5)
        await one.flush(timeout_s=5)
    assert heard == [b"theirs"]


async def test_it_comes_back_with_its_subscriptions(embedded: EmbeddedServer, nats: Nats) -> None:
    heard: list[bytes] = []
    states: list[bool] = []
    nats.on_state(states.append)
    await nats.subscribe("x", lambda message: heard.append(message.data))
    for n in range(3):
        await embedded.kill()
        await until(lambda: nats.connected)
        nats.send("x", b"%d" % n)
        await nats.flush(timeout_s=5)
    assert heard == [b"0", b"1", b"2"]
    assert states == [False, True] * 3


async def test_a_subscription_begun_in_an_outage_works_after_it(embedded: EmbeddedServer, nats: Nats) -> None:
    heard: list[bytes] = []
    await embedded.down(kill=True)
    await until(lambda: not nats.connected)
    subscribing = asyncio.ensure_future(nats.subscribe("x", lambda message: heard.append(message.data)))
    await embedded.up()
    await subscribing
    nats.send("x", b"1")
    await nats.flush(timeout_s=5)
    assert heard == [b"1"]


async def test_what_was_handed_over_before_a_loss_is_not_sent_after_it(embedded: EmbeddedServer, nats: Nats) -> None:
    heard: list[bytes] = []
    await nats.subscribe("x", lambda message: heard.append(message.data))
    await embedded.down(kill=True)
    sent = 0
    while nats.connected:  # the loss is not noticed yet: these go to a socket that is dead
        nats.send("x", b"never")
        sent += 1
        await asyncio.sleep(0)
    with pytest.raises(LogUnavailable):
        nats.send("x", b"never")
    await embedded.up()
    await until(lambda: nats.connected)
    nats.send("x", b"after")
    await nats.flush(timeout_s=5)
    assert heard == [b"after"]


async def test_a_silent_server_is_noticed(embedded: EmbeddedServer) -> None:
    options = embedded.connection("pinger")
    fast = NatsOptions(options.urls, credentials=options.credentials, ping_interval_s=0.05)
    async with connect(fast) as nats:
        os.kill(embedded.pid, signal.SIGSTOP)
        try:
            await until(lambda: not nats.connected, 3)
        finally:
            os.kill(embedded.pid, signal.SIGCONT)
        await until(lambda: nats.connected)


async def test_a_flush_that_is_given_up_harms_nobody(nats: Nats) -> None:
    with pytest.raises(LogUnavailable):
        await nats.flush(timeout_s=0)
    await nats.flush(timeout_s=5)
    assert nats.connected


async def test_the_first_and_the_rest_of_a_turn_keep_their_order(nats: Nats) -> None:
    heard: list[bytes] = []
    await nats.subscribe("x", lambda message: heard.append(message.data))
    for turn in range(20):
        for n in range(turn):
            nats.send("x", b"%d-%d" % (turn, n))
        await asyncio.sleep(0)
    await nats.flush(timeout_s=5)
    assert heard == [b"%d-%d" % (turn, n) for turn in range(20) for n in range(turn)]


async def test_an_inbox_that_is_denied_is_told_at_the_start(directory: Path) -> None:
    config = f"""{RANDOM_PORT}
    authorization {{ users: [ {{ user: u, password: x, permissions: {{ subscribe: ["_INBOX_u.>"] }} }} ] }}"""
    async with server(directory, config) as (_, url):
        me = Credentials(user="u", password="x")
        with pytest.raises(PermissionDenied, match="_INBOX"):
            async with connect(NatsOptions((url,), credentials=me)):
                pass
        async with connect(NatsOptions((url,), credentials=me, inbox_prefix="_INBOX_u")) as nats:
            assert await nats.ask("$JS.API.INFO", b"", timeout_s=5)


RIGHTS = f"""{RANDOM_PORT}
accounts {{ A {{ jetstream: enabled, users: [
  {{ user: full, password: x }}
  {{ user: poor, password: x, permissions: {{
     publish: {{ deny: ["unpod.call.b.>", "$JS.API.STREAM.CREATE.>"] }}
     subscribe: {{ deny: ["unpod.call.b.>"] }} }} }}
] }} }}
"""


async def test_a_denial_is_told_to_whoever_asked(directory: Path) -> None:
    denied: list[PermissionDenied] = []
    async with server(directory, RIGHTS) as (_, url):
        full = NatsOptions((url,), credentials=Credentials(user="full", password="x"))
        poor = NatsOptions((url,), credentials=Credentials(user="poor", password="x"))
        spec = topology(max_bytes=16 * MIB).calls
        async with connect(full) as one:
            await open_log(one, spec)
        async with connect(poor) as nats:
            nats.on_denied(denied.append)
            with pytest.raises(PermissionDenied, match=r"may not subscribe to 'unpod.call.b.>'"):
                await nats.subscribe("unpod.call.b.>", lambda _: None)
            log = await open_log(nats, spec)
            async with asyncio.timeout(15):  # at once, not at the time-out
                with pytest.raises(PermissionDenied, match=r"may not publish on 'unpod.call.b.s.cmd'"):
                    await log.append("unpod.call.b.s.cmd", b"", msg_id("1"), timeout_s=30)
            told: list[object] = []
            writer = log.writer(on_failure=told.append)
            writer.put("unpod.call.b.s.cmd", b"", msg_id("2"))
            with pytest.raises(PermissionDenied):
                await writer.flush()
            await asyncio.sleep(0)
            assert len(told) == 1
            with pytest.raises(ConfigurationError, match="may not create it: run `unpod streams init`"):
                await open_log(nats, topology("other", max_bytes=16 * MIB).calls)
            assert (await log.append(CMD, b"", msg_id("3"))).seq == 1  # and the connection is alive
    assert len(denied) >= 4


async def test_a_server_limit_that_shrinks_does_not_end_the_connection(nats: Nats, log: JetStreamLog) -> None:
    # A payload over the limit makes the server close the connection with an error that nats-py takes for final.
    nats._client._max_payload = 4 * MIB
    nats.send("x", b"x" * (2 * MIB))
    await until(lambda: not nats.connected)
    await until(lambda: nats.connected)
    await log.append(CMD, b"", msg_id("1"))
