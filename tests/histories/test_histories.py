"""Calls that released versions have recorded: this one must read them as those did."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from tests.histories.recorder import CALLS, essence, read_history, record

from unpod.core import codec
from unpod.core.codec import Record
from unpod.core.envelope import VERSION
from unpod.core.events import Unknown
from unpod.core.replay.ordering import merge
from unpod.core.state import fold

HERE = Path(__file__).parent
THIS_VERSION = HERE / f"v{version('unpod')}"
HISTORIES = sorted(HERE.glob("v*/*.jsonl"))


def expected_of(path: Path) -> dict[str, object]:
    return msgspec.json.decode(path.with_suffix(".expected.json").read_bytes(), type=dict[str, object])


def test_this_version_has_recorded_its_calls() -> None:
    assert {path.stem for path in HISTORIES if path.parent == THIS_VERSION} == set(CALLS)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recorded_call_is_read_as_it_was_when_it_was_recorded(path: Path) -> None:
    assert essence(fold(read_history(path))) == expected_of(path)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_does_not_matter_where_a_reader_stops_and_goes_on(path: Path) -> None:
    records = read_history(path)
    whole = fold(records)
    for cut in range(len(records)):
        assert fold(records[cut:], fold(records[:cut])) == whole


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_record_says_again_what_it_said(path: Path) -> None:
    """Nothing of a payload that this version knows is lost when it is written again."""
    for record_ in read_history(path):
        if not isinstance(record_.body, Unknown):
            assert _again(record_) == record_.body


def _again(record_: Record) -> codec.Body:
    event_type = record_.envelope.type.partition(".")[2]
    return codec.decode(record_.channel, event_type, VERSION, codec.encode(record_.body))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nothing_of_what_was_withheld_stands_in_it(path: Path) -> None:
    assert b"4111" not in path.read_bytes()
    assert b'withheld\\":true' in path.read_bytes() or path.stem != "conversation"


@pytest.mark.parametrize("name", CALLS)
def test_this_version_still_comes_to_what_it_has_recorded(name: str, tmp_path: Path) -> None:
    fresh = record(name, tmp_path)
    found, expected = expected_of(fresh), expected_of(THIS_VERSION / f"{name}.jsonl")
    # How many records there are is no promise; what they come to is.
    assert {key: value for key, value in found.items() if key != "indexes"} == {
        key: value for key, value in expected.items() if key != "indexes"
    }
    assert fold(merge(reversed(read_history(fresh)))) == fold(read_history(fresh))
