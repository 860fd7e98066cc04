"""What the bridge reads of the owner's records: commands, and which indexes are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, get_args

from unpod.core import codec
from unpod.core.commands import AnyCommand
from unpod.core.envelope import OVERHEAD, Envelope, from_headers
from unpod.core.live import LIVE_SUBJECT
from unpod.core.subjects import CallSubjects
from unpod.errors import ProtocolViolation
from unpod.ports import EventLog, Message
from unpod_bridge.protocol.outputs import Owned

_COMMANDS: Final = get_args(AnyCommand)
_UNKNOWN: Final = "this bridge does not know such a command"
_UNREADABLE: Final = "it cannot be read"


class OwnerRecords:
    """Reads one session's messages."""

    __slots__ = ("_call", "_run", "volume")

    def __init__(self, call: CallSubjects) -> None:
        self._call = call
        self._run = call.run("x")[:-1]
        self.volume = 0
        """What was read of the owner's, readable or not, in bytes of the log, about."""

    def read(self, message: Message) -> Owned | None:
        """Return a record of the owner; None for every other, and for one whose place in the order cannot be known.

        A record that travels on the live subject says in a header where it is stored. What a `run` record says is not
        the bridge's business.
        """
        subject = message.subject
        if subject == self._call.text:
            subject = message.headers.get(LIVE_SUBJECT, "")
        command = subject == self._call.cmd
        if not command and not subject.startswith(self._run):
            return None
        self.volume += OVERHEAD + len(message.data)
        try:
            envelope = from_headers(message.headers)
        except ProtocolViolation:
            return None
        if command:
            return self._command(message.data, envelope)
        return Owned(envelope.epoch, envelope.index, settled=envelope.settled)

    async def between(self, log: EventLog, since: int, first: int, last: int) -> AsyncIterator[Owned]:
        """Yield what the log has of the owner's records `first` to `last`, none of which is older than `since`.

        Raises:
            LogUnavailable: no answer.
        """
        read = OwnerRecords(self._call).read
        async for message in log.read(self._call.all, start_seq=since):
            owned = read(message)
            if owned is not None and first <= owned.index <= last:
                yield owned

    def _command(self, data: bytes, envelope: Envelope) -> Owned:
        try:
            body = codec.body_of("cmd", envelope, data)
        except ProtocolViolation:
            return Owned(envelope.epoch, envelope.index, envelope.id, None, _UNREADABLE, envelope.settled)
        if isinstance(body, _COMMANDS):
            return Owned(envelope.epoch, envelope.index, envelope.id, body, "", envelope.settled)
        return Owned(envelope.epoch, envelope.index, envelope.id, None, _UNKNOWN, envelope.settled)
