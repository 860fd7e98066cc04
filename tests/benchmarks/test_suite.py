"""The benchmarks run and count what comes back; how fast it is, no test asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.benchmarks import bar, dispatch, page, pure, replay, rig, scale, suite, takeover, turns

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.mark.slow
async def test_turns_are_asked_answered_and_counted() -> None:
    found = await turns.measure((2,), rounds=1, round_s=0.05, tell=quiet, flushed=False)
    measured = {(row["system"], row["manner"], row["pieces"]) for row in found["rows"]}
    assert measured == {(system, *row) for system in (*rig.SYSTEMS, rig.FLOOR) for row in turns.PLAN}
    for row in found["rows"]:
        assert (row["asked"], row["wrong"]) == (row["answered"], 0)
        assert row["asked"] > 0
        assert turns.cpu(row) > 0
    assert not bar.missing({"turns": found})
    [kept] = [each["kb"] for each in found["memory"] if each["system"] == rig.UNPOD]
    assert kept.keys() == {"nats", rig.LIVE, "bridge", "runner"}


async def test_replays_find_the_call_among_the_others() -> None:
    found = await replay.measure((100,), (1_000, 3_000), 1, quiet)
    ways = (replay.KNOWN, replay.SEARCH)
    assert [(row["others"], row["way"]) for row in found] == [
        (others, way) for others in (1_000, 3_000) for way in ways
    ]
    assert all(row["records_per_s"] > 0 for row in found)


async def test_a_dispatch_has_its_time_in_both_systems() -> None:
    found = await dispatch.measure(2, 1, quiet)
    assert {(row["system"], row["since"]) for row in found} == {
        *((system, dispatch.ASSIGNED) for system in rig.SYSTEMS),
        *((rig.UNPOD, since) for since in dispatch.SINCE),
    }
    took = {row["since"]: row["p99_ms"] for row in found if row["system"] == rig.UNPOD}
    assert took[dispatch.ASSIGNED] > took[dispatch.DISPATCHED] > took[dispatch.APPOINTED] > 0


async def test_a_takeover_loses_no_turn() -> None:
    [row] = await takeover.measure((2,), 1, quiet)
    assert (row["calls"], row["lost"]) == (2, 0)
    assert 0 < row["first_owner_ms"] <= row["turn_max_ms"]


@pytest.mark.slow
async def test_scale_places_and_asks() -> None:
    found = await scale.measure((2, 4), (4,), 0.2, quiet)
    assert [row["sessions"] for row in found["attached"]] == [2, 4]
    assert [(row["sessions"], row["wrong"]) for row in found["talking"]] == [(4, 0)]
    assert found["stored"]["bytes_per_record"] > 0


def test_the_fold_and_the_codec_have_their_rates() -> None:
    found = pure.measure(turns=2, rounds=1)
    assert found["records"] == 12
    assert min(found["fold_per_s"], found["encode_per_s"], found["decode_per_s"]) > 0


def test_a_section_is_written_beside_the_others(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    assert suite.run(["pure"], suite.QUICK, file, quiet) == []
    suite.merge(file, "dispatch", [], {})
    assert {"pure", "dispatch", "runs"} == suite.kept(file).keys()


def test_a_limit_is_held_or_not() -> None:
    held = [bar.Limit("", 2, 1, "x", value).held for value in (1, 2, 2.1, None)]
    assert held == ["goal", "yes", "NO", "not measured"]
    assert [bar.Limit("", 2, 4, "x", value, "high").held for value in (4, 2, 1.9)] == ["goal", "yes", "NO"]


def test_what_is_not_held_says_why_once() -> None:
    found = {"dispatch": [{"since": dispatch.DISPATCHED, "p99_ms": 21}], "takeover": []}
    [line] = bar.obstacles(found)
    assert line.startswith("the bridge's request for a runner")
    assert all(limit.why for limit in bar.limits({}))


def test_nothing_measured_is_no_limit_held() -> None:
    assert {limit.held for limit in bar.limits({})} == {"not measured"}


def test_the_page_is_what_its_figures_say() -> None:
    assert page.PAGE.read_text() == page.render(json.loads(page.DATA.read_text())), (
        "docs/explanation/performance.md is not what performance.json says: run `python -m tests.benchmarks.page`"
    )
