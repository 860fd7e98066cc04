"""The blocking client: the same verbs, for code without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.management.rest_server import Server, start

from unpod.management import APIError, Client


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
