"""What the management API answers, typed. Fields that this version does not know are ignored."""

from __future__ import annotations

from msgspec import Struct

Moment = str | float | None
"""A time as the server writes it: ISO 8601, or seconds since 1970."""


class SessionEnded(Struct, frozen=True, kw_only=True):
    """The answer to `end`."""

    session_id: str = ""
    state: str | None = None


class SessionTransferred(Struct, frozen=True, kw_only=True):
    """The answer to `transfer`."""

    session_id: str = ""
    added_participant_id: str | None = None
    removed_participant_id: str | None = None
    mode: str | None = None


class MergeOutcome(Struct, frozen=True, kw_only=True):
    """What became of one of the sessions that were to be merged."""

    session_id: str = ""
    status: str | None = None
    moved_participant_ids: tuple[str, ...] | None = None
    error: str | None = None


class SessionsMerged(Struct, frozen=True, kw_only=True):
    """The answer to `merge`; each secondary session has an outcome of its own."""

    primary_session_id: str = ""
    outcomes: tuple[MergeOutcome, ...] = ()


class TranscriptLine(Struct, frozen=True, kw_only=True):
    """One thing that was said."""

    role: str = ""
    content: str | None = None
    timestamp: Moment = None


class SessionRecord(Struct, frozen=True, kw_only=True):
    """A session as the management API knows it."""

    session_id: str
    status: str | None = None
    started_at: Moment = None
    ended_at: Moment = None
    duration_s: float | None = None
    end_reason: str | None = None
    transcript: tuple[TranscriptLine, ...] | None = None
