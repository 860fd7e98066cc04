"""What the collector of Python does in a process that we run."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from unpod.event_loop import FULL_COLLECTION_AFTER, MIDDLE_COLLECTION_AFTER, YOUNG_COLLECTION_AFTER, run_main


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    """Give the collector's thresholds back."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


async def _thresholds() -> tuple[int, int, int]:
    return gc.get_threshold()


def test_a_process_collects_rarely_and_everything_very_rarely(thresholds: tuple[int, int, int]) -> None:
    gc.set_threshold(700, 10, 10)
    assert run_main(_thresholds()) == (YOUNG_COLLECTION_AFTER, MIDDLE_COLLECTION_AFTER, FULL_COLLECTION_AFTER)
    assert gc.get_threshold() == (700, 10, 10)


def test_who_collects_more_rarely_yet_or_never_goes_on_with_that(thresholds: tuple[int, int, int]) -> None:
    for rare in ((0, 5, FULL_COLLECTION_AFTER + 1), (YOUNG_COLLECTION_AFTER + 1, 20, FULL_COLLECTION_AFTER)):
        gc.set_threshold(*rare)
        assert run_main(_thresholds()) == rare


def test_the_collector_is_set_back_after_a_failure_too(thresholds: tuple[int, int, int]) -> None:
    async def fails() -> None:
        raise LookupError

    gc.set_threshold(700, 10, 10)
    with pytest.raises(LookupError):
        run_main(fails())
    assert gc.get_threshold() == (700, 10, 10)


def test_new_objects_that_refer_to_themselves_are_still_collected() -> None:
    collected: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            collected.append(info["generation"])

    async def makes_garbage() -> None:
        for _ in range(12 * YOUNG_COLLECTION_AFTER):
            ring: list[object] = []
            ring.append(ring)

    gc.collect()
    gc.callbacks.append(note)
    try:
        run_main(makes_garbage())
    finally:
        gc.callbacks.remove(note)
    assert {0, 1} <= set(collected)
    assert 2 not in collected
