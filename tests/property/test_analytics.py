"""Whatever the order between writers, the repeats and the crashes: the rows in the files are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.consumers.analyst import everything, stored
from tests.unit.consumers.records import AGENT, SUBJECTS, call_of, message

from unpod.core.events import CallCompleted, ToolCalled, ToolReturned
from unpod_consumers.analytics import AnalyticsProjection
from unpod_consumers.exporters.parquet import ParquetFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpod.ports import Message
    from unpod_consumers.projections.tables import Row, Table


def _call(name: str, turns: int, *, summary: bool) -> tuple[list[Message], list[Message]]:
    bridge, owner = call_of(name, turns=turns)
    last = 2 * turns + 2
    owner += [
        message(name, "run", ToolCalled(name="book", call_id=f"{name}-t", turn_id=1), last, 5.0),
        message(name, "run", ToolReturned(name="book", call_id=f"{name}-t", turn_id=1), last + 1, 6.0),
    ]
    if summary:
        done = CallCompleted(call_id=name, agent_id=AGENT, runner_id="r2", reason="hangup", turns=turns)
        owner.append(message(name, "run", done, last + 2, 21.0))
    return bridge, owner


CALLS = (_call("a", 1, summary=True), _call("b", 2, summary=False), _call("c", 1, summary=True))
WRITERS = tuple(side for call in CALLS for side in call)


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where it is quick, since nobody pulls the plug


class Killed(Exception):  # noqa: N818 - it is no error
    """The process is gone."""


class Files(ParquetFiles):
    """Files of a process that is killed before its `last` write, or behind it."""

    def __init__(self, directory: Path, last: int, *, behind: bool) -> None:
        super().__init__(directory)
        self._left = last
        self._behind = behind

    def write(self, run: str, number: int, table: Table, day: str, rows: Sequence[Row]) -> None:
        self._left -= 1
        if self._left == 0 and not self._behind:
            raise Killed
        super().write(run, number, table, day, rows)
        if self._left == 0:
            raise Killed


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """Draw an order in which the writers' records may stand, some of them more than once."""
    turns = draw(st.permutations([place for place, side in enumerate(WRITERS) for _ in side]))
    taken = [0] * len(WRITERS)
    log: list[Message] = []
    for place in turns:
        log.append(WRITERS[place][taken[place]])
        taken[place] += 1
        if draw(st.integers(0, 3)) == 0:
            log.append(draw(st.sampled_from(log)))
    return stored(log)


class Disk:
    """What outlives a process: its directory and its checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoint: bytes | None = None
        self.now = 1_700_000_000.0

    def run(self, log: Sequence[Message], last: int, *, behind: bool, every: int) -> None:
        """Take what the log has, saving after each `every` records, then let the time pass in which all is written."""
        projection = AnalyticsProjection(
            SUBJECTS,
            Files(self.directory, last, behind=behind),
            every_s=0.0,
            max_rows=3,
            clock=lambda: self.now,
        )
        if self.checkpoint is not None:
            projection.load(self.checkpoint)
        projection.publish(1)
        for one in log[projection.position :]:
            projection.take(one)
            if one.seq % every == 0:
                self._save(projection, lag=1)
        self.now += 1_000.0
        while self._save(projection, lag=0):
            pass

    def _save(self, projection: AnalyticsProjection, lag: int) -> bool:
        self.checkpoint = projection.dump()
        return projection.publish(lag)


def consume(log: Sequence[Message], crashes: Sequence[tuple[int, bool, int]] = ()) -> dict[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        disk = Disk(Path(folder))
        for last, behind, every in crashes:
            try:
                disk.run(log, last, behind=behind, every=every)
            except Killed:
                continue
        disk.run(log, 0, behind=False, every=3)
        return everything(Path(folder))


EXPECTED = consume(stored([one for side in WRITERS for one in side]))


def test_there_is_something_to_keep() -> None:
    assert {table: len(found) for table, found in EXPECTED.items()} == {"calls": 3, "turns": 4, "tools": 3}


@settings(max_examples=40, deadline=None)
@given(logs(), st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(1, 12)), max_size=4))
def test_order_repeats_and_crashes_change_nothing(log: list[Message], crashes: list[tuple[int, bool, int]]) -> None:
    assert consume(log, crashes) == EXPECTED
