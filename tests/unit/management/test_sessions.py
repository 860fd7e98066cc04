"""What the verbs of `client.sessions` send, and what they make of the answers."""

from __future__ import annotations

import pytest
from tests.unit.management.rest_server import Server

from unpod.management import AsyncClient, MergeOutcome, SessionEnded, SessionsMerged, SessionTransferred


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
