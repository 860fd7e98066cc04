"""Whatever the order between writers, the repeats and the crashes: the rows in the files are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.consumers.analyst import everything, stored
from tests.unit.consumers.records import AGENT, SUBJECTS, call_of, message

from unpod.core.events import (
    CallCompleted,
    CallEnded,
    OwnerChanged,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnMetrics,
    UserText,
)
from unpod_consumers.analytics import AnalyticsProjection
from unpod_consumers.exporters.parquet import ParquetFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unpod.ports import Message
    from unpod_consumers.projections.tables import Row, Table


def _call(name: str, turns: int, *, summary: bool) -> tuple[list[Message], list[Message]]:
    """Return what both writers say of a call whose last turn a takeover has made void: a second runner did it again."""
    bridge, owner = call_of(name, turns=turns)
    last = len(owner)
    bridge[2:] = [
        bridge[-2],
        message(name, "evt", UserText(text="hello"), 4, 5.5),
        message(name, "ack", OwnerChanged(epoch=9, runner="r2", last_owner_index=last - 1, takeover=1), 5, 5.6),
        message(name, "evt", TurnMetrics(turn_id=1, tts_ttfb_ms=77.0), 6, 6.0),
        message(name, "evt", CallEnded(reason="hangup"), 7, 20.0),
    ]
    second = [
        TurnCompleted(turn_id=turns, ttfa_ms=900.0),
        ToolCalled(name="book", call_id="t", turn_id=turns),
        ToolReturned(name="book", call_id="t", turn_id=turns),
        ToolCalled(name="hang", call_id="t", turn_id=turns),
    ]
    if summary:
        second.append(CallCompleted(call_id=name, agent_id=AGENT, runner_id="r2", reason="hangup", turns=turns))
    owner += [message(name, "run", body, index, 7.0 + index, epoch=9) for index, body in enumerate(second, last)]
    return bridge, owner


CALLS = (_call("a", 1, summary=True), _call("b", 2, summary=False), _call("c", 1, summary=True))
WRITERS = tuple(side for call in CALLS for side in call)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where it is quick, since nobody pulls the plug

Where = Literal["before", "within", "behind"]


class Killed(Exception):  # noqa: N818 - it is no error
    """The process is gone."""


class Fate:
    """A process is killed before, within or behind its `last` write, of a file or of the checkpoint; 0 is never."""

    def __init__(self, last: int, where: Where) -> None:
        self._left = last
        self._where = where

    def write(self, begin: Callable[[], None], write: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == 0 and self._where != "behind":
            if self._where == "within":
                begin()
            raise Killed
        write()
        if self._left == 0:
            raise Killed


class Files(ParquetFiles):
    """Files of a process with a fate."""

    def __init__(self, directory: Path, fate: Fate) -> None:
        super().__init__(directory)
        self._fate = fate

    def write(self, run: str, number: int, table: Table, day: str, rows: Sequence[Row]) -> None:
        def begin() -> None:
            folder = self.directory / table / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".part-{run}-{number:08d}.tmp").write_bytes(b"PAR1")

        self._fate.write(begin, lambda: super(Files, self).write(run, number, table, day, rows))


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
        self.now = 0.0

    def run(self, log: Sequence[Message], fate: Fate, every: int) -> None:
        """Take what the log has, saving after each `every` records, then let the time pass in which all is written."""
        files = Files(self.directory, fate)
        projection = AnalyticsProjection(SUBJECTS, files, every_s=0.0, max_rows=3, clock=lambda: self.now)
        if self.checkpoint is not None:
            projection.load(self.checkpoint)
        projection.publish(1)
        for one in log[projection.position :]:
            projection.take(one)
            if one.seq % every == 0:
                self._save(projection, fate, lag=1)
        self.now += 2_000.0
        while self._save(projection, fate, lag=0):
            pass

    def _save(self, projection: AnalyticsProjection, fate: Fate, lag: int) -> bool:
        def store() -> None:
            self.checkpoint = projection.dump()

        fate.write(lambda: None, store)
        return projection.publish(lag)


def consume(log: Sequence[Message], crashes: Sequence[tuple[int, Where, int]] = ()) -> dict[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        disk = Disk(Path(folder))
        for last, where, every in crashes:
            try:
                disk.run(log, Fate(last, where), every)
            except Killed:
                continue
        disk.run(log, Fate(0, "before"), every=3)
        assert not list(Path(folder).glob("*/*/.part-*"))
        return everything(Path(folder))


EXPECTED = consume(stored([one for side in WRITERS for one in side]))
CRASHES = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["before", "within", "behind"]), st.integers(1, 12)), max_size=4
)


def test_there_is_something_to_keep() -> None:
    assert {table: len(found) for table, found in EXPECTED.items()} == {"calls": 3, "turns": 4, "tools": 6}
    last = [row for row in EXPECTED["turns"] if row["ttfa_ms"] == 900.0]
    assert [row["session_id"] for row in last] == ["a", "b", "c"]
    assert {row["tts_ms"] for row in EXPECTED["turns"] if row["turn"] == 1} == {77.0}


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(logs(), CRASHES)
def test_order_repeats_and_crashes_change_nothing(log: list[Message], crashes: list[tuple[int, Where, int]]) -> None:
    assert consume(log, crashes) == EXPECTED
