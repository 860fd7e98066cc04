"""What the log says of a session's owners, when one of them is at fault, and what the next one is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import codec, ids
from unpod.core import events as ev
from unpod.core.envelope import Envelope, from_headers
from unpod.core.subjects import CallSubjects
from unpod.errors import ProtocolViolation
from unpod.ports import Message
from unpod_bridge.outputs import Owned
from unpod_bridge.owner_records import OwnerRecords
from unpod_bridge.tenure import Legacy

SKIP_AT: Final = 2
"""At so many takeovers that did not get past an input, its handlers are not run any more."""
GIVE_UP_AT: Final = 4
"""At so many, the call ends with `error`."""
CLEANUPS: Final = 3
"""How often a call that has ended is resumed for its cleanup."""

_MAX_UNSETTLED: Final = 500


class Owner(Struct, frozen=True):
    """Who owns a session: `epoch` is the sequence of its `own` record, `takeover` counts from 0."""

    runner_id: str
    epoch: int
    takeover: int = 0


class OwnersLog:
    """The stored records of a session, taken once each as far as owners are concerned: in stream order, in pieces."""

    def __init__(self, session_id: str, subjects: CallSubjects, reader: OwnerRecords) -> None:
        self._session = session_id
        self._reader = reader
        self._evt = subjects.evt("x")[:-1]
        self._text = subjects.evt("user.text")
        self._completed_on = subjects.run("turn.completed")
        self._closed_on = subjects.run("session.closed")
        self._texts = 0
        self._open_texts: dict[int, str] = {}
        self._completed = 0
        self._inputs: dict[int, str] = {}
        self._commands: dict[str, int] = {}
        self.next_seq = 1
        """Where to read on."""
        self.last = 0
        """The owners' last index."""
        self.settled = 0
        """Up to which index of the bridge all handlers have returned, as an owner has said."""
        self.closed = False
        """Whether nothing is left to do."""

    def take(self, message: Message) -> Owned | None:
        """Take the next message of the log; return what of an owner it carries."""
        if message.seq < self.next_seq:
            return None
        self.next_seq = message.seq + 1
        try:
            envelope = from_headers(message.headers)
        except ProtocolViolation:
            return None
        if message.subject.startswith(self._evt):
            self._input(message, envelope)
            return None
        owned = self._reader.read(message)
        if owned is not None:
            self._owned(message, envelope, owned)
        return owned

    def _input(self, message: Message, envelope: Envelope) -> None:
        self._inputs[envelope.index] = envelope.id
        if message.subject == self._text and _is_final(message):
            self._texts += 1
            self._open_texts[self._texts] = envelope.id

    def _owned(self, message: Message, envelope: Envelope, owned: Owned) -> None:
        self.last = max(self.last, owned.index)
        self.closed = self.closed or message.subject == self._closed_on
        if owned.id:
            self._commands[owned.id] = envelope.seen
        if message.subject == self._completed_on:
            self._completed += 1
            self._open_texts.pop(self._completed, None)
        if owned.settled > self.settled:
            self.settled = owned.settled
            self._inputs = {index: name for index, name in self._inputs.items() if index > owned.settled}
            self._commands = {command: seen for command, seen in self._commands.items() if seen > owned.settled}

    @property
    def suspect(self) -> str:
        """The id of the input that an owner died of, if it died of one: the text whose turn is open, or the first."""
        if self._open_texts:
            return self._open_texts[min(self._open_texts)]
        return self._inputs[min(self._inputs)] if self._inputs else ids.record_id(self._session, "bridge", 1)

    def unsettled(self, legacy: Legacy) -> tuple[ev.UnsettledCommand, ...]:
        """Return what became of the commands whose causes are not settled, those that no log has among them."""
        known: Mapping[str, ev.CommandOutcome] = legacy.outcomes
        found = {command: known[command] for command in self._commands if command in known}
        found.update((command, known.get(command, "written")) for command in legacy.unlogged)
        newest = list(found.items())[-_MAX_UNSETTLED:]
        return tuple(ev.UnsettledCommand(command, outcome) for command, outcome in newest)


class Poison:
    """Counts the owners that a session has lost without having come past the same point of its log."""

    __slots__ = ("_mark", "count")

    def __init__(self) -> None:
        self._mark = -1
        self.count = 0

    def lost(self, settled: int) -> None:
        """An owner is lost, with everything settled up to an index."""
        if settled > self._mark:
            self._mark, self.count = settled, 0
        self.count += 1

    @property
    def skips(self) -> bool:
        """Whether the suspect is to be passed over."""
        return self.count >= SKIP_AT

    @property
    def hopeless(self) -> bool:
        """Whether the call cannot go on."""
        return self.count >= GIVE_UP_AT


def owner_changed(owner: Owner, log: OwnersLog, legacy: Legacy, *, skip: bool) -> ev.OwnerChanged:
    """Return a new owner's starting point."""
    body = ev.OwnerChanged(
        epoch=owner.epoch,
        runner=owner.runner_id,
        last_owner_index=log.last,
        takeover=owner.takeover,
        turn=legacy.turn,
        part=legacy.part,
        deltas=legacy.deltas,
        chars=legacy.chars,
        text=legacy.text,
        unsettled=log.unsettled(legacy),
        skip=log.suspect if skip else "",
    )
    return replace(body, withheld=True, text=None) if legacy.private else body


def _is_final(message: Message) -> bool:
    try:
        body = codec.decode("evt", "user.text", 1, message.data)
    except ProtocolViolation:
        return False
    return isinstance(body, ev.UserText) and body.is_final
