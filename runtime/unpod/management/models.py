"""What the management API answers, typed. Fields that this version does not know are ignored."""

from __future__ import annotations

from msgspec import Struct

from unpod.core.codec import Body

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
    """A session as the management API knows it, or, over NATS, as its log says.

    From the log only: `agent_id`; `owner`, the runner that has it; `bridge`, which holds its line; `turns`;
    `takeovers` by other runners; `paused`: the agent answers nothing; `supervisor`, who has taken the call over;
    `recording_paused`. `status` is then `active` or `ended`.
    """

    session_id: str
    status: str | None = None
    started_at: Moment = None
    ended_at: Moment = None
    duration_s: float | None = None
    end_reason: str | None = None
    transcript: tuple[TranscriptLine, ...] | None = None
    agent_id: str | None = None
    owner: str | None = None
    bridge: str | None = None
    turns: int | None = None
    takeovers: int | None = None
    paused: bool | None = None
    supervisor: str | None = None
    recording_paused: bool | None = None


class ControlApplied(Struct, frozen=True, kw_only=True):
    """A control was done; `reason` is a word on how, often empty."""

    session_id: str
    command_id: str
    verb: str
    reason: str = ""


class SessionEvent(Struct, frozen=True, kw_only=True):
    """One record of a session's log.

    `body` is a fact or command (`unpod.core.events`, `unpod.core.commands`), or an `Unknown` of another version. `at`
    is in seconds since 1970, in the log's time.
    """

    type: str
    at: float
    body: Body
    id: str
