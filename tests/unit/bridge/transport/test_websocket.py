from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from unpod_bridge.transport.sockets import DialError
from unpod_bridge.transport.websocket import SocketSettings, WebSocketDialer
from unpod_bridge.transport.websocket_frames import CLOSE, TEXT, closing, encode
from unpod_bridge.wire.urls import with_token

Handle = Callable[[ServerConnection], Awaitable[None]]


class Ear:
    """Hears one socket."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        self.heard.put_nowait(("binary" if binary else "text", data))

    def on_pong(self, token: bytes) -> None:
        self.heard.put_nowait(("pong", token))

    def on_lost(self, code: int | None, reason: str) -> None:
        self.heard.put_nowait(("lost", code, reason))

    async def next(self) -> tuple[object, ...]:
        async with asyncio.timeout(10):
            return await self.heard.get()


@asynccontextmanager
async def server(handle: Handle, **options: object) -> AsyncIterator[str]:
    async with serve(handle, "127.0.0.1", 0, max_size=None, **options) as listening:  # type: ignore[arg-type]
        port = next(iter(listening.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/call?x=1"


@asynccontextmanager
async def server_that_does_not_read() -> AsyncIterator[str]:
    done = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await done.wait()
        connection.transport.abort()

    async with server(handle) as url:
        yield url
        done.set()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_frames_both_ways_and_pongs_after_what_was_written() -> None:
    got: list[object] = []

    async def handle(connection: ServerConnection) -> None:
        await connection.send('{"first":1}')
        async for message in connection:
            got.append(message)
            await connection.send([b"by", b"tes"] if message == "binary" else ["te", "xt"])

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        assert await ear.next() == ("text", b'{"first":1}')
        for text in ("a", "é", "binary"):
            socket.write(text.encode())
        socket.ping(b"token")
        heard = [await ear.next() for _ in range(4)]
        assert got == ["a", "é", "binary"]
        assert sorted(map(str, heard)) == sorted(
            map(str, [("text", b"text"), ("text", b"text"), ("binary", b"bytes"), ("pong", b"token")])
        )
        socket.close(1000)
        await socket.wait_closed()


async def test_what_is_written_in_one_turn_leaves_in_two_writes_at_most() -> None:
    async with server(echo) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        writes: list[int] = []
        transport = socket._transport
        send = transport.write

        def write(data: bytes | bytearray | memoryview) -> None:
            writes.append(len(data))
            send(data)

        transport.write = write  # type: ignore[method-assign]
        for number in range(100):
            socket.write(b"%d" % number)
        assert len(writes) == 1
        assert [await ear.next() for _ in range(100)] == [("text", b"%d" % number) for number in range(100)]
        assert len(writes) == 2
        socket.close(1000)
        await socket.wait_closed()


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (1011, "oops"), (4003, "no"), (4009, "")])
async def test_close_codes_are_data(code: int, reason: str) -> None:
    async with server(lambda connection: connection.close(code, reason)) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        assert await ear.next() == ("lost", code, reason)
        await socket.wait_closed()
        socket.write(b"late")
        socket.ping(b"late")
        socket.close(1000)
        assert ear.heard.empty()


async def test_a_cut_connection_has_no_code() -> None:
    async def handle(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        assert await ear.next() == ("lost", None, "")
        await socket.wait_closed()


async def test_our_close_code_arrives_and_we_hear_nothing_more() -> None:
    closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.set_result(connection.close_code)

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        socket.write(b"last")
        socket.close(1012, "restart")
        await socket.wait_closed()
        assert await closed == 1012
        assert ear.heard.empty()


async def test_a_message_over_the_protocol_s_limit_is_handed_over() -> None:
    async def handle(connection: ServerConnection) -> None:
        await connection.send("x" * 3_000_000)
        await connection.send("y")
        await connection.wait_closed()

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear)
        kind, data = await ear.next()
        assert (kind, data) == ("text", b"x" * 3_000_000)
        assert await ear.next() == ("text", b"y")
        socket.close(1000)
        await socket.wait_closed()


async def test_a_message_beyond_every_bound_closes_the_socket_and_says_why() -> None:
    async def handle(connection: ServerConnection) -> None:
        await connection.send(["x" * 600] * 10)
        await connection.wait_closed()

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer(SocketSettings(max_size=5_000)).dial(url, ear)
        kind, code, reason = await ear.next()
        assert (kind, code) == ("lost", None)
        assert "5000" in str(reason)
        await socket.wait_closed()


@pytest.mark.parametrize(("status", "unauthorized"), [(401, True), (403, True), (404, False), (503, False)])
async def test_a_refusal_in_http_has_its_status(status: int, *, unauthorized: bool) -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(HTTPStatus(status), "no\n")

    async with server(echo, process_request=refuse) as url:
        with pytest.raises(DialError) as caught:
            await WebSocketDialer().dial(with_token(url, "SECRET"), Ear(), headers={"Authorization": "Bearer SECRET"})
        assert (caught.value.status, caught.value.unauthorized) == (status, unauthorized)
        assert "SECRET" not in str(caught.value)


async def test_frames_in_one_packet_with_the_answer_to_the_handshake_come_first() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in request.decode().split("\r\n") if line.lower().startswith("sec-websocket-key"))
        said = [encode(TEXT, b"%d" % number, masked=False) for number in range(3)]
        answer = (
            f"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
        )
        writer.write(answer.encode() + b"\r\n\r\n" + said[0] + said[1][:1])
        await writer.drain()
        writer.write(said[1][1:] + said[2] + encode(CLOSE, closing(1001, "bye"), masked=False))
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(eager, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    ear = Ear()
    socket = await WebSocketDialer(SocketSettings(close_s=0.05)).dial(f"ws://127.0.0.1:{port}/", ear)
    assert [await ear.next() for _ in range(4)] == [
        ("text", b"0"),
        ("text", b"1"),
        ("text", b"2"),
        ("lost", 1001, "bye"),
    ]
    await socket.wait_closed()
    listening.close()


async def test_headers_are_sent() -> None:
    seen: list[str | None] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers.get("Authorization"))

    async with server(handle) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(url, ear, headers={"Authorization": "Bearer k"})
        await ear.next()
        await socket.wait_closed()
        assert seen == ["Bearer k"]


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1/?token=SECRET", "http://h/?token=SECRET", "ws://[?token=SECRET", "token=SECRET"]
)
async def test_what_cannot_be_dialled_is_an_error_without_the_token(url: str) -> None:
    with pytest.raises(DialError) as caught:
        await WebSocketDialer().dial(url, Ear())
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        closed.set()

    closed = asyncio.Event()
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    with pytest.raises(DialError, match="did not answer"):
        await WebSocketDialer(SocketSettings(connect_s=0.05)).dial(f"ws://127.0.0.1:{port}/", Ear())
    await closed.wait()
    listening.close()


async def test_a_server_that_speaks_something_else() -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(rude, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    with pytest.raises(DialError, match="does not speak WebSocket"):
        await WebSocketDialer().dial(f"ws://127.0.0.1:{port}/", Ear())
    listening.close()


async def test_a_half_open_socket_is_noticed() -> None:
    async with server_that_does_not_read() as url:
        ear = Ear()
        started = asyncio.get_running_loop().time()
        socket = await WebSocketDialer(SocketSettings(ping_after_s=0.1, pong_within_s=0.1)).dial(url, ear)
        assert await ear.next() == ("lost", None, "")
        assert 0.15 < asyncio.get_running_loop().time() - started < 2.0
        await socket.wait_closed()


async def test_a_quiet_socket_that_answers_pings_lives() -> None:
    async with server(echo) as url:
        ear = Ear()
        socket = await WebSocketDialer(SocketSettings(ping_after_s=0.02, pong_within_s=2.0)).dial(url, ear)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ear.heard.get()
        socket.close(1000)
        await socket.wait_closed()


async def test_a_worker_that_stops_reading_is_given_up_and_memory_is_bounded() -> None:
    async with server_that_does_not_read() as url:
        ear = Ear()
        socket = await WebSocketDialer(SocketSettings(max_unsent=500_000)).dial(url, ear)
        for _ in range(2_000):
            socket.write(b"x" * 10_000)
            await asyncio.sleep(0)
            assert socket._transport.get_write_buffer_size() < 600_000
            if not ear.heard.empty():
                break
        assert await ear.next() == ("lost", None, "")
        await socket.wait_closed()


async def test_a_worker_that_stops_reading_is_given_up_in_time() -> None:
    async with server_that_does_not_read() as url:
        ear = Ear()
        socket = await WebSocketDialer(SocketSettings(stalled_s=0.05, max_unsent=100_000_000)).dial(url, ear)
        for _ in range(2_000):
            socket.write(b"x" * 10_000)
        assert await ear.next() == ("lost", None, "")
        await socket.wait_closed()


async def test_a_paused_socket_is_not_taken_for_dead() -> None:
    async with server(echo) as url:
        ear = Ear()
        settings = SocketSettings(ping_after_s=0.02, pong_within_s=0.02)
        socket = await WebSocketDialer(settings).dial(url, ear)
        socket.pause_reading()
        socket.write(b"a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ear.heard.get()
        socket.resume_reading()
        assert await ear.next() == ("text", b"a")
        socket.close(1000)
        await socket.wait_closed()


async def test_no_log_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.server").setLevel(logging.WARNING)
    async with server(echo) as url:
        ear = Ear()
        socket = await WebSocketDialer().dial(
            with_token(url, "SECRET"), ear, headers={"Authorization": "Bearer SECRET"}
        )
        socket.close(1000)
        await socket.wait_closed()
    assert "SECRET" not in caplog.text
