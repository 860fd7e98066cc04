"""A small fleet around one call, made of the parts that write in production, and what must hold of its log.

Bridges write with `Journal`, `take_line`, `CallLog` and `TakeoverLog`, runners with `Outbox`, each over a connection of
its own. Nobody is told that it has been replaced: it finds out when the log refuses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from tests.contract.places import Client
from tests.unit.bridge.call.call_rig import FakePlace

from unpod.core import codec
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.positions import unpack
from unpod.core.replay.ordering import is_whole, merge
from unpod.core.state import SessionState, evolve, fold
from unpod.core.subjects import Subjects
from unpod.errors import Fenced, LogError
from unpod.jetstream import LogClock
from unpod.ports import Message
from unpod.session.outbox import Outbox
from unpod.session.ownership import Ownership
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.takeover_log import TakeoverLog
from unpod_bridge.journal.journal import Journal, Writing
from unpod_bridge.journal.placements import LineServices, appoint, take_line
from unpod_bridge.journal.positions import StreamPositions
from unpod_bridge.protocol.outputs import Begin, Store
from unpod_bridge.protocol.owners import Owner, owner_changed
from unpod_bridge.protocol.ownership import ReplyProgress
from unpod_bridge.protocol.recovered_log import CallLog, Hearing
from unpod_bridge.transport.sockets import DialError, Receiver, Socket
from unpod_bridge.wire.call_frames import read_frame
from unpod_bridge.wire.job import Job

AGENT = "agent"
SUBJECTS = Subjects()
HELLO = read_frame(b'{"event":"hello.ack","session_id":"s"}', binary=False)


class Runner:
    """One owner of the session, as it sees itself."""

    def __init__(self, client: Client, session: str, owner: Owner, until_seq: int, index: int) -> None:
        self.owner = owner
        self.failure: LogError | None = None
        seat = Ownership(
            client.log, client.bus, LogClock(), SUBJECTS, AGENT, session, owner.runner_id, owner.epoch, until_seq
        )
        self.journal = Outbox(seat, on_failure=self._fail)
        self.journal.begin(index)
        self._said = 0

    def _fail(self, error: LogError) -> None:
        self.failure = error

    def say(self, *, command: bool, seen: int) -> None:
        """Write something: a command, or a fact."""
        self._said += 1
        body: cmd.AnyCommand | ev.SessionEvent = cmd.Say(text="x") if command else ev.SilenceNoticed(seconds=1.0)
        name = f"{self.owner.runner_id}-{self._said}" if command else ""
        self.journal.append(body, now=1.0, cause="", seen=seen, settled=(0, 0), hidden=False, command_id=name)


class Bridge:
    """One bridge with the call's line, as it sees itself."""

    def __init__(self, client: Client, name: str, session: str) -> None:
        self.name = name
        self.failure: LogError | None = None
        self.charted = 0
        """How often a new owner was handed where all of its history stands."""
        self.subjects = SUBJECTS.call(AGENT, session)
        self.services = LineServices(
            log=client.log, bus=client.bus, subjects=SUBJECTS, clock=LogClock(), bridge_id=name, dialer=_NoDialer()
        )
        self.session = session
        self.job = Job(f"job-{session}", "c", AGENT, "ws://x", "t")
        self.stream_positions = StreamPositions(self.services.horizon)
        self.takeover_log = TakeoverLog(session, self.services, self.subjects, self.stream_positions)
        self.journal: Journal | None = None
        self.owner: Owner | None = None

    def _journal(self, writing: Writing) -> Journal:
        return Journal(
            self.services.log,
            self.services.bus,
            self.services.clock,
            self.subjects,
            writing,
            on_failure=self._fail,
            on_state=lambda _: None,
            stream_positions=self.stream_positions,
        )

    def _fail(self, error: LogError) -> None:
        self.failure = error

    @property
    def connected(self) -> bool:
        """Whether it can reach the log."""
        log = self.services.log
        return not isinstance(log, MemoryLog) or log.available

    async def place(self, client: Client) -> Runner:
        """Begin the call, with its first owner."""
        writing = await take_line(self.services, self.subjects, self.job, self.session)
        self.stream_positions.placed(writing.epoch)
        self.journal = self._journal(writing)
        started = read_frame(b'{"event":"call.started","session_id":"%s"}' % self.session.encode(), binary=False)
        begin = Begin(self.session, HELLO, started)
        epoch, first = await appoint(self.services, self.subjects, begin, self.journal, FakePlace("runner-0"))
        self.owner = Owner("runner-0", epoch)
        self.takeover_log.begin(epoch)
        return Runner(client, self.session, self.owner, first, 0)

    async def adopt(self) -> None:
        """Take the line from whoever has it, and go on from what the log says."""
        former = await self.services.log.last(self.subjects.line)
        after = 0 if former is None else former.seq
        writing = await take_line(self.services, self.subjects, self.job, self.session, after=after)
        log = CallLog(SUBJECTS, self.subjects, self.session)
        async for message in self.services.log.read(self.subjects.all, until_seq=writing.epoch):
            log.take(message)
            self.stream_positions.take(self.subjects, message)
        past = log.adopted(Hearing())
        self.stream_positions.searched((), past.owner_index, writing.epoch)
        self.journal = self._journal(replace(writing, index=past.index))
        if past.own is not None:
            first, own = past.own
            self.owner = Owner(own.runner_id, own.epoch, own.takeover)
            self.takeover_log.begin(first.epoch)

    def hear(self) -> None:
        """The caller says something."""
        if self.journal is not None:
            self.journal.put(Store("evt", ev.UserText(text="hi")))

    def ask(self, runner: Runner, *, heard: bool) -> None:
        """Ask the owner where its records stand; what it answers may be lost."""
        if self.owner is None or runner.owner.epoch != self.owner.epoch:
            return
        stream_positions, horizon = self.stream_positions, self.services.horizon.seq
        index = runner.journal.index
        after = stream_positions.owner_index if stream_positions.lacks(index) else None
        stored = None if after is None else runner.journal.stored(after)
        if after is not None:
            runner.journal.forget(after)
        if heard:
            if stored is not None:
                stream_positions.told(*stored)
            stream_positions.sent(index, horizon)

    async def replace_owner(self, client: Client, name: str, known: int) -> Runner:
        """Appoint another owner; the records of the former up to the index `known` have come in."""
        assert self.journal is not None
        assert self.owner is not None
        self.owner = await self.takeover_log.appoint(self.owner, FakePlace(name))
        await self.takeover_log.tip(self.owner.epoch, known)
        stored = await self.journal.append(owner_changed(self.owner, self.takeover_log.last, ReplyProgress()))
        await self._check_chart(stored.seq)
        return Runner(client, self.session, self.owner, stored.seq, self.takeover_log.last)

    async def _check_chart(self, until_seq: int) -> None:
        """Check that what the new owner is handed leaves out nothing that it needs."""
        assert self.owner is not None
        packed = self.stream_positions.pack(self.owner.epoch, until_seq)
        if not packed:
            return
        positions, log = unpack(packed), self.services.log
        stored = [m async for m in log.read(self.subjects.all, until_seq=until_seq)]
        known = [m async for m in log.read(self.subjects.all, until_seq=until_seq, positions=positions)]
        read = [[codec.read(SUBJECTS, m.subject, m.headers, m.data, m.seq) for m in found] for found in (stored, known)]
        # But an appointment by a bridge that had lost its line meanwhile: nobody was told of it.
        counts = [[record for record in merge(records) if record.channel != "own"] for records in read]
        assert counts[0] == counts[1]
        assert is_whole(read[1], self.owner.epoch, until_seq)
        self.charted += positions.through >= until_seq


