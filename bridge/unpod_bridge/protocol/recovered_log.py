"""What a bridge has to know of a call that another one had, out of the call's log. Pure.

What the former bridge did stands in its receipts; what stands in none may have been done in the moment of its death.
So, for each command of the owner:

- a receipt says what became of it: it is settled;
- one that cannot be taken back and is claimed, no more, may have been written: `unknown`, and not repeated. Without a
  claim it was not written, and is performed;
- `say` has no claim. It is performed where it was stored when the former bridge could hear nothing any more, else it is
  `unknown`;
- the end of a reply has none either. Sent twice, it can end the next reply; never sent, the worker's gate stays shut.
  Where the former bridge may have heard it, it is `doubtful`: the worker's first word on what it is doing decides;
- all others may be repeated, and are performed.

A bridge that may be alive (it was stopped, or cut off) goes on until it finds its line taken, and the worker lets in
nobody else as long as it has its socket. So what comes before our own link is up may have been done by it as well.

Speech: what the last receipt of a reply counts was spoken. The pieces behind it may have been: the owner, which knows
when it has sent them, says which (`unpod.session.resend_buffer`). Where the former bridge has handed the call over in
order, nothing is uncertain.

What the former bridge has sent to the log last may have been refused, since the line had changed hands; its owner may
have seen it on its way, and acted on it. So the owner is asked, and what the log lacks is stored after all (`add`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, Record
from unpod.core.controls import command_of
from unpod.core.envelope import from_headers
from unpod.core.subjects import CallSubjects, Subjects
from unpod.errors import ProtocolViolation
from unpod.ports import Message
from unpod_bridge.protocol.effects import leaves
from unpod_bridge.protocol.outputs import Owned, Store
from unpod_bridge.protocol.owner_records import OwnerRecords
from unpod_bridge.protocol.recovery import Appointment, Recovery
from unpod_bridge.protocol.state import OUTCOMES
from unpod_bridge.wire import call_frames

NEVER: Final = 2**63
"""A stream sequence that the log will never reach."""


class Hearing(Struct, frozen=True):
    """How much of the log a bridge can have heard: nothing from a sequence on, or from the log's time `until_ns` on.

    By default neither is known: it may hear even now.
    """

    until_seq: int = NEVER
    until_ns: int = NEVER

    def covers(self, message: Message) -> bool:
        """Whether it may have heard a stored message: it heard that when it was sent, and a slow log stores later."""
        return message.seq < self.until_seq and min(message.time_ns, _sent_ns(message)) < self.until_ns


class CallLog:
    """Takes the stored messages of a call, in stream order, and says what they amount to."""

    def __init__(self, subjects: Subjects, call: CallSubjects, session_id: str) -> None:
        self._subjects = subjects
        self._session = session_id
        self._reader = OwnerRecords(call)
        self._ack = call.ack
        self._own_on = call.own
        self._finished_on = call.run("session.closed")
        self._finished = False
        self._evt = call.evt("x")[:-1]
        self._index = 0
        self._written = self._written_ns = 0
        self._facts: dict[str, object] = {}
        self._outcomes: dict[str, ev.CommandOutcome] = {}
        self._owned: dict[int, tuple[Message, Owned]] = {}
        self._controls: list[tuple[Message, Owned]] = []
        self._answered: dict[str, None] = {}
        self._own: list[Appointment] = []
        self._changes: list[ev.OwnerChanged] = []
        self._owner_seq = 0
        self._turns = 0
        self._closed = 0
        self._reply: ev.ReplySpoken | None = None
        self._cut = False
        self._unread = 0

    def take(self, message: Message) -> None:
        """Take the next message."""
        if message.subject in (self._ack, self._own_on) or message.subject.startswith(self._evt):
            try:
                record = codec.read(self._subjects, message.subject, message.headers, message.data, message.seq)
            except ProtocolViolation:
                return
            self._record(record, message)
            self._written, self._written_ns = message.seq, message.time_ns
            return
        self._finished = self._finished or message.subject == self._finished_on
        owned = self._reader.read(message)
        if owned is not None:
            former = self._owned.get(owned.index)
            if former is None or former[1].epoch < owned.epoch:
                self._owned[owned.index] = message, owned

    def _record(self, record: Record, message: Message) -> None:
        if isinstance(record.body, ev.OwnerAppointed):
            self._own.append(Appointment(record.seq, record.body.runner, record.body.takeover))
        elif record.envelope.index > self._index:
            self._index = record.envelope.index
            if isinstance(record.body, ev.ControlAnswered):
                self._control(record.body, message)
            self._fact(record)

    def _fact(self, record: Record) -> None:
        body = record.body
        match body:
            case ev.CommandAcknowledged():
                self._outcomes.pop(body.command, None)
                self._outcomes[body.command] = body.outcome
            case ev.ReplySpoken(unread=True):
                self._unread = body.turn
            case ev.ReplySpoken():
                self._spoken(body)
            case ev.OwnerChanged():
                self._changes.append(body)
                self._owner_seq = record.seq
            case ev.UserText():
                self._turns += body.is_final
            case ev.UserInterrupted():
                self._cut = self._reply is not None
            case ev.HelloAcked() | ev.CallStarted() | ev.CallReattached() | ev.CallEnded():
                self._facts[ev.tag_of(body)] = body
                self._unread = 0 if isinstance(body, ev.CallReattached) else self._unread
            case _:
                pass

    def _control(self, body: ev.ControlAnswered, message: Message) -> None:
        """An admitted control is done after all that the owner had asked for when it was admitted."""
        self._answered[body.control] = None
        command = None if body.body is None else command_of(body.body)
        if body.outcome == "admitted" and body.body is not None and isinstance(command, cmd.Command):
            latest = message.time_ns / 1e9 + body.body.deadline_s
            index = max(self._owned, default=0)
            self._controls.append((message, Owned(0, index, body.control, command, control=True, latest=latest)))

    def _spoken(self, body: ev.ReplySpoken) -> None:
        if body.ended:
            self._closed, self._reply = max(self._closed, body.turn), None
        elif body.turn > self._closed:
            self._cut = self._cut and self._reply is not None and self._reply.turn == body.turn
            self._reply = body

    @property
    def index(self) -> int:
        """The bridges' last index."""
        return self._index

    def hearing(self, known: Hearing) -> Hearing:
        """Return what the former bridge can have heard: all, if it has written after it was thought to hear nothing."""
        return known if self._written < known.until_seq else Hearing()

    def has_written_since(self, time_ns: int) -> bool:
        """Whether the former bridge has written anything after a time of the log's."""
        return self._written_ns > time_ns

    def add(self, message: Message) -> Store | None:
        """Take a record that the log has refused, and return how to store it; None where it does not come next."""
        try:
            record = codec.read(self._subjects, message.subject, message.headers, message.data)
        except ProtocolViolation:
            return None
        body = record.body
        if record.channel not in BRIDGE_CHANNELS or isinstance(body, ev.OwnerChanged):
            return None
        if record.envelope.index != self._index + 1:
            return None
        self._record(record, message)
        channel: Literal["evt", "ack"] = "ack" if record.channel == "ack" else "evt"
        withheld = bool(getattr(body, "withheld", False))
        return Store(channel, body, message.data, withheld=withheld, cause=record.envelope.cause)  # type: ignore[arg-type]

    # ----------------------------------------------------------------------------------------------- what it amounts to

    def adopted(self, hearing: Hearing, *, clean: bool = False) -> Recovery:
        """Return how far the call has come; `clean`: the former bridge has handed it over, with everything stored."""
        hello, started = self._facts.get("hello.ack"), self._facts.get("call.started")
        again, ended = self._facts.get("call.reattached"), self._facts.get("call.ended")
        records = list(self._valid())
        paused, pause_reason = self._pause(owned for _, owned in records)
        commands = [owned.command for _, owned in records]
        unsettled = [(message, owned) for message, owned in records if not self._is_settled(owned)]
        unknown = [
            owned
            for message, owned in unsettled
            if self._may_be_done(owned, heard=not clean and hearing.covers(message))
        ]
        lost = {owned.id for owned in unknown}
        doubtful = [
            owned.command.turn
            for message, owned in unsettled
            if isinstance(owned.command, cmd.EndReply) and not clean and hearing.covers(message)
        ]
        return Recovery(
            session_id=self._session,
            index=self._index,
            owner_index=max(self._owned, default=0),
            started=isinstance(started, ev.CallStarted),
            ended=ended if isinstance(ended, ev.CallEnded) else None,
            finished=self._finished,
            recorded=not isinstance(started, ev.CallStarted) or started.metadata.get("recording") is not False,
            verbs=call_frames.negotiated(hello) if isinstance(hello, ev.HelloAcked) else frozenset(),
            attempts=again.attempt if isinstance(again, ev.CallReattached) else 0,
            turns=self._turns,
            closed=self._closed,
            reply=self._reply,
            cut=self._cut,
            own=(self._own[0], self._own[-1]) if self._own else None,
            owner=self._changes[-1] if self._changes else None,
            owner_seq=self._owner_seq,
            outcomes={**dict(list(self._outcomes.items())[-OUTCOMES:]), **dict.fromkeys(lost, "unknown")},
            doubtful=max(doubtful, default=0),
            unread_end=self._unread,
            owned=tuple(owned for _, owned in unsettled if owned.id not in lost),
            unknown=tuple(unknown),
            paused=paused,
            pause_reason=pause_reason,
            filler=next((c.text or "" for c in reversed(commands) if isinstance(c, cmd.SetFiller)), ""),
            ending=self._ending(records, lost),
            controls=tuple(self._answered),
            clean=clean,
            shadowed=not clean and hearing == Hearing(),
        )

    def _valid(self) -> Iterator[tuple[Message, Owned]]:
        """Yield what the owners have stored, in order, without what a takeover has made void, and controls between."""
        controls = deque(self._controls)
        for index in sorted(self._owned):
            message, owned = self._owned[index]
            while controls and controls[0][0].seq < message.seq:
                yield controls.popleft()
            if not any(owned.epoch < change.epoch and index > change.last_owner_index for change in self._changes):
                yield message, owned
        yield from controls

    def _is_settled(self, owned: Owned) -> bool:
        if isinstance(owned.command, cmd.EndReply):
            return owned.command.turn <= self._closed
        if owned.command is None and not owned.refusal:
            return True
        return self._outcomes.get(owned.id, "claimed") != "claimed"

    def _may_be_done(self, owned: Owned, *, heard: bool) -> bool:
        return owned.id in self._outcomes or (isinstance(owned.command, cmd.Say) and heard)  # it is claimed, or said

    def _pause(self, records: Iterator[Owned]) -> tuple[bool, str]:
        paused, reason = False, ""
        for owned in records:
            outcome = self._outcomes.get(owned.id)
            if isinstance(owned.command, cmd.PauseRecording) and outcome != "refused":
                paused, reason = True, owned.command.reason
            elif isinstance(owned.command, cmd.ResumeRecording) and outcome is not None:
                paused = False
        return paused, reason

    def _ending(self, records: list[tuple[Message, Owned]], lost: set[str]) -> Owned | None:
        for _, owned in records:
            sent = self._outcomes.get(owned.id) in ("claimed", "written", "delivered", "unknown") or owned.id in lost
            if sent and leaves(owned.command):
                return owned
        return None


def _sent_ns(message: Message) -> int:
    try:
        return int(from_headers(message.headers).time * 1e9)
    except ProtocolViolation:
        return message.time_ns
