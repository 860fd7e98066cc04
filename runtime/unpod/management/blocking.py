"""The verbs of `Sessions`, one by one, for callers that wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from unpod.management.models import (
    ControlApplied,
    SessionEnded,
    SessionEvent,
    SessionRecord,
    SessionsMerged,
    SessionTransferred,
)
from unpod.management.sessions import SessionRecords, Sessions, Since, TransferMode

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

    def end(self, session_id: str, reason: str | None = None, *, command_id: str | None = None) -> SessionEnded:
        """Hang up; see `Sessions.end`."""
        return self._run(self._sessions.end(session_id, reason, command_id=command_id))

    def transfer(
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
        """Bring a new participant into a call in the agent's place; see `Sessions.transfer`."""
        return self._run(
            self._sessions.transfer(
                session_id,
                to_type,
                to_config,
                mode,
                warm_handoff_ms=warm_handoff_ms,
                drop_participant_id=drop_participant_id,
                command_id=command_id,
            )
        )

    def merge(
        self,
        primary_session_id: str,
        secondary_session_ids: Sequence[str],
        drop_participants: Sequence[object] | None = None,
        *,
        command_id: str | None = None,
    ) -> SessionsMerged:
        """Bring the participants of other sessions into a primary one; see `Sessions.merge`."""
        return self._run(
            self._sessions.merge(primary_session_id, secondary_session_ids, drop_participants, command_id=command_id)
        )

    def list(self, **query: str | int) -> SessionRecords:
        """Return sessions, newest first; see `Sessions.list`."""
        return self._run(self._sessions.list(**query))

    def get(self, session_id: str) -> SessionRecord:
        """Return one session."""
        return self._run(self._sessions.get(session_id))

    def tail(self, session_id: str, *, since: Since = "start") -> Iterator[SessionEvent]:
        """Yield a session's events, each when it comes; see `Sessions.tail`."""
        events = self._sessions.tail(session_id, since=since)
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            self._run(_close(events))

    def say(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Speak a text to the caller; see `Sessions.say`."""
        return self._run(self._sessions.say(session_id, text, command_id=command_id))

    def interrupt(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Stop the reply that is being spoken."""
        return self._run(self._sessions.interrupt(session_id, command_id=command_id))

    def whisper(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Tell the agent's adapter something; see `Sessions.whisper`."""
        return self._run(self._sessions.whisper(session_id, text, command_id=command_id))

    def pause(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer nothing; see `Sessions.pause`."""
        return self._run(self._sessions.pause(session_id, command_id=command_id))

    def resume(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer again; see `Sessions.resume`."""
        return self._run(self._sessions.resume(session_id, command_id=command_id))

    def takeover(self, session_id: str, reason: str | None = None, *, command_id: str | None = None) -> ControlApplied:
        """Take the agent's place; see `Sessions.takeover`."""
        return self._run(self._sessions.takeover(session_id, reason, command_id=command_id))

    def handback(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Give the call back to the agent; see `Sessions.handback`."""
        return self._run(self._sessions.handback(session_id, command_id=command_id))

    def pause_recording(
        self, session_id: str, reason: str | None = None, *, command_id: str | None = None
    ) -> ControlApplied:
        """Stop recording, and keep no text until it is resumed."""
        return self._run(self._sessions.pause_recording(session_id, reason, command_id=command_id))

    def resume_recording(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Record again."""
        return self._run(self._sessions.resume_recording(session_id, command_id=command_id))


async def _next(events: AsyncIterator[SessionEvent]) -> SessionEvent | None:
    return await anext(events, None)


async def _close(events: AsyncIterator[SessionEvent]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()
