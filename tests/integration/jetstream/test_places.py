"""A call on a real server whose records are said to stand somewhere: right or wrong, none is lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import open_place
from tests.property.ownership import AGENT, SUBJECTS, Fleet

from unpod.core.positions import Positions, unpack
from unpod.core.replay.ordering import merge
from unpod.jetstream import LogClock
from unpod.session.inbox import Inbox
from unpod.session.ownership import Ownership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from unpod.core.codec import Record

TURNS = 60


class Stage:
    """A call with two owners, of whom the first has written some hundred records among those of others."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.bridge = fleet.bridges[0]

    async def play(self) -> None:
        [runner] = self.fleet.runners
        log = self.bridge.services.log
        others = log.writer()
        for number in range(TURNS):
            self.bridge.hear()
            for command in (True, False):
                runner.say(command=command, seen=self.bridge.stream_positions.owner_index)
            others.put(f"unpod.call.{AGENT}.other.evt.x", b"{}", {"Nats-Msg-Id": f"other-{number}"})
            if number % 10 == 0:
                self.bridge.ask(runner, heard=number % 20 == 0)
                await others.flush()
        await runner.journal.flush()
        await others.flush()
        await others.close()
        assert await self.fleet.take_over(self.bridge)

    def opened(self, until_seq: int) -> Inbox:
        assert self.bridge.owner is not None
        services, owner = self.bridge.services, self.bridge.owner
        seat = Ownership(
            services.log,
            services.bus,
            LogClock(),
            SUBJECTS,
            AGENT,
            self.fleet.session,
            owner.runner_id,
            owner.epoch,
            until_seq,
        )
        return Inbox(seat, on_record=lambda _: None, on_again=lambda _: None)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_place("jetstream", tmp_path / "nats") as place:
        fleet = Fleet(place.client, place.client, "s1")
        await fleet.begin()
        made = Stage(fleet)
        await made.play()
        yield made
        await fleet.close()


WRONG: dict[str, Callable[[Positions], Positions]] = {
    "right": lambda known: known,
    "one is missing": lambda known: at(known, known.seqs[:90] + known.seqs[91:]),
    "one is another session's": lambda known: at(known, tuple(seq + (n == 90) for n, seq in pairs(known))),
    "all are somewhere else": lambda known: at(known, tuple(seq + 7 for seq in known.seqs)),
    "they go on behind the end": lambda known: Positions((*known.seqs, 10**9), 10**9),
    "there are none": lambda known: Positions((), known.through),
    "they come to an end before": lambda known: Positions(known.seqs[:50], known.seqs[49]),
}


def pairs(known: Positions) -> list[tuple[int, int]]:
    return list(enumerate(known.seqs))


def at(known: Positions, seqs: tuple[int, ...]) -> Positions:
    return Positions(seqs, known.through)


@pytest.mark.parametrize("kind", WRONG)
async def test_no_record_is_lost_by_a_wrong_word(stage: Stage, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "unpod")
    records = await stage.fleet.records()
    until_seq = records[-1].seq
    assert stage.bridge.owner is not None
    known = unpack(stage.bridge.stream_positions.pack(stage.bridge.owner.epoch, until_seq))
    assert (len(known.seqs), known.through) == (len(records), until_seq)
    inbox = stage.opened(until_seq)
    found: list[Record] = await inbox.open(until_seq, WRONG[kind](known))
    await inbox.close()
    assert [placed(record) for record in found] == [placed(record) for record in merge(records)]
    assert ("search" in caplog.text) == (kind not in ("right", "they come to an end before"))


def placed(record: Record) -> tuple[int, str]:
    return record.seq, record.envelope.id