class _NoDialer:
    async def dial(self, url: str, receiver: Receiver, *, headers: Mapping[str, str] | None = None) -> Socket:
        raise DialError(f"nobody dials here: {url} {receiver} {headers}")


@dataclass
class Fleet:
    """Everybody around one call, those too that have been replaced."""

    connect: Callable[[], Awaitable[Client]]
    read_with: Callable[[], Awaitable[Client]]
    session: str
    bridges: list[Bridge] = field(default_factory=list)
    runners: list[Runner] = field(default_factory=list)
    reader: Client | None = None

    async def begin(self) -> None:
        """The call comes up."""
        bridge = Bridge(await self.connect(), "bridge-0", self.session)
        self.runners.append(await bridge.place(await self.connect()))
        self.bridges.append(bridge)

    async def adopt(self) -> None:
        """Another bridge takes the call over."""
        bridge = Bridge(await self.connect(), f"bridge-{len(self.bridges)}", self.session)
        await bridge.adopt()
        self.bridges.append(bridge)

    async def take_over(self, bridge: Bridge, *, heard: bool = False) -> bool:
        """A bridge, which may have lost the line, appoints another owner; return whether one has begun.

        `heard`: it has heard all that the former has said where its records stand.
        """
        known = bridge.stream_positions.owner_index if heard else 0
        try:
            self.runners.append(await bridge.replace_owner(await self.connect(), f"runner-{len(self.runners)}", known))
        except Fenced as error:
            bridge.failure = bridge.failure or error
            return False
        return True

    async def messages(self) -> list[Message]:
        """Return what stands in the log, in its order, as it was stored."""
        if self.reader is None:
            self.reader = await self.read_with()
        return [message async for message in self.reader.log.read(SUBJECTS.call(AGENT, self.session).all)]

    async def records(self) -> list[Record]:
        """Return what stands in the log, in its order."""
        return [
            codec.read(SUBJECTS, message.subject, message.headers, message.data, message.seq)
            for message in await self.messages()
        ]

    async def publish(self, message: Message) -> None:
        """Publish a stored message once more, as a writer does that has heard nothing of the first time."""
        assert self.reader is not None
        own = {name: value for name, value in message.headers.items() if not name.startswith("Nats-Expected-")}
        await self.reader.log.append(message.subject, message.data, own)

    async def close(self) -> None:
        """Nobody writes any more."""
        for bridge in self.bridges:
            if bridge.journal is not None:
                await bridge.journal.close()
        for runner in self.runners:
            await runner.journal.close()


