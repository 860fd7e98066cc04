"""A call changes bridges: the line that had it, and the one that goes on with it, on one log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.unit.bridge.call.call_rig import SUBJECTS, TOKEN, FakePlace, FakeSocket, FakeWorker, Rig, call

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS
from unpod.core.envelope import Envelope, to_headers
from unpod.core.live import AGAIN, SPOKEN, Again, SeenRecord, Spoken
from unpod.errors import LogUnavailable
from unpod.jetstream.log.writer import DEFAULT_BOUNDS
from unpod.ports import Fence, Message
from unpod.testing.memory import MemoryLog
from unpod_bridge.call.adopting import UNSTARTED, AdoptedCall, Predecessor
from unpod_bridge.call.call import SURE_S
from unpod_bridge.call.log_health import GRACE_S
from unpod_bridge.call.placing import BEGUN, NewCall
from unpod_bridge.call.settings import LineResult
from unpod_bridge.journal.placements import LineServices
from unpod_bridge.journal.stalls import StallDetector
from unpod_bridge.protocol.recovered_log import NEVER
from unpod_bridge.protocol.state import ProtocolSettings
from unpod_bridge.wire.job import Job


class Successor:
    """The bridge that goes on with a rig's call."""

    def __init__(
        self,
        rig: Rig,
        *,
        deaf_from: int = 0,
        deaf_since: float | None = None,
        still_since: float | None = None,
        let_go: Callable[[], Awaitable[bool]] | None = None,
        session: str = "session-1",
        url: str = "ws://w/c",
    ) -> None:
        self.rig = rig
        self.log = MemoryLog(rig.broker)
        self.worker = FakeWorker(metadata=rig.worker.metadata)
        services = LineServices(
            log=self.log, bus=self.log, subjects=SUBJECTS, clock=rig.clock, bridge_id="bridge-2", dialer=self.worker
        )
        predecessor = Predecessor(
            session_id=session,
            deaf_from=deaf_from or len(rig.broker.records) + 1,
            deaf_since=asyncio.get_running_loop().time() if deaf_since is None else deaf_since,
            let_go=let_go,
        )
        if deaf_from == NEVER:
            predecessor = Predecessor(session_id=session, still_since=still_since, let_go=let_go)
        self.line = AdoptedCall(Job("job-1", "call-1", "agent-1", url, TOKEN), predecessor, services)
        self.task: asyncio.Task[LineResult] = asyncio.get_running_loop().create_task(self.line.run())

    @property
    def socket(self) -> FakeSocket:
        return self.worker.sockets[-1]

    async def end(self) -> LineResult:
        """Hang up."""
        self.socket.lose(1000)
        return await self.task


@asynccontextmanager
async def successor(rig: Rig, **options: object) -> AsyncIterator[Successor]:
    made = Successor(rig, **options)  # type: ignore[arg-type]
    await rig.settle()
    await rig.settle()
    try:
        yield made
    finally:
        if not made.task.done():
            made.task.cancel()
        await asyncio.wait([made.task])


def dies(rig: Rig) -> None:
    """The bridge is gone, as after a SIGKILL: its sockets are closed, and it does nothing any more."""
    rig.log.available = False
    assert rig.task is not None
    rig.line._link._socket = None  # it says goodbye to nobody
    rig.task.cancel()


async def test_it_dials_again_and_goes_on_with_index_and_epochs() -> None:
    async with call() as rig:
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        dies(rig)
        async with successor(rig) as other:
            assert other.socket.events == ["hello"]
            await rig.command(cmd.Say(text="a"))
            assert other.socket.events == ["hello", "agent.say"]
            other.socket.say("user.text", text="two")
            await rig.settle()
            assert (await other.end()).reason == "hangup"
        records = [record for record in rig.records() if record.channel in BRIDGE_CHANNELS]
        assert [record.envelope.index for record in records] == list(range(1, len(records) + 1))
        first, second = rig.records("line")
        assert {record.envelope.epoch for record in records} == {first.seq, second.seq}
        assert [record.envelope.epoch for record in records] == sorted(record.envelope.epoch for record in records)
        assert rig.bodies(ev.CallReattached) == [ev.CallReattached(session_id="session-1", attempt=1)]
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one", "two"]  # type: ignore[attr-defined]
        assert rig.types("evt")[-1] == "call.ended"


