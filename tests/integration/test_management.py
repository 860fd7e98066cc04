"""The management clients over HTTP, against a server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from unpod.management import (
    APIError,
    AsyncClient,
    Client,
    MergeOutcome,
    SessionEnded,
    SessionsMerged,
    SessionTransferred,
)

VARIABLES = (
    "UNPOD_API_KEY",
    "UNPOD_BASE_URL",
    "UNPOD_SERVICE_BASE_URL",
    "UNPOD_ORCHESTRATOR_BASE_URL",
    "UNPOD_PLATFORM_TOKEN",
    "UNPOD_ORG_HANDLE",
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Server:
    """Records requests, and answers all with the same."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    drop: int = 0
    stall: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def says(self, body: object, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(body).encode()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.seen.append(
            Seen(
                request.method,
                request.raw_path.partition("?")[0],
                dict(request.query),
                request.headers,
                json.loads(raw) if raw else None,
            )
        )
        if self.drop:
            self.drop -= 1
            assert request.transport is not None
            request.transport.abort()
        if self.stall:
            await asyncio.Event().wait()
        return web.Response(status=self.status, body=self.body, content_type=self.content_type, headers=self.headers)


async def start(server: Server) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    runner = await start(running)
    yield running
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_key="sk-secret-1", base_url=f"{server.url}/platform", timeout_s=5) as opened:
        yield opened


# --- the calls --------------------------------------------------------------------------------------------------------


async def test_end(server: Server, client: AsyncClient) -> None:
    server.says({"session_id": "s", "state": "ending", "new": 1})
    assert await client.sessions.end("s") == SessionEnded(session_id="s", state="ending")
    (request,) = server.seen
    assert (request.method, request.path, request.body) == ("POST", "/orchestrator/v1/sessions/s/end", None)
    await client.sessions.end("s", reason="fraud")
    assert server.seen[-1].body == {"reason": "fraud"}


async def test_transfer(server: Server, client: AsyncClient) -> None:
    answer = {"session_id": "s", "added_participant_id": "p2", "removed_participant_id": None, "mode": "warm"}
    server.says({"data": answer})
    assert await client.sessions.transfer(
        "s", to_type="sip", to_config={"number": "+15551230000"}, mode="warm", warm_handoff_ms=4000
    ) == SessionTransferred(session_id="s", added_participant_id="p2", mode="warm")
    (request,) = server.seen
    assert (request.method, request.path) == ("POST", "/orchestrator/v1/sessions/s/transfer")
    assert request.body == {
        "to": {"type": "sip", "config": {"number": "+15551230000"}},
        "mode": "warm",
        "warm_handoff_ms": 4000,
    }


async def test_transfer_with_as_little_and_as_much_as_can_be_said(server: Server, client: AsyncClient) -> None:
    server.says({"session_id": "s"})
    await client.sessions.transfer("s", "agent")
    await client.sessions.transfer("s", "livekit", {"a": [1]}, drop_participant_id="p1")
    assert [request.body for request in server.seen] == [
        {"to": {"type": "agent", "config": {}}, "mode": "cold", "warm_handoff_ms": 0},
        {
            "to": {"type": "livekit", "config": {"a": [1]}},
            "mode": "cold",
            "warm_handoff_ms": 0,
            "drop_participant_id": "p1",
        },
    ]


async def test_merge(server: Server, client: AsyncClient) -> None:
    outcome = {"session_id": "b", "status": "failed", "moved_participant_ids": [], "error": "gone"}
    server.says({"status_code": 200, "message": "ok", "data": {"primary_session_id": "a", "outcomes": [outcome]}})
    assert await client.sessions.merge("a", secondary_session_ids=["b"]) == SessionsMerged(
        primary_session_id="a",
        outcomes=(MergeOutcome(session_id="b", status="failed", moved_participant_ids=(), error="gone"),),
    )
    await client.sessions.merge("a", ["b"], [{"session_id": "b", "participant_id": "p"}])
    assert server.seen[0].path == "/orchestrator/v1/sessions/merge"
    assert [request.body for request in server.seen] == [
        {"primary_session_id": "a", "secondary_session_ids": ["b"]},
        {
            "primary_session_id": "a",
            "secondary_session_ids": ["b"],
            "drop_participants": [{"session_id": "b", "participant_id": "p"}],
        },
    ]
    with pytest.raises(TypeError, match="pass a list of session ids"):
        await client.sessions.merge("a", "b")


