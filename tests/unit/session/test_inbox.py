"""What comes in for a session: lost records are fetched, and a bridge that has lost the line is not believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.envelope import Envelope, to_headers
from unpod.core.ids import derive, record_id
from unpod.core.live import LIVE_SUBJECT, SEEN_ANSWER, SeenAsked
from unpod.core.positions import Positions
from unpod.core.subjects import Subjects
from unpod.errors import Fenced, LogUnavailable
from unpod.ports import Fence
from unpod.session.inbox import Inbox
from unpod.session.ownership import Ownership
from unpod.testing import ALL_VERBS, MemoryBroker, MemoryLog, VirtualClock
from unpod.testing.clock import settle
from unpod.testing.line import MemoryLine

TEXT = "evt.user.text"


@dataclass
class Scene:
    """An inbox, and the bridge that writes to it."""

    inbox: Inbox
    line: MemoryLine
    log: MemoryLog
    ownership: Ownership
    came: list[Record] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    """One for each time that the log was found to have something else than what had come."""

    @property
    def indexes(self) -> list[int]:
        return [record.envelope.index for record in self.came]

    async def says(self, text: str) -> None:
        await self.line.record({"event": "user.text", "text": text, "is_final": True}, "user.text")
        await settle()

    async def until(self, *indexes: int) -> None:
        """Return once these records have come in, and no others."""
        if len(self.came) < len(indexes):
            assert self.inbox._filling is not None
            await self.inbox._filling
        assert self.indexes == list(indexes)

    async def refused(self, bridge: int, index: int, text: str) -> None:
        """Append a record as a bridge that has lost the line does: the tail has it, and the log does not."""
        envelope = Envelope(
            id=record_id(self.line.session_id, "bridge", index),
            type=TEXT,
            source="/unpod/bridge/zombie",
            session=self.line.session_id,
            time=1.0,
            epoch=bridge,
            index=index,
        )
        body, fence = codec.encode(ev.UserText(text=text)), Fence(self.line.call.line, 1_000_000)
        with pytest.raises(Fenced):
            await self.line.log.append(self.line.call.evt("user.text"), body, to_headers(envelope), fence=fence)
        await settle(50)


async def another(scene: Scene) -> int:
    """Another bridge takes the line; return its epoch."""
    line = scene.line
    taken = codec.encode(ev.LineTaken(bridge="another", job_id="job-1"))
    envelope = Envelope(
        id=derive("line", "another"),
        type="line.line.taken",
        source="/unpod/bridge/another",
        session="s1",
        time=1.0,
        epoch=0,
        index=0,
    )
    fence = Fence(line.call.line, line._line_epoch)
    stored = await line.log.append(line.call.line, taken, to_headers(envelope), fence=fence)
    await settle(50)
    return stored.seq


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock, subjects = VirtualClock(), Subjects()
    broker = MemoryBroker(now_ns=clock.now_ns)
    line = MemoryLine(MemoryLog(broker), clock, subjects, "agent", "s1")
    until_seq = await line.open({}, ALL_VERBS, {})
    log = MemoryLog(broker)
    ownership = Ownership(
        log=log,
        bus=log,
        clock=clock,
        subjects=subjects,
        agent_id="agent",
        session_id="s1",
        runner_id="r1",
        epoch=line.epoch,
        until_seq=until_seq,
    )
    came: list[Record] = []
    rewritten: list[str] = []
    inbox = Inbox(
        ownership,
        on_record=came.append,
        on_again=lambda _: None,
        on_rewritten=lambda: rewritten.append("rewritten"),
        retry_s=0.001,
        longest_retry_s=0.001,
    )
    assert len(await inbox.open(until_seq)) == 5
    yield Scene(inbox, line, log, ownership, came, rewritten)
    await inbox.close()
    await line.close()


async def test_an_opening_that_has_failed_is_tried_again_in_full(scene: Scene) -> None:
    came: list[Record] = []
    log = MemoryLog(scene.line.log.broker)
    inbox = Inbox(replace(scene.ownership, log=log, bus=log), on_record=came.append, on_again=lambda _: None)
    log.available = False
    with pytest.raises(LogUnavailable):
        await inbox.open(scene.ownership.until_seq)
    log.available = True
    assert len(await inbox.open(scene.ownership.until_seq)) == 5
    await scene.says("one")
    assert [record.envelope.index for record in came] == [4]
    await inbox.close()


async def test_a_log_whose_places_are_known_is_read_without_a_search(scene: Scene) -> None:
    opened, log = await opened_by(scene, Positions((1, 2, 3, 4, 5), 5))
    assert (opened, log.places_read, log.records_searched) == (5, 5, 0)


@pytest.mark.parametrize("missing", range(1, 6))
async def test_what_no_place_is_known_of_is_searched_for(scene: Scene, missing: int) -> None:
    known = tuple(seq for seq in range(1, 6) if seq != missing)
    opened, log = await opened_by(scene, Positions(known, 5))
    assert (opened, log.places_read, log.records_searched) == (5, 4, 5)


@pytest.mark.parametrize(
    "wrong", [Positions((), 5), Positions((), 99), Positions((1, 2, 3, 4, 5, 77), 99), Positions((2, 4), 3)]
)
async def test_places_that_are_wrong_lose_nothing(scene: Scene, wrong: Positions) -> None:
    await scene.says("one")
    assert (await opened_by(scene, wrong))[0] == 6


async def opened_by(scene: Scene, positions: Positions) -> tuple[int, MemoryLog]:
    log = MemoryLog(scene.line.log.broker)
    inbox = Inbox(replace(scene.ownership, log=log, bus=log), on_record=lambda _: None, on_again=lambda _: None)
    records = await inbox.open(scene.ownership.until_seq, positions)
    await inbox.close()
    return len(records), log


async def test_it_knows_how_far_it_has_come_and_which_bridge_writes(scene: Scene) -> None:
    assert (scene.inbox.index, scene.inbox.bridge) == (3, "memory")
    await scene.says("one")
    assert (scene.inbox.index, scene.indexes) == (4, [4])


async def test_the_last_record_of_all_is_fetched_when_the_bridge_says_that_it_has_written_it(scene: Scene) -> None:
    scene.line.log.broker.drop(scene.line.call.evt("user.text"), 2)
    await scene.says("one")
    await scene.says("two")
    assert scene.indexes == []
    scene.inbox.expect(5)
    await scene.until(4, 5)
    scene.inbox.expect(5)
    scene.inbox.expect(2)
    await settle()
    assert scene.indexes == [4, 5]


async def test_what_a_bridge_says_each_second_is_looked_for_only_when_it_is_not_here_at_the_next(scene: Scene) -> None:
    scene.line.log.broker.drop(scene.line.call.evt("user.text"), 1)
    await scene.says("one")
    scene.inbox.promised(4)
    await settle()
    assert scene.indexes == []
    scene.inbox.promised(4)
    await scene.until(4)
    await scene.says("two")
    scene.inbox.promised(9)  # what the last one promised is here, and this one may be on its way
    assert scene.inbox._filling is None


async def test_what_a_bridge_only_claims_to_have_written_is_not_looked_for_forever(scene: Scene) -> None:
    scene.inbox.expect(9)
    assert scene.inbox._filling is not None
    await scene.inbox._filling
    await scene.says("one")
    assert scene.indexes == [4]


async def test_what_was_missed_during_a_lost_connection_is_fetched_at_its_return(scene: Scene) -> None:
    scene.log.available = False
    await scene.says("one")
    await scene.inbox.check()
    assert scene.indexes == []
    scene.log.available = True
    await scene.inbox.check()
    assert scene.indexes == [4]


async def test_only_what_is_new_is_read(scene: Scene) -> None:
    await scene.says("one")
    before = scene.log.records_searched
    await scene.inbox.check()
    await scene.inbox.check()
    assert scene.log.records_searched - before == 1


async def test_a_bridge_that_has_lost_the_line_is_not_believed(scene: Scene) -> None:
    line, former = scene.line, scene.line._line_epoch
    epoch = await another(scene)
    assert scene.inbox.bridge == "another"
    # The former one wakes up, and sends what the log refuses.
    await scene.refused(former, 4, "from the grave")
    assert scene.indexes == []
    line._line_epoch = epoch
    await scene.says("from the living")
    await scene.until(4)
    assert scene.came[0].body == ev.UserText(text="from the living")


async def test_a_try_to_take_the_line_that_the_log_has_refused_changes_nothing_for_long(scene: Scene) -> None:
    line = scene.line
    envelope = Envelope(id="x", type="line.line.taken", source="/b", session="s1", time=1.0, epoch=0, index=0)
    loser = codec.encode(ev.LineTaken(bridge="loser"))
    with pytest.raises(Fenced):
        await line.log.append(line.call.line, loser, to_headers(envelope), fence=Fence(line.call.line, 0))
    await scene.says("one")
    await scene.until(4)  # found in the log, while the tail is in doubt
    if scene.inbox._filling is not None:
        await scene.inbox._filling
    assert scene.inbox.bridge == "memory"
    await scene.says("two")
    assert scene.indexes == [4, 5]


async def test_what_never_had_the_line_is_not_believed(scene: Scene) -> None:
    await scene.refused(1_000, 4, "forged")
    assert scene.indexes == []
    await scene.says("real")
    await scene.until(4)
    assert scene.came[0].body == ev.UserText(text="real")


async def test_what_was_seen_is_told_to_the_next_bridge_which_stores_what_the_log_has_refused(scene: Scene) -> None:
    line, former = scene.line, scene.line._line_epoch
    await scene.says("one")
    await scene.refused(former, 5, "two")  # the line has changed hands before it came to the log: it is acted on
    assert scene.indexes == [4, 5]
    epoch = await another(scene)
    answer = await scene.log.request(line.call.seen, codec.encode(SeenAsked(epoch)), timeout_s=1.0)
    seen = SEEN_ANSWER.decode(answer.data).records
    read = [codec.read(scene.ownership.subjects, each.subject, each.headers, each.data) for each in seen]
    assert [(record.envelope.index, record.body) for record in read] == [
        (4, ev.UserText(text="one")),
        (5, ev.UserText(text="two")),
    ]
    await scene.refused(former, 6, "three")  # nothing more of the former one is taken, or it would be missing there
    line._line_epoch = epoch
    await scene.says("two")
    await scene.says("and now?")
    assert scene.indexes == [4, 5, 6]
    assert scene.came[-1].body == ev.UserText(text="and now?")
    assert not scene.rewritten


@pytest.mark.parametrize("asks", [False, True])
async def test_what_a_former_bridge_has_stored_is_read_after_the_line_has_changed_hands(
    scene: Scene, *, asks: bool
) -> None:
    line = scene.line
    line.log.broker.drop(line.call.evt("user.text"), 1)
    line.log.broker.drop(line.call.line, 1)
    await scene.says("one")  # stored in time, and missed by the tail
    epoch = await another(scene)
    if asks:
        await scene.log.request(line.call.seen, codec.encode(SeenAsked(epoch)), timeout_s=1.0)
    line._line_epoch = epoch
    await scene.says("two")
    await scene.until(4, 5)
    assert scene.inbox._filling is None


@pytest.mark.parametrize("epoch", [0, 10**15])
async def test_what_was_stored_under_an_epoch_that_no_line_has_given_changes_nothing(scene: Scene, epoch: int) -> None:
    await scene.says("one")
    await scene.until(4)
    call, body = scene.line.call, ev.UserText(text="forged")
    for index in (4, 5):
        forged = Envelope(
            id=f"forged-{index}", type=TEXT, source="forged", session=scene.ownership.session_id, time=1.0, epoch=epoch,
            index=index,
        )  # fmt: skip
        await scene.log.append(call.evt("user.text"), codec.encode(body), to_headers(forged))
    scene.inbox.expect(5)
    await scene.says("two")
    await scene.until(4, 5)
    assert not scene.rewritten


async def test_no_more_is_kept_of_what_was_seen_than_one_message_can_tell(scene: Scene) -> None:
    for number in range(20):
        await scene.says(f"{number} " + "x" * 60_000)
    epoch = await another(scene)
    answer = await scene.log.request(scene.line.call.seen, codec.encode(SeenAsked(epoch)), timeout_s=1.0)
    seen = SEEN_ANSWER.decode(answer.data).records
    assert 4 < len(seen) < 20
    assert len(answer.data) < 1024 * 1024
    assert b'"19 ' in seen[-1].data


async def test_what_the_log_has_instead_of_what_was_acted_on_is_noticed(scene: Scene) -> None:
    former = scene.line._line_epoch
    await scene.says("one")
    await scene.refused(former, 5, "two")
    scene.line._line_epoch = await another(scene)
    await scene.says("something else")
    if scene.inbox._filling is not None:
        await scene.inbox._filling
    assert scene.rewritten
    assert scene.indexes == [4, 5]


async def test_what_is_not_to_be_kept_is_not_told(scene: Scene) -> None:
    body = codec.encode(ev.UserText(text="four one five"))
    envelope = Envelope(
        id=record_id("s1", "bridge", 4),
        type=TEXT,
        source="/unpod/bridge/memory",
        session="s1",
        time=1.0,
        epoch=scene.line._line_epoch,
        index=4,
    )
    headers = {**to_headers(envelope), LIVE_SUBJECT: scene.line.call.evt("user.text")}
    scene.line.log.send(scene.line.call.text, body, headers)
    await settle()
    assert scene.indexes == [4]
    answer = await scene.log.request(scene.line.call.seen, codec.encode(SeenAsked(1_000)), timeout_s=1.0)
    assert SEEN_ANSWER.decode(answer.data).records == ()