async def test_what_the_former_bridge_can_have_heard_is_unknown_and_all_else_is_done() -> None:
    async with call() as rig:
        dies(rig)
        await rig.command(cmd.Say(text="heard"))
        deaf_from = len(rig.broker.records) + 1
        await rig.command(cmd.Say(text="not heard"))
        await rig.clock.advance(1.0)
        async with successor(rig, deaf_from=deaf_from) as other:
            assert [frame.get("text") for frame in other.socket.sent] == [None, "not heard"]
            await other.end()
        assert rig.outcomes() == [("say", "unknown"), ("say", "written")]


async def test_since_when_it_hears_nothing_may_be_known_by_the_logs_time() -> None:
    async with call() as rig:
        dies(rig)
        await rig.command(cmd.Say(text="heard"))
        await rig.clock.advance(5.0)
        await rig.command(cmd.Say(text="not heard"))
        await rig.clock.advance(1.0)
        now = asyncio.get_running_loop().time()
        async with successor(rig, deaf_from=len(rig.broker.records) + 1, deaf_since=now - 3.0) as other:
            assert [frame.get("text") for frame in other.socket.sent] == [None, "not heard"]
            await other.end()


async def test_what_a_slow_log_stores_after_a_bridge_s_death_was_heard_when_it_was_sent() -> None:
    async with call() as rig:
        subjects = SUBJECTS.call("agent-1", "session-1")
        dies(rig)
        sent = await rig.message(cmd.Say(text="heard"))
        await rig.clock.advance(2.0)
        await rig.owner_log.append(sent.subject, sent.data, sent.headers, fence=Fence(subjects.own, rig.epoch))
        await rig.clock.advance(1.0)
        async with successor(rig, deaf_since=asyncio.get_running_loop().time() - 2.0) as other:
            assert [frame.get("text") for frame in other.socket.sent] == [None]
            await other.end()
        assert rig.outcomes() == [("say", "unknown")]


async def test_the_owner_is_asked_for_the_speech_that_no_receipt_tells_of() -> None:
    async with call() as rig:
        asked: list[Again] = []
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.owner_log.subscribe(subjects.again, lambda message: asked.append(AGAIN.decode(message.data)))
        dies(rig)
        async with successor(rig, deaf_since=asyncio.get_running_loop().time() - 2.0) as other:
            [again] = asked
            assert (again.epoch, again.turn, again.part, again.first) == (rig.epoch, 1, 0, 1)
            assert again.doubt is not None
            assert again.doubt.line == rig.records("line")[-1].seq
            assert 1.9 < again.doubt.still_s < 2.5
            await other.end()


@pytest.mark.parametrize("wakes", [False, True])
async def test_a_bridge_that_has_written_since_it_stood_still_stands_still_no_more(*, wakes: bool) -> None:
    async with call() as rig:
        asked: list[Again] = []
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.owner_log.subscribe(subjects.again, lambda message: asked.append(AGAIN.decode(message.data)))
        await rig.clock.advance(5.0)
        if wakes:
            rig.worker.socket.say("user.text", text="one")
            await rig.settle()
        dies(rig)
        async with successor(rig, deaf_from=NEVER, still_since=asyncio.get_running_loop().time() - 2.0) as other:
            [again] = asked
            assert again.doubt is not None
            assert (again.doubt.still_s == 0.0) if wakes else (1.9 < again.doubt.still_s < 2.5)
            await other.end()


