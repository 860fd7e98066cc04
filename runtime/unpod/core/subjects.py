"""The only place that builds or parses a NATS subject.

Every id becomes one token. Letters, digits, `_` and `-` stand for themselves; any other byte of its UTF-8 form is
`=XX`; what would be longer than 160 characters becomes `=~` and a digest. No two ids share a token, and no id can
carry a wildcard, a separator or a control character into a subject. The id itself travels in the envelope.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, get_args
from urllib.parse import unquote

from msgspec import Struct

from unpod.core.ids import derive
from unpod.errors import ProtocolViolation, UnsafeIdentifier

Channel = Literal["line", "own", "evt", "ack", "run", "cmd", "ctl"]
CHANNELS: frozenset[Channel] = frozenset(get_args(Channel))
_CHANNELS: dict[str, Channel] = {channel: channel for channel in CHANNELS}
TYPED: frozenset[Channel] = frozenset({"evt", "run"})
"""Channels whose subjects end in an event type."""

DEFAULT_PREFIX = "unpod"
MAX_TOKEN = 160
_SAFE = re.compile(r"[A-Za-z0-9_-]+\Z")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_A_TYPE = r"[a-z][a-z_]*(?:\.[a-z][a-z_]*)*"
_TYPE = re.compile(rf"{_A_TYPE}\Z")
_WITH, _WITHOUT = ("|".join(sorted(group)) for group in (TYPED, CHANNELS - TYPED))
_ADDRESS = rf"([^.]+)\.([^.]+)\.(?:({_WITH})\.({_A_TYPE})|({_WITHOUT}))\Z"


def token(identifier: str) -> str:
    """Return the subject token of an id.

    Raises:
        UnsafeIdentifier: the id is empty.
    """
    if not identifier:
        msg = "an empty id cannot name a session or an agent"
        raise UnsafeIdentifier(msg)
    if len(identifier) <= MAX_TOKEN and _SAFE.match(identifier):
        return identifier
    data = identifier.encode("utf-8", "surrogatepass")
    text = "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data)
    return text if len(text) <= MAX_TOKEN else f"=~{derive('token', identifier)}"


def identifier(text: str) -> str:
    """Return the id that a token stands for; of one that was too long, the token."""
    if "=" not in text or text.startswith("=~"):
        return text
    return unquote(text.replace("=", "%"), errors="replace")


class Address(Struct, frozen=True):
    """What a subject of the log says: whose record it is and on which channel; agent and session as tokens."""

    agent: str
    session: str
    channel: Channel
    type: str = ""


class CallSubjects:
    """The subjects of one session, whose agent and id are given as tokens."""

    __slots__ = (
        "_base",
        "ack",
        "again",
        "agent",
        "all",
        "cmd",
        "ctl",
        "delta",
        "line",
        "live",
        "own",
        "seen",
        "spoken",
        "text",
    )

    def __init__(self, prefix: str, agent: str, session: str) -> None:
        tail = f"{agent}.{session}"
        base, live = f"{prefix}.call.{tail}", f"{prefix}.live.{tail}"
        self._base = base
        self.agent = agent
        self.all = f"{base}.>"
        self.line = f"{base}.line"
        self.own = f"{base}.own"
        self.ack = f"{base}.ack"
        self.cmd = f"{base}.cmd"
        self.ctl = f"{base}.ctl"
        self.live = f"{live}.>"
        self.delta = f"{live}.delta"
        self.again = f"{live}.again"
        self.text = f"{live}.text"
        self.seen = f"{live}.seen"
        self.spoken = f"{live}.spoken"

    @property
    def evts(self) -> str:
        """The pattern of all events of the caller's side."""
        return f"{self._base}.evt.>"

    @property
    def runs(self) -> str:
        """The pattern of all events of the session."""
        return f"{self._base}.run.>"

    def channel_of(self, subject: str) -> str:
        """Return the channel of one of this session's stored subjects."""
        return subject[len(self._base) + 1 :].partition(".")[0]

    def evt(self, event_type: str) -> str:
        """Return the subject of an event of the caller's side."""
        return f"{self._base}.evt.{_checked(event_type)}"

    def run(self, event_type: str) -> str:
        """Return the subject of an event of the session."""
        return f"{self._base}.run.{_checked(event_type)}"


