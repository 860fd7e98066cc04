"""The other side of a session in memory: bridge and speech worker in one, as far as a session can tell.

It writes what a bridge writes (frames, receipts, the end of the call) and performs what a bridge performs, without
sockets and without waiting: text handed over counts as spoken at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import OWNER_CHANNELS, Body, Record
from unpod.core.controls import AnyControl, command_of, ends_session
from unpod.core.envelope import Envelope, source, to_headers
from unpod.core.ids import derive, record_id
from unpod.core.live import DELTA, LIVE_SUBJECT, Delta
from unpod.core.replay.ordering import Tail
from unpod.core.subjects import CallSubjects, Channel, Subjects
from unpod.core.verbs import OWN_VERBS, VERBS
from unpod.core.withhold import withhold
from unpod.ports import Fence, Message
from unpod.testing.clock import VirtualClock
from unpod.testing.memory import MemoryLog

ALL_VERBS = VERBS + OWN_VERBS

Spoken = tuple[str, str]
"""("say" or "reply", text), in the order in which the caller heard it."""


@dataclass
class Reply:
    """One reply as the worker got it."""

    turn: int
    part: int = 0
    pieces: list[str] = field(default_factory=list)
    next_piece: int = 1
    ended: bool = False
    reason: str = ""
    private: bool = False
    """Whether something of it was spoken while the recording was paused."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class MemoryLine:
    """One call's line in memory. Read `replies`, `spoken` and `commands`; `changed` is set at each change.

    `closing_s` is how long the worker takes, in virtual seconds, to close the line once it was told to. With
    `refuses_transfers` it keeps the caller: what becomes of a cold transfer then is for `refuse_transfer`.
    """

    def __init__(self, log: MemoryLog, clock: VirtualClock, subjects: Subjects, agent_id: str, session_id: str) -> None:
        self.log = log
        self.session_id = session_id
        self.call: CallSubjects = subjects.call(agent_id, session_id)
        self.replies: dict[int, Reply] = {}
        self.spoken: list[Spoken] = []
        self.commands: list[cmd.AnyCommand] = []
        self.command_ids: list[str] = []
        self.changed = asyncio.Event()
        self.ended: str | None = None
        self.closing_s = 0.0
        self.refuses_transfers = False
        self._clock = clock
        self._subjects = subjects
        self._agent = agent_id
        self._index = 0
        self._line_epoch = 0
        self.epoch = 0
        self._paused = False
        self._takeovers = 0
        self._owner = Tail()
        self._waiting: deque[Delta] = deque()
        self._ending: asyncio.Task[None] | None = None
        self._controls = 0
        self._ended_by = "agent"
        self._last: tuple[Record, cmd.EndCall] | None = None
        self._transfer: tuple[str, bool] | None = None

    async def open(self, metadata: Mapping[str, object], verbs: Sequence[str], frame: Mapping[str, object]) -> int:
        """Take the line, record the start of the call, appoint an owner; return where the owner's reading ends."""
        await self.log.subscribe(self.call.all, self._on_message)
        await self.log.subscribe(self.call.live, self._on_live)
        self._line_epoch = await self._place("line", ev.LineTaken(bridge="memory"))
        await self.record(
            {"event": "hello.ack", "negotiated_verbs": list(verbs), "session_id": self.session_id}, "hello.ack"
        )
        started = {
            "event": "call.started",
            "session_id": self.session_id,
            "job_id": "job-1",
            "room_id": "room-1",
            "agent_id": self._agent,
            "voice_profile_id": None,
            "metadata": dict(metadata),
            **frame,
        }
        await self.record(started, "call.started")
        self.epoch = await self._place("own", ev.OwnerAppointed(runner="memory"))
        return await self.acknowledge(ev.OwnerChanged(epoch=self.epoch, runner="memory"))

    async def takeover(self, *, skip: str = "", unsure_until: int = 0) -> int:
        """Appoint a new owner, as a bridge does when the old one is gone; return where its reading ends.

        With `unsure_until`, as one that has taken the call over from a bridge that died as well, without its receipts
        of the replies that are open: it knows that of the replies to texts up to that one, and nothing of their words.
        """
        former = await self.log.last(self.call.own)
        self._takeovers += 1
        body = ev.OwnerAppointed(runner="memory", takeover=self._takeovers)
        self.epoch = await self._place("own", body, 0 if former is None else former.seq)
        last = 0
        async for message in self.log.read(self.call.all):
            record = codec.read(self._subjects, message.subject, message.headers, message.data)
            if record.channel in OWNER_CHANNELS:
                last = max(last, record.envelope.index)
                self._deliver(record)
        begins = ev.OwnerChanged(
            epoch=self.epoch, runner="memory", last_owner_index=last, takeover=self._takeovers, skip=skip
        )
        closed = max((reply.turn for reply in self.replies.values() if reply.ended), default=0)
        if unsure_until > closed:
            return await self.acknowledge(replace(begins, turn=closed + 1, unsure_until=unsure_until))
        reply = self.replies[max(self.replies)] if self.replies else Reply(0)
        return await self.acknowledge(
            replace(
                begins,
                turn=reply.turn,
                part=reply.part,
                deltas=len(reply.pieces),
                chars=len(reply.text),
                text=None if reply.private or unsure_until else reply.text,
                withheld=reply.private,
            )
        )

    async def record(self, frame: Mapping[str, object], event: str) -> int:
        """Record a frame of the worker, as it comes."""
        return await self._append("evt", event, msgspec.json.encode(frame))

    async def acknowledge(self, receipt: ev.Receipt) -> int:
        """Record a receipt."""
        return await self._append("ack", ev.tag_of(receipt), codec.encode(receipt))

    async def control(self, control: AnyControl) -> None:
        """Admit a control from outside, and do what a bridge does for it; nothing happens after the call's end."""
        if self.ended is not None:
            return
        self._controls += 1
        identifier = derive("control", self.session_id, self._controls)
        answers: list[ev.Receipt] = [ev.ControlAnswered(control=identifier, outcome="admitted", body=control)]
        command = command_of(control)
        if not isinstance(command, cmd.Command):
            await self.acknowledge(answers[0])
            return
        open_reply = self.replies.get(max(self.replies, default=0))
        if open_reply is not None and (isinstance(command, cmd.Interrupt) or ends_session(control)):
            open_reply.ended = True
        self._ended_by = "operator" if isinstance(command, cmd.EndCall) else self._ended_by
        answers += self._receipts(identifier, self._owner.index, command, control=True)
        await asyncio.gather(*map(self.acknowledge, answers))
        self._carry_out(command)
        self._later(self.acknowledge(ev.ControlAnswered(control=identifier, outcome="applied")))

    async def refuse_transfer(self, reason: str = "the worker did not connect the caller: the call goes on") -> None:
        """Say what a bridge says once it knows that the worker has refused the last cold transfer."""
        if self._transfer is not None:
            (identifier, control), self._transfer = self._transfer, None
            await self.acknowledge(
                ev.CommandAcknowledged(
                    command=identifier, verb="transfer", outcome="refused", owner_index=0, reason=reason
                )
            )
            if control:
                await self.acknowledge(ev.ControlAnswered(control=identifier, outcome="failed", reason=reason))

    async def end(self, reason: str, by: str = "caller") -> None:
        """Record the end of the call, once."""
        if self.ended is None:
            self.ended = reason
            await self.record({"event": "call.ended", "reason": reason, "by": by}, "call.ended")
            self.changed.set()

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._ending is not None:
            await self._ending

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _place(self, channel: Channel, body: ev.Placement, former: int = 0) -> int:
        subject = self.call.line if channel == "line" else self.call.own
        envelope = self._envelope(channel, ev.tag_of(body), derive(channel, self.session_id, former), 0, 0)
        stored = await self.log.append(subject, codec.encode(body), to_headers(envelope), fence=Fence(subject, former))
        return stored.seq

    async def _append(self, channel: Channel, tag: str, data: bytes) -> int:
        self._index += 1
        identifier = record_id(self.session_id, "bridge", self._index)
        headers = to_headers(self._envelope(channel, tag, identifier, self._index, self._line_epoch))
        subject = self.call.ack if channel == "ack" else self.call.evt(tag)
        if self._paused:
            self.log.send(self.call.text, data, {**headers, LIVE_SUBJECT: subject})
            data = _withheld(channel, tag, data)
        stored = await self.log.append(subject, data, headers, fence=Fence(self.call.line, self._line_epoch))
        return stored.seq

    def _envelope(self, channel: Channel, tag: str, identifier: str, index: int, epoch: int) -> Envelope:
        return Envelope(
            id=identifier,
            type=f"{channel}.{tag}",
            source=source("bridge", "memory"),
            session=self.session_id,
            time=self._clock.now(),
            epoch=epoch,
            index=index,
        )

    # --- performing ---------------------------------------------------------------------------------------------------

    def _on_live(self, message: Message) -> None:
        if message.subject == self.call.delta:
            self._waiting.append(DELTA.decode(message.data))
            self._speak()
        elif LIVE_SUBJECT in message.headers:
            self._on_message(Message(message.headers[LIVE_SUBJECT], message.data, message.headers))

    def _on_message(self, message: Message) -> None:
        if self._subjects.parse(message.subject).channel in OWNER_CHANNELS:
            record = codec.read(self._subjects, message.subject, message.headers, message.data)
            if record.envelope.epoch <= self.epoch:
                self._deliver(record)

    def _deliver(self, record: Record) -> None:
        """Perform what is next in the owner's order; of a withheld record the whole one comes first, and counts."""
        for ready in self._owner.push(record):
            if ready.channel == "cmd" and ready.envelope.id not in self.command_ids:
                self.command_ids.append(ready.envelope.id)
                self._perform(ready, ready.body)
            self._speak()
        self.changed.set()

    def _speak(self) -> None:
        """Say the pieces whose turn has come: those that follow a command which is performed."""
        while self._waiting and self._waiting[0].after <= self._owner.index:
            delta = self._waiting.popleft()
            reply = self._reply(delta.turn)
            if delta.part > reply.part:
                reply.part, reply.next_piece = delta.part, 1
            if delta.epoch == self.epoch and not reply.ended and delta.n == reply.next_piece:
                reply.next_piece += 1
                reply.pieces.append(delta.text)
                reply.private |= self._paused
                self.spoken.append(("reply", delta.text))
        self.changed.set()

    def _perform(self, record: Record, body: Body) -> None:
        if isinstance(body, cmd.EndCall) and body.turn and not self._reply(body.turn).ended:
            self._last = record, body  # the reply comes to its end first
            return
        if not isinstance(body, cmd.EndReply):
            for receipt in self._receipts(record.envelope.id, record.envelope.index, body):
                self._later(self.acknowledge(receipt))
        self._carry_out(body)
        if self._last is not None and self._reply(self._last[1].turn).ended:
            (last, body), self._last = self._last, None
            self._perform(last, body)

    def _carry_out(self, body: Body) -> None:
        self.commands.append(body)  # type: ignore[arg-type]  # a Command, and AnyCommand is all of them
        if isinstance(body, cmd.Say):
            self.spoken.append(("say", body.text or ""))
        elif isinstance(body, cmd.EndReply):
            reply = self._reply(body.turn)
            reply.ended, reply.reason = True, body.reason
        elif isinstance(body, cmd.PauseRecording):
            self._paused = True
        elif isinstance(body, cmd.ResumeRecording):
            self._paused = False
        elif isinstance(body, cmd.EndCall):
            self._end_soon(body.reason)
        elif isinstance(body, cmd.Transfer) and body.mode == "cold" and not self.refuses_transfers:
            self._end_soon("transferred")

    def _receipts(
        self, identifier: str, index: int, body: Body, *, control: bool = False
    ) -> Iterator[ev.CommandAcknowledged]:
        """Yield what a bridge says of a command: what cannot be taken back is claimed, and delivered."""
        if isinstance(body, cmd.Transfer) and body.mode == "cold":
            self._transfer = identifier, control
        outcomes: tuple[ev.CommandOutcome, ...] = ("written",)
        if isinstance(body, cmd.IRREVERSIBLE):
            outcomes = "claimed", "delivered"
        for outcome in outcomes:
            yield ev.CommandAcknowledged(command=identifier, verb=ev.tag_of(body), outcome=outcome, owner_index=index)

    def _end_soon(self, reason: str) -> None:
        if self.closing_s:
            self._clock.call_later(self.closing_s, lambda: self._later(self.end(reason, by=self._ended_by)))
        else:
            self._later(self.end(reason, by=self._ended_by))

    def _later(self, work: Coroutine[object, object, object]) -> None:
        before = self._ending

        async def run() -> None:
            if before is not None:
                await before
            await work

        self._ending = asyncio.get_running_loop().create_task(run())

    def _reply(self, turn: int) -> Reply:
        return self.replies.setdefault(turn, Reply(turn))


def _withheld(channel: Channel, tag: str, data: bytes) -> bytes:
    return codec.encode(withhold(codec.decode(channel, tag, 1, data)))