async def test_what_the_owner_has_seen_and_the_log_has_refused_is_stored_after_all() -> None:
    async with call() as rig:
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        dies(rig)
        facts: list[ev.CallerEvent | ev.Receipt] = [
            ev.UserText(text="one"),  # this is stored
            ev.ReplySpoken(turn=1, deltas=3, chars=6),
            ev.UserText(text="two"),
            ev.CommandAcknowledged(command="x", verb="say", outcome="written", owner_index=1),
        ]
        last = max(record.envelope.index for record in rig.records() if record.channel in BRIDGE_CHANNELS)
        rig.seen = [refused(body, index) for index, body in enumerate(facts, last)]
        rig.seen.append(refused(ev.UserText(text="what came between is not known"), last + 9))
        asked: list[Again] = []
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.owner_log.subscribe(subjects.again, lambda message: asked.append(AGAIN.decode(message.data)))
        async with successor(rig) as other:
            assert [(again.turn, again.part, again.first) for again in asked] == [(1, 0, 4)]
            await other.end()
        records = [record for record in rig.records() if record.channel in BRIDGE_CHANNELS]
        assert [record.envelope.index for record in records] == list(range(1, len(records) + 1))
        assert [record.body for record in records][last - 1 : last + 3] == facts
        assert [record.envelope.epoch for record in records][last:] == [records[-1].envelope.epoch] * (
            len(records) - last
        )


def refused(body: ev.CallerEvent | ev.Receipt, index: int) -> SeenRecord:
    """A record of the former bridge as its owner has seen it."""
    subjects, tag = SUBJECTS.call("agent-1", "session-1"), ev.tag_of(body)
    channel = "ack" if isinstance(body, ev.Receipt) else "evt"
    envelope = Envelope(
        id=ids.record_id("session-1", "bridge", index),
        type=f"{channel}.{tag}",
        source="/unpod/bridge/bridge-1",
        session="session-1",
        time=1.0,
        epoch=1,
        index=index,
    )
    subject = subjects.ack if channel == "ack" else subjects.evt(tag)
    return SeenRecord(subject, dict(to_headers(envelope)), codec.encode(body))


async def test_what_the_owner_says_while_the_log_is_read_is_not_lost() -> None:
    async with call() as rig:
        dies(rig)
        reading, go_on = asyncio.Event(), asyncio.Event()

        async def let_go() -> bool:
            reading.set()
            await go_on.wait()
            return True

        async with successor(rig, let_go=let_go) as other:
            await reading.wait()
            await rig.delta(1, 1, "hello")
            await rig.command(cmd.Say(text="a"))
            assert not other.worker.sockets
            go_on.set()
            await rig.settle()
            await rig.settle()
            assert [frame.get("text") for frame in other.socket.sent] == [None, "hello", "a"]
            await other.end()


async def test_the_former_bridge_hands_over_and_nothing_is_uncertain() -> None:
    async with call() as rig:
        rig.worker.socket.say("user.text", text="one")
        await rig.delta(1, 1, "a")
        await rig.delta(1, 2, "b")
        await rig.settle()
        former = rig.worker.socket
        handing = asyncio.ensure_future(rig.line.let_go())
        await rig.settle()
        assert former.closed == 1012
        former.say("user.text", text="two")  # it was on its way
        former.lose(1000)
        assert await handing
        assert (await rig.result()).reason == "moved"

        async def let_go() -> bool:
            return True

        async with successor(rig, let_go=let_go) as other:
            await rig.delta(1, 3, "c")
            await rig.command(cmd.Say(text="x"))
            await rig.settle()
            assert [frame.get("text") for frame in other.socket.sent] == [None, "c", "x"]
            await other.end()
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one", "two"]  # type: ignore[attr-defined]
        assert not [outcome for _, outcome in rig.outcomes() if outcome == "unknown"]