class Subjects:
    """All subjects under one prefix."""

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        if not all(_SAFE.match(part) for part in prefix.split(".")):
            msg = f"subject prefix {prefix!r}: use letters, digits, '_' and '-', in parts joined by dots"
            raise UnsafeIdentifier(msg)
        self.prefix = prefix
        self._head = f"{prefix}.call."
        self._address = re.compile(re.escape(self._head) + _ADDRESS)
        self.calls = f"{prefix}.call.>"
        self.runners = f"{prefix}.runners"
        self.bridges = f"{prefix}.bridges"
        self.alive = f"{prefix}.bridges.alive"
        self.probations = f"{prefix}.bridges.probations"
        self.all_queued = f"{prefix}.dispatch.*.queued"

    def call(self, agent_id: str, session_id: str) -> CallSubjects:
        """Return the subjects of one session."""
        return CallSubjects(self.prefix, token(agent_id), token(session_id))

    def at(self, address: Address) -> CallSubjects:
        """Return the subjects of the session that a record belongs to."""
        return CallSubjects(self.prefix, address.agent, address.session)

    def of_type(self, channel: Channel, event_type: str, *, agent_id: str = "", session_id: str = "") -> str:
        """Return the pattern of the records of one type, in all sessions, those of an agent, or one."""
        agent, session = (token(name) if name else "*" for name in (agent_id, session_id))
        return f"{self.prefix}.call.{agent}.{session}.{channel}.{_checked(event_type)}"

    def session(self, session_id: str) -> str:
        """Return the pattern of one session's records, whatever its agent."""
        return f"{self.prefix}.call.*.{token(session_id)}.>"

    def channel(self, channel: Channel) -> str:
        """Return the pattern of one channel's records in all sessions."""
        return f"{self.prefix}.call.*.*.{channel}{'.>' if channel in TYPED else ''}"

    def every(self, channel: Channel, event_type: str) -> str:
        """Return the pattern of one type's records on a typed channel, in all sessions."""
        return f"{self.prefix}.call.*.*.{channel}.{_checked(event_type)}"

    def event_of(self, session_id: str, event_type: str) -> str:
        """Return the pattern of one type's events of the caller's side of a session, whatever its agent."""
        return f"{self.prefix}.call.*.{token(session_id)}.evt.{_checked(event_type)}"

    def dispatch(self, agent_id: str) -> str:
        """Return the subject on which runners of an agent are asked to take a new call."""
        return f"{self.prefix}.dispatch.{token(agent_id)}"

    def resume(self, agent_id: str) -> str:
        """Return the subject on which runners of an agent are asked to take over a call."""
        return f"{self.prefix}.dispatch.{token(agent_id)}.resume"

    def queued(self, agent_id: str) -> str:
        """Return the subject on which bridges announce what waits for a runner of an agent."""
        return f"{self.prefix}.dispatch.{token(agent_id)}.queued"

    def runner(self, runner_id: str) -> str:
        """Return the subject of one runner process: requests to it in person."""
        return f"{self.prefix}.runner.{token(runner_id)}"

    def bridge(self, bridge_id: str) -> str:
        """Return the subject of one bridge process: requests to it in person."""
        return f"{self.prefix}.bridge.{token(bridge_id)}"

    def parse(self, subject: str) -> Address:
        """Return what a subject of the log says.

        Raises:
            ProtocolViolation: it is not a subject of the log under this prefix.
        """
        match = self._address.match(subject)
        if match is None:
            raise ProtocolViolation(self._why_not(subject))
        agent, session, typed, event_type, channel = match.groups()
        return Address(agent, session, _CHANNELS[typed or channel], event_type or "")

    def _why_not(self, subject: str) -> str:
        parts = subject[len(self._head) :].split(".", 3) if subject.startswith(self._head) else []
        if len(parts) < 3 or not all(parts):  # noqa: PLR2004 - agent, session, channel
            return f"not a subject of the log: {subject[:200]!r}"
        if parts[2] not in _CHANNELS:
            return f"unknown channel in subject: {subject[:200]!r}"
        return f"an event type where none may be, or none where one must be: {subject[:200]!r}"


@lru_cache(maxsize=512)  # there are some fifty types
def _is_type(text: str) -> bool:
    return bool(_TYPE.match(text))


def _checked(event_type: str) -> str:
    if not _is_type(event_type):
        msg = f"not an event type: {event_type[:100]!r}"
        raise ProtocolViolation(msg, whose="local")
    return event_type
