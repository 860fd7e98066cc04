"""What can go wrong between a client and its server."""

from __future__ import annotations

import pytest
from tests.unit.management.rest_server import Server

from unpod.management import APIError, AsyncClient


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