async def test_a_handover_waits_for_the_workers_word_on_a_verb() -> None:
    async with call() as rig:
        rig.worker.socket.auto_pong = False
        await rig.command(cmd.Transfer(transfer_type="human", target="x", mode="warm"))
        handing = asyncio.ensure_future(rig.line.let_go())
        await rig.settle()
        closed = rig.worker.socket.closed
        assert closed is None
        rig.worker.socket.pong()
        await rig.clock.advance(0.1)
        assert rig.worker.socket.closed == 1012
        rig.worker.socket.lose(1000)
        assert await handing
        assert rig.outcomes() == [("transfer", "claimed"), ("transfer", "delivered")]


@pytest.mark.parametrize("how", ["hangs up", "is called off"])
async def test_a_call_that_ends_while_it_is_handed_over_is_stored_and_not_waited_for(how: str) -> None:
    async with call() as rig:
        rig.worker.socket.auto_pong = False
        await rig.command(cmd.Transfer(transfer_type="human", target="x", mode="warm"))
        handing = asyncio.ensure_future(rig.line.let_go())
        await rig.settle()
        if how == "hangs up":
            rig.worker.socket.lose(1000)
        else:
            await rig.clock.advance(SURE_S + 0.1)
            assert rig.worker.socket.closed == 1012
            rig.line.cancel()
        await rig.clock.advance(SURE_S + 0.1)
        async with asyncio.timeout(1.0):
            assert await handing
        assert (await rig.result()).reason == ("hangup" if how == "hangs up" else "cancelled")
        assert rig.types("evt")[-1] == "call.ended"


async def test_a_bridge_that_is_alive_and_does_not_know_lets_go_with_1012() -> None:
    async with call() as rig, successor(rig, deaf_from=NEVER) as other:
        rig.worker.socket.say("user.text", text="who hears this?")
        assert (await rig.result()).reason == "moved"
        assert rig.worker.socket.closed == 1012
        await other.end()
        assert not rig.bodies(ev.UserText)


async def test_a_bridge_that_lets_go_says_how_far_it_has_come() -> None:
    async with call() as rig:
        said: list[Spoken] = []
        subjects = SUBJECTS.call("agent-1", "session-1")
        await rig.owner_log.subscribe(subjects.spoken, lambda message: said.append(SPOKEN.decode(message.data)))
        rig.worker.socket.say("user.text", text="one")
        await rig.delta(1, 1, "a")
        await rig.settle()
        async with successor(rig, deaf_from=NEVER) as other:
            rig.worker.socket.say("user.text", text="who hears this?")
            assert (await rig.result()).reason == "moved"
            assert said == [Spoken(0, 1, 0, 1, 1)]
            await other.end()


async def test_a_log_that_has_nothing_of_the_call() -> None:
    async with call() as rig, successor(rig, session="session-2") as other:
        assert (await other.task).reason == UNSTARTED
        assert not other.worker.sockets


async def test_a_call_that_has_ended_is_not_dialled() -> None:
    async with call() as rig:
        rig.worker.socket.lose(1000)
        await rig.result()
        async with successor(rig) as other:
            result = await other.task
            assert (result.reason, result.connected) == ("hangup", True)
            assert not other.worker.sockets
        assert len(rig.bodies(ev.CallEnded)) == 1


async def test_a_read_without_answer_does_not_lose_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with call() as rig:
        dies(rig)
        made = Successor(rig)
        read, tries = made.log.read, list[str]()

        async def answers_late(pattern: str, *, start_seq: int = 1, until_seq: int = 0) -> AsyncIterator[Message]:
            tries.append(pattern)
            async for message in read(pattern, start_seq=start_seq, until_seq=until_seq):
                yield message
                if len(tries) < 3:
                    raise LogUnavailable("no answer")

        monkeypatch.setattr(made.log, "read", answers_late)
        await rig.clock.advance(1.0)
        await rig.settle()
        assert made.socket.events == ["hello"]
        await made.end()
        assert rig.types("evt")[-1] == "call.ended"


