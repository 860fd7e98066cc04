"""The verbs of `Sessions`, one by one, for callers that wait."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from unpod.management.models import SessionEnded, SessionRecord, SessionsMerged, SessionTransferred
from unpod.management.sessions import SessionRecords, Sessions, TransferMode

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end and returns what it returns."""

    def __call__(self, request: Coroutine[Any, Any, T], /) -> T:
        """Return, or raise, what the coroutine does."""
        ...


class BlockingSessions:
    """`client.sessions`: as `Sessions`, returning when the answer is there."""

    def __init__(self, sessions: Sessions, run: Run) -> None:
        self._sessions = sessions
        self._run = run

    def end(self, session_id: str, reason: str | None = None) -> SessionEnded:
        """Hang up; see `Sessions.end`."""
        return self._run(self._sessions.end(session_id, reason))

    def transfer(
        self,
        session_id: str,
        to_type: str,
        to_config: Mapping[str, object] | None = None,
        mode: TransferMode = "cold",
        *,
        warm_handoff_ms: int = 0,
        drop_participant_id: str | None = None,
    ) -> SessionTransferred:
        """Bring a new participant into a call in the agent's place; see `Sessions.transfer`."""
        return self._run(
            self._sessions.transfer(
                session_id,
                to_type,
                to_config,
                mode,
                warm_handoff_ms=warm_handoff_ms,
                drop_participant_id=drop_participant_id,
            )
        )

    def merge(
        self,
        primary_session_id: str,
        secondary_session_ids: Sequence[str],
        drop_participants: Sequence[object] | None = None,
    ) -> SessionsMerged:
        """Bring the participants of other sessions into a primary one; see `Sessions.merge`."""
        return self._run(self._sessions.merge(primary_session_id, secondary_session_ids, drop_participants))

    def list(self, **query: str | int) -> SessionRecords:
        """Return the sessions that the management API knows; see `Sessions.list`."""
        return self._run(self._sessions.list(**query))

    def get(self, session_id: str) -> SessionRecord:
        """Return one session."""
        return self._run(self._sessions.get(session_id))
