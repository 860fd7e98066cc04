"""The management client against the local orchestrator: a call is looked up, transferred, merged and ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import aiohttp
import pytest

from unpod.management import APIError, AsyncClient, SessionTransferred
from unpod_orchestrator import ALL_VERBS, LocalOrchestrator

KEY = "sk_local"
HELLO = {
    "event": "hello",
    "protocol_version": 2,
    "supported_events": ["user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started"],
    "supported_verbs": list(ALL_VERBS),
}


class Agent:
    """The least that a call needs on our side: registers, takes each job, shakes hands, and listens."""

    def __init__(self, http: aiohttp.ClientSession, orchestrator: LocalOrchestrator) -> None:
        self._http = http
        self._base = orchestrator.url
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        url = f"{self._base}/v1/internal/workers"
        async with self._http.ws_connect(url, headers={"Authorization": f"Bearer {KEY}"}) as control:
            capabilities = {
                "agent_id": "bot",
                "kind": "brain",
                "transport": "dial_out",
                "max_concurrent": 5,
                "voice_profiles": [],
                "hostname": None,
                "address": None,
                "region": None,
                "deployment": "local",
            }
            register = {"type": "register", "worker_id": "bot#00000001", "pool": "bot", "capabilities": capabilities}
            await control.send_json(register)
            async for message in control:
                await self._on_control(control, json.loads(message.data))

    async def stop(self) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _on_control(self, control: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
        if frame["type"] == "registered":
            await control.send_json({"type": "heartbeat", "active_jobs": 0, "worker_id": "bot#00000001"})
        elif frame["type"] == "job.assign":
            ack = {"type": "job.ack", "job_id": frame["job_id"], "assign_id": frame["assign_id"]}
            await control.send_json({**ack, "accepted": True, "reason": None})
            self._calls.add(asyncio.create_task(self._talk(frame)))

    async def _talk(self, job: dict[str, Any]) -> None:
        async with self._http.ws_connect(job["bridge_url"], params={"token": job["call_token"]}) as call:
            await call.send_json(HELLO)
            async for _ in call:
                pass


Wrapping = Literal["none", "data", "envelope"]


@asynccontextmanager
async def phone(wrapping: Wrapping) -> AsyncIterator[tuple[LocalOrchestrator, AsyncClient]]:
    """Run an orchestrator with an agent, and a client that is configured by the orchestrator's address alone."""
    async with (
        LocalOrchestrator(api_keys={KEY}, wrapping=wrapping, speed=20.0) as orchestrator,
        aiohttp.ClientSession() as http,
        AsyncClient(api_key=KEY, base_url=f"{orchestrator.http_url}/platform") as client,
    ):
        agent = Agent(http, orchestrator)
        running = asyncio.create_task(agent.run())
        try:
            await orchestrator.wait_for_worker("bot")
            yield orchestrator, client
        finally:
            await agent.stop()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.mark.parametrize("wrapping", ["none", "data", "envelope"])
async def test_a_call_is_looked_up_and_ended(wrapping: Wrapping) -> None:
    async with phone(wrapping) as (orchestrator, client):
        call = await orchestrator.place_call("bot", session_id="a session/1")
        await call.connected()
        (listed,) = await client.sessions.list()
        assert (listed.session_id, listed.ended_at, listed.transcript) == ("a session/1", None, ())
        ended = await client.sessions.end("a session/1")
        assert ended.session_id == "a session/1"
        await call.ended()
        record = await client.sessions.get("a session/1")
        assert record.status == "ended"
        assert record.end_reason is not None


async def test_a_call_is_transferred_and_another_merged() -> None:
    async with phone("envelope") as (orchestrator, client):
        for session_id in ("one", "two"):
            call = await orchestrator.place_call("bot", session_id=session_id)
            await call.connected()
        merged = await client.sessions.merge("one", ["two", "three"])
        assert [(outcome.session_id, outcome.status) for outcome in merged.outcomes] == [
            ("two", "merged"),
            ("three", "failed"),
        ]
        transferred = await client.sessions.transfer("one", to_type="sip", to_config={"number": "+15551230000"})
        assert transferred == SessionTransferred(
            session_id="one", added_participant_id=transferred.added_participant_id, mode="cold"
        )
        assert transferred.added_participant_id


async def test_what_the_orchestrator_refuses_is_told_with_its_reason() -> None:
    async with phone("none") as (orchestrator, client):
        with pytest.raises(APIError, match="HTTP 404: there is no such session"):
            await client.sessions.end("nobody")
        call = await orchestrator.place_call("bot", session_id="one")
        await call.connected()
        with pytest.raises(APIError, match="HTTP 422: the number is refused"):
            await client.sessions.transfer("one", "sip", {"number": "not a number"})
        async with AsyncClient(api_key="sk_wrong", base_url=orchestrator.http_url) as stranger:
            with pytest.raises(APIError, match="HTTP 401: the key is missing or unknown"):
                await stranger.sessions.list()