async def test_a_call_is_called_off_while_its_log_is_read() -> None:
    async with call() as rig:
        dies(rig)
        made = Successor(rig)
        made.line.cancel()
        assert (await made.task).reason == "cancelled"
        assert [fact.reason for fact in rig.bodies(ev.CallEnded)] == ["cancelled"]  # type: ignore[attr-defined]


async def test_a_log_that_is_away_is_waited_for() -> None:
    async with call() as rig:
        dies(rig)
        made = Successor(rig)
        made.log.available = False
        await rig.settle()
        assert not made.worker.sockets
        made.log.available = True
        await rig.clock.advance(0.2)
        await rig.settle()
        await rig.until(lambda: bool(made.worker.sockets), step_s=0.05)
        await rig.settle()
        await made.end()


async def test_the_recording_stays_paused() -> None:
    async with call() as rig:
        await rig.command(cmd.PauseRecording(reason="card"))
        dies(rig)
        async with successor(rig) as other:
            other.socket.say("user.text", text="4111 1111")
            await rig.settle()
            assert other.socket.events == ["hello", "recording.pause"]
            await other.end()
        assert all("4111" not in message.data.decode() for message in rig.broker.records)


async def test_last_words_go_on_with_the_index_of_the_former_bridge() -> None:
    async with call() as rig:
        for number in range(20):
            rig.worker.socket.say("user.text", text=str(number))
        await rig.settle()
        dies(rig)
        async with successor(rig) as other:
            rig.broker.full = True
            other.socket.say("user.text", text="refused")
            await rig.until(lambda: other.socket.closed is not None)
            rig.broker.full = False
            await rig.until(other.task.done, step_s=1.0)
            assert (await other.task).reason == "error"
        assert in_order(rig)
        assert len(rig.bodies(ev.UserText)) == 20


async def test_last_words_come_after_what_was_stored_without_an_answer() -> None:
    async with call() as rig:
        dies(rig)
        async with successor(rig) as other:
            rig.broker.skip_acks = 1_000_000
            for _ in range(DEFAULT_BOUNDS.records + 1):
                other.socket.say("user.text", text="is it stored?")
            await rig.until(lambda: other.socket.closed is not None)
            rig.broker.skip_acks = 0
            await rig.until(other.task.done, step_s=1.0)
        assert in_order(rig)
        assert len(rig.bodies(ev.UserText)) == 1


def in_order(rig: Rig) -> bool:
    """Whether the bridge's records have each index once, and the last is the end of the call."""
    records = [record for record in rig.records() if record.channel in BRIDGE_CHANNELS]
    indexes = [record.envelope.index for record in records]
    return indexes == list(range(1, len(records) + 1)) and isinstance(records[-1].body, ev.CallEnded)


# ------------------------------------------------------------------------------------------------- is it still ours?


@asynccontextmanager
async def steady_call() -> AsyncIterator[tuple[Rig, list[float]]]:
    """A call on a bridge that knows when it has stood still; the list's item is its clock."""
    now = [0.0]
    stalls = StallDetector(lambda: now[0])
    async with call(stalls=stalls) as rig:
        yield rig, now


async def test_a_bridge_that_has_stood_still_asks_first_and_then_goes_on() -> None:
    async with steady_call() as (rig, now):
        now[0] += 2.0
        rig.log.available = False
        await rig.command(cmd.Say(text="a"))
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        assert rig.worker.socket.events == ["hello"]
        rig.log.available = True
        await rig.clock.advance(0.2)
        await rig.settle()
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one"]  # type: ignore[attr-defined]


async def test_a_bridge_that_has_stood_still_and_lost_the_line_does_nothing_more() -> None:
    async with steady_call() as (rig, now), successor(rig) as other:
        now[0] += 2.0
        await rig.delta(1, 1, "a")
        rig.worker.socket.say("user.text", text="one")
        assert (await rig.result()).reason == "moved"
        assert rig.worker.socket.events == ["hello"]
        assert rig.worker.socket.closed == 1012
        assert not rig.bodies(ev.UserText)
        await other.end()


