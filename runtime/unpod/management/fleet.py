"""A client's way to the fleet: its NATS connection, opened when it is first needed, and the log of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from unpod.core import codec
from unpod.core.codec import Record
from unpod.core.subjects import DEFAULT_PREFIX, Address, CallSubjects, Subjects
from unpod.errors import ConfigurationError, ProtocolViolation, SessionUnknown, UnsafeIdentifier
from unpod.jetstream import JetStreamLog, Nats, NatsOptions, connect, nats_options, topology
from unpod.ports import Message

_NAME: Final = "unpod-client"


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Where the fleet's NATS is, under which prefix its calls are, and who asks."""

    nats: NatsOptions = field(repr=False)
    prefix: str = DEFAULT_PREFIX
    actor: str = ""


def fleet_settings(environ: Mapping[str, str], nats_url: str | None, actor: str) -> FleetSettings | None:
    """Return the settings for a client over NATS; None where no NATS is configured.

    Raises:
        ConfigurationError: a value cannot be used; the text names its variable.
    """
    found = {name: value.strip() for name, value in environ.items() if value.strip()}
    options = nats_options(found, (nats_url or "").strip())
    if options is None:
        return None
    prefix = found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX)
    try:
        Subjects(prefix)
    except UnsafeIdentifier as error:
        raise ConfigurationError(f"UNPOD_SUBJECT_PREFIX: {error}") from None
    return FleetSettings(replace(options, name=_NAME), prefix, actor)


class ManagementConnection:
    """The connection of one client; belongs to the event loop that first uses it."""

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings
        self.subjects = Subjects(settings.prefix)
        self.actor = settings.actor
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._nats: Nats | None = None
        self._log: JetStreamLog | None = None

    async def open(self) -> tuple[Nats, JetStreamLog]:
        """Return the connection and the log over it.

        Raises:
            ConfigurationError: nothing answers, or the server refuses us.
        """
        async with self._opening:
            if self._nats is None or self._log is None:
                self._nats = await self._stack.enter_async_context(connect(self._settings.nats))
                self._log = JetStreamLog(self._nats, topology(self._settings.prefix).calls)
            return self._nats, self._log

    async def close(self) -> None:
        """Close the connection."""
        await self._stack.aclose()
        self._nats = self._log = None

    # ------------------------------------------------------------------------------------------------------- look up

    async def find(self, session_id: str) -> tuple[CallSubjects, bool]:
        """Return the subjects of a session, and whether its call has ended.

        Raises:
            SessionUnknown: the log has no such session.
            LogError: the log cannot be read.
        """
        started = await self._newest(session_id, "call.started")
        if started is None:
            raise SessionUnknown(f"there is no session {session_id[:200]!r} in the log under {self.subjects.prefix!r}")
        ended = await self._newest(session_id, "call.ended")
        return self.subjects.at(self.address(started)), ended is not None

    async def records(self, pattern: str, *, start_seq: int = 1) -> list[Record]:
        """Return the stored records that match, in stream order; what cannot be read is left out."""
        _, log = await self.open()
        found = []
        async for message in log.read(pattern, start_seq=start_seq):
            record = self.decode(message)
            if record is not None:
                found.append(record)
        return found

    async def messages(self, pattern: str) -> list[Message]:
        """Return the stored messages that match, in stream order."""
        _, log = await self.open()
        return [message async for message in log.read(pattern)]

    def decode(self, message: Message, subject: str = "") -> Record | None:
        """Return the record in a message, None where it cannot be read."""
        try:
            return codec.read(self.subjects, subject or message.subject, message.headers, message.data, message.seq)
        except ProtocolViolation:
            return None

    def address(self, message: Message) -> Address:
        """Return whose a record of the log is."""
        return self.subjects.parse(message.subject)

    async def _newest(self, session_id: str, event_type: str) -> Message | None:
        if not session_id:
            raise ValueError("the session id is empty")
        found = await self.messages(self.subjects.of_type("evt", event_type, session_id=session_id))
        return found[-1] if found else None
