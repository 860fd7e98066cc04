"""Sessions over the orchestrator's REST API, which has three controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from unpod.management.models import SessionEnded, SessionRecord, SessionsMerged, SessionTransferred
from unpod.management.sessions import SessionRecords, Sessions, TransferMode, ids
from unpod.management.settings import RestSettings
from unpod.management.transport import HttpTransport


class RestSessions(Sessions):
    """`client.sessions` where no NATS is configured; a `command_id` goes out as `X-Request-Id`."""

    def __init__(self, transport: HttpTransport, settings: RestSettings) -> None:
        self._transport = transport
        self._settings = settings

    async def end(self, session_id: str, reason: str | None = None, *, command_id: str | None = None) -> SessionEnded:
        """Hang up; `reason` is for the server's records and goes out only where it is given."""
        body = None if reason is None else {"reason": reason}
        url = self._control(f"{_path(session_id)}/end")
        empty = {"session_id": session_id}
        return await self._transport.request("POST", url, SessionEnded, body=body, empty=empty, request_id=command_id)

    async def transfer(
        self,
        session_id: str,
        to_type: str,
        to_config: Mapping[str, object] | None = None,
        mode: TransferMode = "cold",
        *,
        warm_handoff_ms: int = 0,
        drop_participant_id: str | None = None,
        command_id: str | None = None,
    ) -> SessionTransferred:
        """Bring a new participant into a call in the agent's place; `to_type` is sip, agent, webrtc or livekit."""
        body: dict[str, object] = {
            "to": {"type": to_type, "config": dict(to_config or {})},
            "mode": mode,
            "warm_handoff_ms": warm_handoff_ms,
        }
        if drop_participant_id is not None:
            body["drop_participant_id"] = drop_participant_id
        url = self._control(f"{_path(session_id)}/transfer")
        empty = {"session_id": session_id, "mode": mode}
        return await self._transport.request(
            "POST", url, SessionTransferred, body=body, empty=empty, request_id=command_id
        )

    async def merge(
        self,
        primary_session_id: str,
        secondary_session_ids: Sequence[str],
        drop_participants: Sequence[object] | None = None,
        *,
        command_id: str | None = None,
    ) -> SessionsMerged:
        """Bring the participants of other sessions into a primary one."""
        body: dict[str, object] = {
            "primary_session_id": primary_session_id,
            "secondary_session_ids": ids(secondary_session_ids),
        }
        if drop_participants is not None:
            body["drop_participants"] = list(drop_participants)
        empty = {"primary_session_id": primary_session_id}
        url = self._control("merge")
        return await self._transport.request("POST", url, SessionsMerged, body=body, empty=empty, request_id=command_id)

    async def list(self, **query: str | int) -> SessionRecords:
        """Return the sessions that the management API knows; `query` goes out as it stands."""
        url = f"{self._settings.base_url}/v1/sessions"
        parameters = {name: str(value) for name, value in query.items()}
        return await self._transport.request("GET", url, SessionRecords, query=parameters, empty=[])

    async def get(self, session_id: str) -> SessionRecord:
        """Return one session."""
        url = f"{self._settings.base_url}/v1/sessions/{_path(session_id)}"
        return await self._transport.request("GET", url, SessionRecord, empty={"session_id": session_id})

    def _control(self, path: str) -> str:
        return f"{self._settings.orchestrator_base_url}/v1/sessions/{path}"


def _path(session_id: str) -> str:
    """Return an id as one segment of a path, whatever stands in it."""
    if not session_id:
        raise ValueError("the session id is empty")
    encoded = quote(session_id, safe="")
    return encoded.replace(".", "%2E") if set(session_id) == {"."} else encoded