async def test_a_bridge_that_has_stood_still_lets_go_of_a_quiet_call_that_it_has_lost() -> None:
    async with steady_call() as (rig, now), successor(rig) as other:
        assert rig.stalls is not None
        rig.stalls.check()
        await rig.settle()
        assert not rig.worker.socket.closed
        now[0] += 2.0
        rig.stalls.check()
        assert (await rig.result()).reason == "moved"
        await other.end()


async def test_a_bridge_that_has_stood_still_keeps_a_quiet_call_that_is_its_own() -> None:
    async with steady_call() as (rig, now):
        assert rig.stalls is not None
        now[0] += 2.0
        rig.stalls.check()
        await rig.settle()
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one"]  # type: ignore[attr-defined]


async def test_a_replica_that_lags_does_not_make_a_bridge_let_go_of_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with steady_call() as (rig, now):
        assert rig.stalls is not None
        last, asked = rig.log.last, list[str]()

        async def lagging(subject: str) -> Message | None:
            asked.append(subject)
            return None if len(asked) < 3 else await last(subject)

        monkeypatch.setattr(rig.log, "last", lagging)
        now[0] += 2.0
        rig.stalls.check()
        await rig.clock.advance(1.0)
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        assert len(asked) == 3
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_cut_off", [True, False])
@pytest.mark.parametrize("is_quiet", [True, False])
async def test_no_answer_is_not_taken_for_another_bridges(*, is_cut_off: bool, is_quiet: bool) -> None:
    async with steady_call() as (rig, now):
        assert rig.stalls is not None
        if is_cut_off:
            rig.stalls.connected(up=False)
        rig.log.available = False
        now[0] += 2.0
        rig.stalls.check()
        if not is_quiet:
            rig.worker.socket.say("user.text", text="one")
        await rig.clock.advance(ProtocolSettings().buffer_s + GRACE_S + 0.2)
        assert rig.worker.socket.closed == 1000
        rig.log.available = True
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=1.0)
        assert (await rig.result()).reason == "error"
        assert [fact.reason for fact in rig.bodies(ev.CallEnded)] == ["error"]  # type: ignore[attr-defined]
        assert len(rig.bodies(ev.UserText)) == (not is_quiet)


async def test_a_stop_in_an_outage_does_not_make_it_longer_for_the_caller() -> None:
    async with steady_call() as (rig, now):
        assert rig.stalls is not None
        rig.stalls.connected(up=False)
        rig.log.available = False
        await rig.clock.advance(ProtocolSettings().buffer_s - 1.0)
        now[0] += 2.0
        rig.stalls.check()
        await rig.clock.advance(1.0 + GRACE_S + 0.2)
        assert rig.worker.socket.closed == 1000
        rig.log.available = True
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=1.0)
        assert [fact.reason for fact in rig.bodies(ev.CallEnded)] == ["error"]  # type: ignore[attr-defined]


async def test_a_socket_that_drops_while_the_log_is_away_ends_the_call_with_its_end_in_the_log() -> None:
    async with steady_call() as (rig, _):
        rig.log.available = False
        rig.worker.socket.lose(None)
        await rig.clock.advance(ProtocolSettings().buffer_s + GRACE_S + 0.2)
        rig.log.available = True
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=1.0)
        assert (await rig.result()).reason in ("error", "lost")
        assert len(rig.bodies(ev.CallEnded)) == 1
        assert rig.worker.dials == 1


