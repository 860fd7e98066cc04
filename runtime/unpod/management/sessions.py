"""Live sessions from outside: what a client can do with them, whichever way it reaches them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, NoReturn

from unpod.errors import UnsupportedControl
from unpod.management.models import (
    ControlApplied,
    SessionEnded,
    SessionEvent,
    SessionRecord,
    SessionsMerged,
    SessionTransferred,
)

SessionRecords = list[SessionRecord]  # within the class, `list` is the verb
TransferMode = Literal["cold", "warm"]
Since = Literal["start", "now"]

_NEEDS_NATS = "this needs the fleet's NATS: set UNPOD_NATS_URL, or pass nats_url="


class Sessions(ABC):
    """`client.sessions`.

    A `command_id` makes a control idempotent: the same one for the same session is done once. Over NATS, each verb
    returns once the control is applied, and raises `SessionUnknown`, `SessionClosed`, `ControlRefused`,
    `ControlUnanswered` or `LogError`; over REST, `APIError`. The verbs that REST does not have raise
    `UnsupportedControl` there.
    """

    @abstractmethod
    async def end(self, session_id: str, reason: str | None = None, *, command_id: str | None = None) -> SessionEnded:
        """Hang up, once what is being said is said."""

    @abstractmethod
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
        """Bring a new participant into a call in the agent's place.

        `to_type` is sip, agent, human, webrtc or livekit, `to_config` what that needs (`{"number": "+15551230000"}`).
        A warm transfer lets both speak for `warm_handoff_ms` first.
        """

    @abstractmethod
    async def merge(
        self,
        primary_session_id: str,
        secondary_session_ids: Sequence[str],
        drop_participants: Sequence[object] | None = None,
        *,
        command_id: str | None = None,
    ) -> SessionsMerged:
        """Bring the participants of other sessions into a primary one."""

    @abstractmethod
    async def list(self, **query: str | int) -> SessionRecords:
        """Return sessions, newest first.

        Over NATS, `query` may have `status` (`active` or `ended`), `agent_id` and `limit` (100); over REST it goes out
        as it stands.
        """

    @abstractmethod
    async def get(self, session_id: str) -> SessionRecord:
        """Return one session, with its transcript."""

    def tail(self, session_id: str, *, since: Since = "start") -> AsyncIterator[SessionEvent]:
        """Yield a session's events: what has happened (unless `since="now"`), then what happens, until it is over."""
        del session_id, since
        _unsupported("tail")

    async def say(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Speak a text to the caller, verbatim; after `takeover`, as the supervisor."""
        del session_id, text, command_id
        _unsupported("say")

    async def interrupt(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Stop the reply that is being spoken."""
        del session_id, command_id
        _unsupported("interrupt")

    async def whisper(self, session_id: str, text: str, *, command_id: str | None = None) -> ControlApplied:
        """Tell the agent's adapter something that the caller does not hear; it counts from its next reply on."""
        del session_id, text, command_id
        _unsupported("whisper")

    async def pause(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer nothing; what it is saying it says to its end."""
        del session_id, command_id
        _unsupported("pause")

    async def resume(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Let the agent answer again; its adapter is told what was said meanwhile."""
        del session_id, command_id
        _unsupported("resume")

    async def takeover(
        self, session_id: str, reason: str | None = None, *, command_id: str | None = None
    ) -> ControlApplied:
        """Take the agent's place: it stops, `say` speaks to the caller, and `tail` has what the caller says."""
        del session_id, reason, command_id
        _unsupported("takeover")

    async def handback(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Give the call back to the agent, whose adapter is told what was said."""
        del session_id, command_id
        _unsupported("handback")

    async def pause_recording(
        self, session_id: str, reason: str | None = None, *, command_id: str | None = None
    ) -> ControlApplied:
        """Stop recording, and keep no text until it is resumed."""
        del session_id, reason, command_id
        _unsupported("recording.pause")

    async def resume_recording(self, session_id: str, *, command_id: str | None = None) -> ControlApplied:
        """Record again."""
        del session_id, command_id
        _unsupported("recording.resume")


def ids(session_ids: Sequence[str]) -> list[str]:
    """Return the ids of the sessions to be merged.

    Raises:
        TypeError: it is one string.
    """
    if isinstance(session_ids, str):
        raise TypeError("secondary_session_ids is one string; pass a list of session ids")
    return [*session_ids]


def _unsupported(verb: str) -> NoReturn:
    raise UnsupportedControl(verb, _NEEDS_NATS)