def check(records: list[Record]) -> None:
    """Check that each position of a log has one line and one owner, and that all who read it see the same.

    Raises:
        AssertionError: it does not.
    """
    assert [record.seq for record in records] == sorted({record.seq for record in records})
    assert len({record.envelope.id for record in records}) == len(records)
    line = own = bridge_index = owner_index = 0
    for record in records:
        envelope = record.envelope
        if record.channel == "line":
            line = record.seq
        elif record.channel == "own":
            own = record.seq
        elif record.channel in codec.BRIDGE_CHANNELS:
            assert envelope.epoch == line, "a bridge has written without the line"
            assert envelope.index == bridge_index + 1, "the bridges' indexes have a gap"
            bridge_index += 1
            if isinstance(record.body, ev.OwnerChanged):
                assert record.body.last_owner_index == owner_index, "a takeover has passed over what was stored"
        else:
            assert envelope.epoch == own, "a runner has written without owning the session"
            assert envelope.index == owner_index + 1, "the owners' indexes have a gap"
            owner_index += 1
    merged = merge(records)
    assert merge(list(reversed(records))) == merged
    assert merge([*records, *(record for record in records if record.envelope.index)]) == merged
    state = SessionState()
    for record in merged:
        state = evolve(state, record)
    assert state == fold(merged)
    changes = [record.body for record in records if isinstance(record.body, ev.OwnerChanged)]
    assert [change.epoch for change in changes] == sorted({change.epoch for change in changes})