@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_placement_that_is_absent_is_not_another_bridges(*, is_asked: bool) -> None:
    async with steady_call() as (rig, now):
        assert rig.stalls is not None
        rig.broker._newest.clear()  # as an operator's purge of the session leaves it
        if is_asked:
            now[0] += 2.0
            rig.stalls.check()
            await rig.clock.advance(ProtocolSettings().buffer_s + 0.2)
        else:
            rig.worker.socket.say("user.text", text="one")
        await rig.until(lambda: rig.task is not None and rig.task.done(), step_s=1.0)
        assert (await rig.result()).reason == "error"
        assert rig.worker.socket.closed == 1000


async def test_what_nats_says_first_after_a_lost_connection_may_be_meant_for_another() -> None:
    async with steady_call() as (rig, _), successor(rig) as other:
        assert rig.stalls is not None
        rig.stalls.connected(up=False)
        await rig.command(cmd.Say(text="a"))
        assert (await rig.result()).reason == "moved"
        assert rig.worker.socket.events == ["hello"]
        assert other.socket.events == ["hello", "agent.say"]
        await other.end()


async def test_a_call_of_which_nothing_waits_ends_as_well_when_nats_stays_away() -> None:
    async with steady_call() as (rig, _):
        assert rig.stalls is not None
        await rig.settle()
        rig.stalls.connected(up=False)
        await rig.clock.advance(ProtocolSettings().buffer_s + GRACE_S + 0.1)
        assert (await rig.result()).reason == "error"
        assert rig.worker.socket.closed == 1000
        [ended] = rig.bodies(ev.CallEnded)
        assert isinstance(ended, ev.CallEnded)
        assert ended.reason == "error"


async def test_a_call_of_which_nothing_waits_goes_on_when_nats_is_back() -> None:
    async with steady_call() as (rig, _):
        assert rig.stalls is not None
        await rig.settle()
        rig.stalls.connected(up=False)
        await rig.clock.advance(ProtocolSettings().buffer_s + GRACE_S - 0.1)
        rig.stalls.connected(up=True)
        await rig.clock.advance(2.0)
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one"]  # type: ignore[attr-defined]


async def test_no_bridge_dials_again_what_another_has() -> None:
    async with call() as rig, successor(rig) as other:
        rig.worker.socket.lose(None)
        assert (await rig.result()).reason == "moved"
        assert rig.worker.dials == 1
        await other.end()


@pytest.mark.parametrize("is_up", [True, False])
async def test_letting_go_of_a_call_that_is_not_there(*, is_up: bool) -> None:
    async with call() as rig:
        if is_up:
            rig.worker.socket.lose(1000)
            await rig.result()
            assert not await rig.line.let_go()
        else:
            assert not await rig.make().let_go()


async def test_a_call_that_had_begun_though_its_record_does_not_say_so_is_taken_over_and_not_begun_anew() -> None:
    async with call() as rig:
        rig.worker.socket.say("user.text", text="one")
        await rig.settle()
        dies(rig)
        log, worker, place = MemoryLog(rig.broker), FakeWorker(), FakePlace()
        services = LineServices(
            log=log, bus=log, subjects=SUBJECTS, clock=rig.clock, bridge_id="bridge-2", dialer=worker
        )
        stored = len(rig.broker.records)
        line = NewCall(Job("job-1", "call-1", "agent-1", "ws://w/c", TOKEN), place, services, inherited=True)
        result = asyncio.get_running_loop().create_task(line.run())
        await rig.until(result.done)
        assert (await result).reason == BEGUN
        assert (line.session_id, place.started, len(place.released)) == ("session-1", [], 1)
        assert worker.socket.closed == 1012  # the worker keeps the call for who comes next
        assert len(rig.broker.records) == stored
        async with successor(rig) as other:
            other.socket.say("user.text", text="two")
            await rig.settle()
            await other.end()
        assert [fact.text for fact in rig.bodies(ev.UserText)] == ["one", "two"]  # type: ignore[attr-defined]
        records = [record for record in rig.records() if record.channel in BRIDGE_CHANNELS]
        assert [record.envelope.index for record in records] == list(range(1, len(records) + 1))