async def test_list_and_get_are_at_the_management_base(server: Server, client: AsyncClient) -> None:
    session = {"session_id": "s", "status": "ended", "duration_s": 3, "data": {"x": 1}}
    server.says({"data": [session]})
    (listed,) = await client.sessions.list(status="ended", limit=5)
    server.says(session)
    got = await client.sessions.get("s")
    assert listed == got
    assert (got.session_id, got.status, got.duration_s) == ("s", "ended", 3)
    assert [(request.method, request.path, request.query) for request in server.seen] == [
        ("GET", "/platform/v1/sessions", {"status": "ended", "limit": "5"}),
        ("GET", "/platform/v1/sessions/s", {}),
    ]


@pytest.mark.parametrize("status", [200, 204])
async def test_an_empty_answer_is_success(server: Server, client: AsyncClient, status: int) -> None:
    server.status = status
    assert await client.sessions.end("s") == SessionEnded(session_id="s")
    assert (await client.sessions.transfer("s", "sip")).mode == "cold"
    assert await client.sessions.merge("a", ["b"]) == SessionsMerged(primary_session_id="a")
    assert await client.sessions.list() == []
    assert (await client.sessions.get("s")).session_id == "s"


@pytest.mark.parametrize(
    ("session_id", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("../merge", "..%2Fmerge"),
        ("..", "%2E%2E"),
        ("a?x=1#y", "a%3Fx%3D1%23y"),
        ("a%2Fb", "a%252Fb"),
        ("caf\u00e9 1", "caf%C3%A9%201"),
    ],
)
async def test_any_id_is_one_segment_of_the_path(
    server: Server, client: AsyncClient, session_id: str, segment: str
) -> None:
    await client.sessions.end(session_id)
    assert server.seen[0].path == f"/orchestrator/v1/sessions/{segment}/end"


async def test_an_empty_id_asks_nobody(server: Server, client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="the session id is empty"):
        await client.sessions.get("")
    assert server.seen == []


# --- who asks ---------------------------------------------------------------------------------------------------------


async def test_every_request_says_who_asks_and_has_an_id_of_its_own(server: Server, client: AsyncClient) -> None:
    await client.sessions.end("s")
    await client.sessions.list()
    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer sk-secret-1"] * 2
    assert len({request.headers["X-Request-Id"] for request in server.seen}) == 2
    assert not any("Org-Handle" in request.headers for request in server.seen)


async def test_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "t-1")
    monkeypatch.setenv("UNPOD_ORG_HANDLE", "acme")
    monkeypatch.setenv("UNPOD_BASE_URL", server.url)
    async with AsyncClient(api_key="sk-1") as client:
        await client.sessions.list()
        await client.sessions.end("s")
    assert [request.path for request in server.seen] == ["/platform/v1/sessions", "/orchestrator/v1/sessions/s/end"]
    assert {request.headers["Authorization"] for request in server.seen} == {"Token t-1"}
    assert {request.headers["Org-Handle"] for request in server.seen} == {"acme"}


# --- what can go wrong ------------------------------------------------------------------------------------------------


async def test_an_http_error_shows_status_and_the_bodys_reason(server: Server, client: AsyncClient) -> None:
    server.says({"detail": "no such session"}, status=404)
    with pytest.raises(APIError) as caught:
        await client.sessions.get("s")
    error = caught.value
    assert (error.status, error.reason) == (404, "no such session")
    assert error.request_id == server.seen[0].headers["X-Request-Id"]
    assert str(error) == f"HTTP 404: no such session (request {error.request_id})"


async def test_the_servers_own_request_id_counts(server: Server, client: AsyncClient) -> None:
    server.says({}, status=500)
    server.headers = {"X-Request-Id": "theirs"}
    with pytest.raises(APIError) as caught:
        await client.sessions.end("s")
    assert (caught.value.reason, caught.value.request_id) == ("Internal Server Error", "theirs")


async def test_a_reason_that_quotes_the_key_does_not_show_it(server: Server, client: AsyncClient) -> None:
    server.says({"message": "the key sk-secret-1 is not valid at https://h/?token=abc"}, status=401)
    with pytest.raises(APIError) as caught:
        await client.sessions.end("s")
    assert caught.value.reason == "the key *** is not valid at https://h/?token=***"


@pytest.mark.parametrize("status", [301, 304])
async def test_a_redirection_is_no_success(server: Server, client: AsyncClient, status: int) -> None:
    server.status = status
    with pytest.raises(APIError, match=f"HTTP {status}"):
        await client.sessions.list()


