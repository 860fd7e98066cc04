"""A call's records, written as its bridge and its owner would."""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from unpod.core import events as ev
from unpod.core.codec import Body, Record
from unpod.core.commands import Command
from unpod.core.envelope import Envelope
from unpod.core.ephemeral_events import AdapterAsked, DeltaSent, TurnOpened
from unpod.core.events import tag_of
from unpod.core.ids import command_id, record_id
from unpod.core.state import SessionState, evolve, evolve_local
from unpod.core.subjects import Channel

START = 1_700_000_000.0


class CallLog:
    """Records in the order in which they are written here, which is the merged one; `state` is their fold."""

    def __init__(self, session: str = "s1", *, negotiated: tuple[str, ...] = ()) -> None:
        self.session = session
        self.now = START
        self.records: list[Record] = []
        self.state = SessionState()
        self.epoch = 1
        self.bridge_index = 0
        self.owner_index = 0
        self.bridge(ev.HelloAcked(negotiated_verbs=negotiated))
        self.bridge(ev.CallStarted(session_id=session))

    def bridge(self, body: Struct) -> Record:
        """Write the bridge's next record."""
        self.bridge_index += 1
        channel: Channel = "ack" if isinstance(body, ev.Receipt) else "evt"
        identifier = record_id(self.session, "bridge", self.bridge_index)
        return self._write(channel, body, identifier, self.bridge_index, seen=0)

    def owner(self, body: Struct) -> Record:
        """Write the owner's next record."""
        self.owner_index += 1
        if isinstance(body, Command):
            identifier = command_id(self.session, str(self.owner_index), "test", tag_of(body), 0)
            return self._write("cmd", body, identifier, self.owner_index, seen=self.bridge_index)
        identifier = record_id(self.session, "owner", self.owner_index)
        return self._write("run", body, identifier, self.owner_index, seen=self.bridge_index)

    def _write(self, channel: Channel, body: Struct, identifier: str, index: int, *, seen: int) -> Record:
        envelope = Envelope(
            id=identifier,
            type=f"{channel}.{tag_of(body)}",
            source="/test",
            session=self.session,
            time=self.now,
            epoch=self.epoch,
            index=index,
            seen=seen,
        )
        record = Record(channel, envelope, cast("Body", body), seq=len(self.records) + 1)
        self.records.append(record)
        self.state = evolve(self.state, record)
        return record


def speaking(*, negotiated: tuple[str, ...] = ()) -> CallLog:
    """A call in the middle of a reply."""
    log = CallLog(negotiated=negotiated)
    log.bridge(ev.UserText(text="hi"))
    log.state = evolve_local(log.state, TurnOpened(log.now))
    log.state = evolve_local(log.state, AdapterAsked(1, log.now))
    log.state = evolve_local(log.state, DeltaSent(1, "well", log.now))
    return log
