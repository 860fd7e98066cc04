from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.unit.consumers.analyst import everything, rows, stored
from tests.unit.consumers.records import AGENT, START, SUBJECTS, call_of, message

from unpod.core.events import (
    CallCompleted,
    CallEnded,
    CallMetric,
    CallStarted,
    OwnerChanged,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnMetrics,
    UserText,
)
from unpod.errors import ConfigurationError, ProtocolViolation
from unpod_consumers.analytics import AnalyticsProjection
from unpod_consumers.exporters.parquet import ParquetFiles, schema
from unpod_consumers.projections.analytics import FORGOTTEN_S, KEPT_S, SUMMARY_S
from unpod_consumers.projections.tables import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    from msgspec import Struct

    from unpod.ports import Message


MARGIN_S = 31.0


class Clock:
    """A clock that is set; the log's time and the process's are one here."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Rig:
    """A projection and the directory that it writes to; every publish comes after a save, as in the loop."""

    def __init__(self, directory: Path, *, texts: bool = False, max_rows: int = 1_000) -> None:
        self.directory = directory
        self.clock = Clock()
        self.texts = texts
        self.max_rows = max_rows
        self.projection = self.started()

    def started(self) -> AnalyticsProjection:
        return AnalyticsProjection(
            SUBJECTS,
            ParquetFiles(self.directory),
            every_s=60.0,
            max_rows=self.max_rows,
            texts=self.texts,
            clock=self.clock,
        )

    def take(self, *messages: Message) -> None:
        begin = self.projection.position
        for one in stored(messages, start_s=self.clock.now):
            self.projection.take(replace(one, seq=begin + one.seq))

    def call(self, session: str, *said: Struct) -> None:
        """Let a whole call have happened, of which the owner has written so."""
        written = [message(session, "run", body, index, float(index)) for index, body in enumerate(said, 1)]
        begun = message(session, "evt", CallStarted(session_id=session), 1, 0.0)
        ended = message(session, "evt", CallEnded(reason="hangup"), 2, 20.0)
        self.take(begun, *written, ended, completed(session, len(said) + 1))

    def written(self) -> None:
        """Let a minute pass after which the files are there, and another in which there is nothing to do."""
        while self.projection.publish(0):
            pass
        self.clock.now += 60
        while self.projection.publish(0):
            pass


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "rows")


def completed(session: str, index: int) -> Message:
    summary = CallCompleted(
        call_id="call-1", agent_id=AGENT, runner_id="r2", reason="hangup", turns=2, tokens_in=20, cost_voice=0.25
    )
    return message(session, "run", summary, index, 20.5)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(START + seconds, tz=UTC)


def test_a_call_gives_its_row_and_those_of_its_turns(rig: Rig) -> None:
    bridge, owner = call_of("s1")
    rig.take(*bridge, *owner, completed("s1", 6))
    rig.written()
    (call,) = rows(rig.directory, "calls")
    assert (
        call
        | {
            "day": "2023-11-14",
            "session_id": "s1",
            "agent_id": AGENT,
            "call_id": "call-1",
            "runner_id": "r2",
            "started_at": at(0),
            "ended_at": at(20),
            "duration_s": 20.0,
            "end_reason": "hangup",
            "ended_by": "system",
            "turns": 2,
            "takeovers": 1,
            "cost_usd": 0.25,
            "is_complete": True,
        }
        == call
    )
    first, second = rows(rig.directory, "turns")
    assert (first["turn"], first["ttfa_ms"], first["stt_ms"], first["is_interrupted"]) == (1, 451.0, 100.0, True)
    assert (second["turn"], second["is_interrupted"], second["day"]) == (2, False, "2023-11-14")


def test_a_call_whose_runner_never_came_back_is_told_from_its_turns(rig: Rig) -> None:
    bridge, owner = call_of("s1")
    rig.take(*bridge, *owner, message("s1", "evt", CallMetric(cost_usd_so_far=0.5), 6, 19.0))
    rig.written()
    assert rows(rig.directory, "calls") == []  # the summary may still come
    rig.clock.now += SUMMARY_S + MARGIN_S
    rig.written()
    (call,) = rows(rig.directory, "calls")
    found = call["turns"], call["interruptions"], call["cost_voice_usd"], call["is_complete"]
    assert found == (2, 1, 0.5, False)
    rig.take(completed("s1", 6))
    rig.written()
    assert rows(rig.directory, "calls") == [call]


def test_a_summary_that_comes_too_late_is_too_late_however_the_log_is_read(tmp_path: Path) -> None:
    bridge, owner = call_of("s1")
    found = []
    for name, reads_at_once in (("live", False), ("again", True)):
        rig = Rig(tmp_path / name)
        rig.take(*bridge, *owner)
        rig.clock.now += SUMMARY_S - 1.0
        other, _ = call_of("s2")
        rig.take(other[0])
        if not reads_at_once:
            rig.projection.publish(0)
        rig.clock.now += 2.0
        rig.take(completed("s1", 6))
        rig.clock.now += MARGIN_S
        rig.written()
        found.append(rows(rig.directory, "calls"))
    assert [row["is_complete"] for row in found[0]] == [False]
    assert found[0] == found[1]


def test_a_call_without_an_end_is_given_up_and_one_that_never_was_up_has_no_row(rig: Rig) -> None:
    rig.take(message("s1", "evt", CallStarted(session_id="s1"), 1, 0.0))
    rig.take(message("s2", "evt", CallEnded(reason="failed"), 1, 0.0))
    rig.clock.now += FORGOTTEN_S + MARGIN_S
    rig.written()
    (call,) = rows(rig.directory, "calls")
    assert (call["session_id"], call["ended_at"], call["end_reason"], call["duration_s"]) == ("s1", None, None, None)


def test_a_turn_that_comes_after_its_calls_row_has_a_row(rig: Rig) -> None:
    bridge, owner = call_of("s1")
    rig.take(*bridge, *owner[:-1], completed("s1", 6))
    rig.written()
    assert [row["turn"] for row in rows(rig.directory, "turns")] == [1]
    rig.take(owner[-1], *owner)
    rig.clock.now += KEPT_S + MARGIN_S
    rig.written()
    assert [row["turn"] for row in rows(rig.directory, "turns")] == [1, 2]
    assert len(rows(rig.directory, "calls")) == 1


def test_a_turn_that_a_takeover_has_made_void_gives_way_to_the_one_that_was_heard(rig: Rig) -> None:
    changed = OwnerChanged(epoch=9, runner="r2", last_owner_index=1, takeover=1)
    rig.take(
        message("s1", "evt", CallStarted(session_id="s1"), 1, 0.0),
        message("s1", "run", TurnCompleted(turn_id=1, ttfa_ms=1.0), 1, 1.0),
        message("s1", "run", TurnCompleted(turn_id=2, ttfa_ms=2.0), 2, 2.0),
        message("s1", "run", ToolCalled(name="book", call_id="t1", turn_id=3), 3, 2.5),
        message("s1", "ack", changed, 2, 3.0, epoch=1),
        message("s1", "run", TurnCompleted(turn_id=2, ttfa_ms=22.0), 2, 4.0, epoch=9),
        message("s1", "evt", CallEnded(reason="hangup"), 3, 9.0),
        message("s1", "run", CallCompleted(call_id="c", agent_id=AGENT, runner_id="r2", reason=""), 3, 9.5, epoch=9),
    )
    rig.written()
    assert [(row["turn"], row["ttfa_ms"]) for row in rows(rig.directory, "turns")] == [(1, 1.0), (2, 22.0)]
    assert rows(rig.directory, "tools") == []


@pytest.mark.parametrize(("named", "found"), [(1, 800.0), (7, None), ("node", None), (None, None), (2**70, None)])
def test_figures_that_come_after_their_turn_are_in_its_row(rig: Rig, named: object, found: float | None) -> None:
    rig.take(
        message("s1", "evt", CallStarted(session_id="s1"), 1, 0.0),
        message("s1", "evt", UserText(text="hello"), 2, 0.5),
        message("s1", "run", TurnCompleted(turn_id=1, llm_ttft_ms=200.0), 1, 3.0),
        message("s1", "evt", UserText(text="and"), 3, 4.0),
        message("s1", "evt", TurnMetrics(turn_id=named, ttfa_ms=800.0, llm_ttft_ms=999.0), 4, 5.0),
        message("s1", "evt", CallEnded(reason="hangup"), 5, 9.0),
        completed("s1", 2),
    )
    rig.written()
    (turn,) = rows(rig.directory, "turns")
    assert (turn["ttfa_ms"], turn["llm_ttft_ms"]) == (found, 200.0)


def test_tools_are_matched_by_id_else_by_name_and_one_that_never_returns_is_told(rig: Rig) -> None:
    rig.take(
        message("s1", "evt", CallStarted(session_id="s1"), 1, 0.0),
        message("s1", "run", ToolCalled(name="book", call_id="t1", turn_id=1), 1, 1.0),
        message("s1", "run", ToolCalled(name="look", turn_id=1), 2, 1.0),
        message("s1", "run", ToolCalled(name="hang", call_id="t3", turn_id=2), 3, 2.0),
        message("s1", "run", ToolReturned(name="look", turn_id=1), 4, 1.5),
        message("s1", "run", ToolReturned(name="book", call_id="t1", turn_id=1), 5, 3.0),
        message("s1", "run", ToolReturned(name="book", call_id="t1", turn_id=1), 6, 4.0),
        message("s1", "evt", CallEnded(reason="hangup"), 2, 9.0),
        completed("s1", 7),
    )
    rig.written()
    found = [(row["number"], row["call_id"], row["turn"], row["duration_ms"]) for row in rows(rig.directory, "tools")]
    assert found == [(1, "t1", 1, 2000.0), (2, None, 1, 500.0), (3, "t3", 2, None)]


@pytest.mark.parametrize("texts", [False, True])
def test_what_was_said_is_written_only_where_it_is_asked_for(tmp_path: Path, *, texts: bool) -> None:
    rig = Rig(tmp_path, texts=texts)
    said = TurnCompleted(turn_id=1, user_text="my card", agent_text="A long reply.", heard_text="A long")
    rig.call("s1", said)
    rig.written()
    (turn,) = rows(rig.directory, "turns")
    assert (turn["user_chars"], turn["agent_chars"], turn["heard_chars"]) == (7, 13, 6)
    assert (turn["user_text"], turn["heard_text"]) == (("my card", "A long") if texts else (None, None))


def test_what_is_no_figure_and_no_text_costs_its_cell_and_nothing_else(rig: Rig) -> None:
    odd = TurnCompleted(
        turn_id=1,
        ttfa_ms=1e308,
        tokens_in=2**70,
        started_at=1e300,
        ended_at=-5.0,
        model="m\u0000",
        from_node="\N{PILE OF POO}",
    )
    rig.call("s1", odd, ToolCalled(name="\N{PILE OF POO}", turn_id=2**70), ToolReturned(name="x", turn_id=-(2**70)))
    with pytest.raises(ProtocolViolation):
        rig.projection.take(
            replace(message("s2", "evt", CallStarted(session_id="s2"), 1, 0), data=b"[" * 99_999, seq=9)
        )
    rig.projection.park(replace(message("s2", "evt", CallStarted(session_id="s2"), 1, 0), seq=9), "malformed")
    rig.written()
    (turn,) = rows(rig.directory, "turns")
    assert (turn["tokens_in"], turn["started_at"], turn["from_node"]) == (None, None, "\N{PILE OF POO}")


def test_files_are_sealed_when_there_are_enough_rows_or_they_are_old_enough(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_rows=10)
    for n in range(5):
        bridge, owner = call_of(f"s{n}")
        rig.take(*bridge, *owner, completed(f"s{n}", 6))
    assert rig.projection.publish(0)  # sealed, to be stored
    assert everything(tmp_path) == {"calls": [], "turns": [], "tools": []}
    assert rig.projection.publish(0)  # stored, so they are written
    assert (len(rows(tmp_path, "calls")), len(rows(tmp_path, "turns"))) == (5, 10)
    assert not rig.projection.publish(0)


def test_a_disk_that_takes_nothing_stops_the_taking_and_loses_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_rows=4)
    (tmp_path / "turns").write_text("in the way")
    for n in range(2):
        bridge, owner = call_of(f"s{n}")
        rig.take(*bridge, *owner, completed(f"s{n}", 6))
        while rig.projection.publish(0):
            pass
    rig.call("s2", TurnCompleted(turn_id=1), TurnCompleted(turn_id=2))
    room = [rig.projection.has_room]
    rig.call("s3", TurnCompleted(turn_id=1), TurnCompleted(turn_id=2))
    room.append(rig.projection.has_room)
    assert room == [True, False]
    (tmp_path / "turns").unlink()
    rig.written()
    rig.written()
    assert rig.projection.has_room
    assert len(rows(tmp_path, "turns")) == 8


def test_a_full_disk_leaves_nothing_behind_and_says_what_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    rig.call("s1", TurnCompleted(turn_id=1))
    while rig.projection.publish(0):
        pass
    rig.clock.now += 60
    rig.projection.publish(0)  # sealed
    run = msgspec.msgpack.decode(zlib.decompress(rig.projection.dump()))["run"]
    folder = tmp_path / "calls" / "day=2023-11-14"
    folder.mkdir(parents=True)
    (folder / f".part-{run}-00000001.tmp").symlink_to("/dev/full")
    rig.projection.publish(0)
    assert list(folder.iterdir()) == []
    assert "nothing is lost" in caplog.text
    assert "No space left on device), free space there" in caplog.text
    rig.written()
    assert len(rows(tmp_path, "calls")) == 1


def test_a_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.call("s1", TurnCompleted(turn_id=1))
    first.written()
    assert rows(tmp_path, "turns")
    with pytest.raises(ConfigurationError, match=r"another run .* --directory"):
        Rig(tmp_path).projection.publish(0)
    again = Rig(tmp_path)
    again.projection.load(first.projection.dump())
    again.projection.publish(0)


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "turns" / "day=2023-11-14"
    folder.mkdir(parents=True)
    (folder / ".part-ab-00000001.tmp").write_bytes(b"half")
    Rig(tmp_path).projection.publish(0)
    assert list(folder.iterdir()) == []


def test_a_checkpoint_of_another_version_is_no_reason_to_begin_anew(rig: Rig) -> None:
    with pytest.raises(ConfigurationError, match="another version"):
        rig.projection.load(b"x")


@pytest.mark.parametrize("table", list(TABLES))
def test_each_column_has_a_type(table: str) -> None:
    names = [column.name for column in TABLES[table]]  # type: ignore[index]
    assert len(set(names)) == len(names)
    assert pa.string() in schema(table).types  # type: ignore[arg-type]
