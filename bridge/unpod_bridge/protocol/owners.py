"""What the log says of a session's owners, when one of them is at fault, and what the next one is told. Pure."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import codec, ids
from unpod.core import events as ev
from unpod.core.envelope import from_headers
from unpod.core.subjects import CallSubjects
from unpod.errors import ProtocolViolation
from unpod.ports import Message
from unpod_bridge.protocol.outputs import Owned
from unpod_bridge.protocol.owner_records import OwnerRecords
from unpod_bridge.protocol.ownership import ReplyProgress

SKIP_AT: Final = 2
"""At so many takeovers that did not get past an input, its handlers are not run any more."""
GIVE_UP_AT: Final = 4
"""At so many, the call ends with `error`."""
CLEANUPS: Final = 3
"""How often a call that has ended is resumed for its cleanup."""

EVERY: Final = 2**63 - 1
"""An index higher than all others: with it, an ended call lacks nothing, whatever has not come."""

_TOLD: Final = 64
"""How many of the newest commands' outcomes a new owner is told, beside those of commands that are in no log."""


class Owner(Struct, frozen=True):
    """Who owns a session: `epoch` is the sequence of its `own` record, `takeover` counts from 0."""

    runner_id: str
    epoch: int
    takeover: int = 0


class Tip:
    """The end of what a session's owners have stored, read in stream order from somewhere before it."""

    def __init__(self, reader: OwnerRecords) -> None:
        self._reader = reader
        self.records: list[Owned] = []
        """What was taken."""
        self.seqs: list[int] = []
        """Where they stand."""
        self.settled = 0
        """Up to which index of the bridge all handlers have returned, as an owner has said."""

    @property
    def first(self) -> int:
        """The index of the first record that was taken, 0 for none."""
        return self.records[0].index if self.records else 0

    @property
    def last(self) -> int:
        """The owners' last index, 0 if nothing was taken."""
        return self.records[-1].index if self.records else 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing between the first and the last that were taken."""
        return not self.records or self.last - self.first + 1 == len(self.records)

    def take(self, message: Message) -> None:
        """Take the next message."""
        owned = self._reader.read(message)
        if owned is not None and owned.index > self.last:
            self.records.append(owned)
            self.seqs.append(message.seq)
            self.settled = max(self.settled, owned.settled)


class Inputs:
    """The inputs of a session, read in stream order and in parts, to find the one of which an owner may have died."""

    def __init__(self, session_id: str, subjects: CallSubjects) -> None:
        self._session = session_id
        self._evt = subjects.evt("x")[:-1]
        self._run = subjects.run("x")[:-1]
        self._cmd = subjects.cmd
        self._text = subjects.evt("user.text")
        self._completed_on = subjects.run("turn.completed")
        self._texts = 0
        self._open_texts: dict[int, str] = {}
        self._completed = 0
        self._settled = 0
        self._inputs: dict[int, str] = {}
        self.next_seq = 1
        """Where to read on."""

    def take(self, message: Message) -> None:
        """Take the next message."""
        if message.seq < self.next_seq:
            return
        self.next_seq = message.seq + 1
        try:
            envelope = from_headers(message.headers)
        except ProtocolViolation:
            return
        if message.subject.startswith(self._evt):
            self._inputs[envelope.index] = envelope.id
            if message.subject == self._text and _is_final(message):
                self._texts += 1
                self._open_texts[self._texts] = envelope.id
        elif message.subject == self._completed_on:
            self._completed += 1
            self._open_texts.pop(self._completed, None)
        if message.subject == self._cmd or message.subject.startswith(self._run):
            self._settle(envelope.settled)

    def _settle(self, index: int) -> None:
        if index > self._settled:
            self._settled = index
            self._inputs = {known: name for known, name in self._inputs.items() if known > index}

    @property
    def suspect(self) -> str:
        """The id of the input in question: the text whose turn is open, else the first that is not settled."""
        if self._open_texts:
            return self._open_texts[min(self._open_texts)]
        return self._inputs[min(self._inputs)] if self._inputs else ids.record_id(self._session, "bridge", 1)


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


def owner_changed(owner: Owner, last_owner_index: int, progress: ReplyProgress, skip: str = "") -> ev.OwnerChanged:
    """Return a new owner's starting point, with what became of the newest commands."""
    newest = dict(list(progress.outcomes.items())[-_TOLD:])
    newest.update((command, progress.outcomes.get(command, "written")) for command in progress.unlogged)
    body = ev.OwnerChanged(
        epoch=owner.epoch,
        runner=owner.runner_id,
        last_owner_index=last_owner_index,
        takeover=owner.takeover,
        turn=progress.turn,
        part=progress.part,
        deltas=progress.deltas,
        chars=progress.chars,
        text=progress.text,
        unsure_until=progress.unsure_until,
        unended=progress.unended,
        earlier=progress.earlier,
        unsettled=tuple(ev.UnsettledCommand(command, outcome) for command, outcome in newest.items()),
        skip=skip,
    )
    return replace(body, withheld=True, text=None) if progress.private else body


def _is_final(message: Message) -> bool:
    try:
        body = codec.decode("evt", "user.text", 1, message.data)
    except ProtocolViolation:
        return False
    return isinstance(body, ev.UserText) and body.is_final