@pytest.mark.parametrize(
    ("body", "reason"), [(b"<html>", "the answer is not JSON"), (b'{"session_id":7}', "the answer is not as expected")]
)
async def test_an_answer_that_cannot_be_read(server: Server, client: AsyncClient, body: bytes, reason: str) -> None:
    server.body = body
    with pytest.raises(APIError, match=f"HTTP 200: {reason}"):
        await client.sessions.get("s")


async def test_a_get_whose_connection_is_lost_is_tried_again(server: Server, client: AsyncClient) -> None:
    server.drop = 2
    server.says([])
    assert await client.sessions.list() == []
    assert len(server.seen) == 3
    assert len({request.headers["X-Request-Id"] for request in server.seen}) == 1


async def test_and_given_up_at_last(server: Server, client: AsyncClient) -> None:
    server.drop = 9
    with pytest.raises(APIError, match=r"no answer: the connection failed \(.* at 127\.0\.0\.1:\d+\)") as caught:
        await client.sessions.list()
    assert caught.value.status is None
    assert len(server.seen) == 3


async def test_what_changes_something_is_sent_once(server: Server, client: AsyncClient) -> None:
    server.drop = 9
    with pytest.raises(APIError, match="no answer: the connection failed"):
        await client.sessions.end("s")
    assert len(server.seen) == 1


async def test_an_http_error_is_not_tried_again(server: Server, client: AsyncClient) -> None:
    server.status = 503
    with pytest.raises(APIError, match="HTTP 503"):
        await client.sessions.list()
    assert len(server.seen) == 1


async def test_a_server_that_does_not_answer(server: Server) -> None:
    server.stall = True
    async with AsyncClient(api_key="k", base_url=server.url, timeout_s=0.1) as client:
        with pytest.raises(APIError, match="no answer: it took too long"):
            await client.sessions.list()
    assert len(server.seen) == 1


async def test_nobody_listens() -> None:
    async with AsyncClient(api_key="k", base_url="http://127.0.0.1:9", timeout_s=5) as client:
        with pytest.raises(APIError, match=r"no answer: the connection failed \(ConnectError at 127\.0\.0\.1:9\)"):
            await client.sessions.end("s")


# --- the blocking client ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Run a server in a thread of its own: the tests of the blocking client have no event loop."""
    running, ready, stop = Server(), threading.Event(), threading.Event()

    async def serve() -> None:
        runner = await start(running)
        ready.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield running
    stop.set()
    thread.join(10)


def test_the_blocking_client_has_the_same_verbs(elsewhere: Server) -> None:
    with Client(api_key="k", base_url=f"{elsewhere.url}/platform") as client:
        elsewhere.says({"session_id": "s", "state": "ending"})
        assert client.sessions.end("s").state == "ending"
        assert client.sessions.transfer("s", "sip", {"number": "+1"}, "warm", warm_handoff_ms=1).session_id == "s"
        assert client.sessions.get("s").session_id == "s"
        elsewhere.says({"primary_session_id": "s"})
        assert client.sessions.merge("s", ["t"]).primary_session_id == "s"
        elsewhere.says([])
        assert client.sessions.list(limit=1) == []
    assert [request.path.removeprefix("/orchestrator") for request in elsewhere.seen] == [
        "/v1/sessions/s/end",
        "/v1/sessions/s/transfer",
        "/platform/v1/sessions/s",
        "/v1/sessions/merge",
        "/platform/v1/sessions",
    ]
    assert elsewhere.seen[1].body["warm_handoff_ms"] == 1


def test_the_blocking_client_raises_the_same_errors(elsewhere: Server) -> None:
    elsewhere.says({"detail": "busy"}, status=409)
    with Client(api_key="k", base_url=elsewhere.url) as client, pytest.raises(APIError, match="HTTP 409: busy"):
        client.sessions.end("s")


def test_several_threads_may_share_a_blocking_client(elsewhere: Server) -> None:
    elsewhere.says({"session_id": "s"})
    with Client(api_key="k", base_url=elsewhere.url) as client, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(client.sessions.get, ["s"] * 12))
    assert len(results) == len(elsewhere.seen) == 12


async def test_the_blocking_client_inside_a_running_loop_says_what_to_use() -> None:
    with (
        Client(api_key="k", base_url="http://127.0.0.1:9") as client,
        pytest.raises(RuntimeError, match=r"cannot be used inside a running event loop; use unpod\.AsyncClient"),
    ):
        client.sessions.list()


def test_a_closed_blocking_client_says_so(elsewhere: Server) -> None:
    elsewhere.says([])
    client = Client(api_key="k", base_url=elsewhere.url)
    client.sessions.list()
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="Client is closed"):
        client.sessions.list()
